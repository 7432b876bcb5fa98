"""Updates as long as a share of what they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim.step import Transform, norms, times

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class TrustRatio(Transform):
    r"""Every update times $||p|| / ||u||$ of its parameter p, at most `most`; as it is where either is zero.

    After Adam's directions this is LAMB, after gradients LARS.

    Source: You et al. 2020, "Large Batch Optimization for Deep Learning", arXiv:1904.00962, algorithm 2.

    Args:
        most: limit of the ratio.
    """

    most: float = 10.0
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        sizes, lengths = norms(step.parameters), norms(updates)
        known = (sizes > 0) & (lengths > 0)
        ratios = torch.where(known, sizes / torch.where(known, lengths, 1.0), 1.0)
        return times(updates, ratios.clamp(max=self.most))
