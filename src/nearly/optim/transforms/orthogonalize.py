"""Matrix updates with orthonormal columns or rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.linalg.orthogonalize import polar_factor
from nearly.optim._matrices import each_matrix
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Orthogonalize(Transform):
    """The polar factor of every update, a convolution's as a matrix of outputs against inputs and places.

    Args:
        route: see `nearly.linalg.orthogonalize`.
    """

    route: str = "minimax"

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The factors."""
        return each_matrix(
            lambda batch: polar_factor(batch, route=self.route, tolerance=0.3, check=False).value,
            updates,
            process_group=step.process_group,
        )
