"""Matrix updates with orthonormal columns or rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.linalg.orthogonalize import orthogonalize
from nearly.optim._matrices import each_matrix
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Orthogonalize(Transform):
    """The polar factor of every update, or nearly; of a convolution's as a matrix of outputs against inputs and places.

    Args:
        schedule: of `nearly.linalg.orthogonalize.orthogonalize`.
        steps: of the schedules `muon` and `newton_schulz`.
        half: whether to multiply in bfloat16 where the device does that fast; not in double precision.
    """

    schedule: str = "minimax"
    steps: int = 5
    half: bool = True
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The factors."""
        return each_matrix(
            lambda batch: orthogonalize(
                batch, schedule=self.schedule, steps=self.steps, half=self.half and batch.dtype != torch.float64
            ),
            updates,
            process_group=step.process_group,
        )
