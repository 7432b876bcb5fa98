"""Updates kept to a size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim.step import Transform, norms, root_mean_squares, times

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class ClipNorm(Transform):
    """All updates of a group scaled down together where their 2-norm is above `most`, as by `torch.nn.utils.clip_grad_norm_`."""

    most: float

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, of a norm of at most `most`."""
        factor = (self.most / norms(updates).norm()).clamp(max=1.0).nan_to_num(1.0)
        return list(torch._foreach_mul(updates, factor))


@dataclass(frozen=True)
class ClipRMS(Transform):
    """Every update divided by max(1, RMS / most), RMS its root mean square.

    Source: Shazeer, Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, section 6.
    """

    most: float = 1.0
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, each of a root mean square of at most `most`."""
        factors = (self.most / root_mean_squares(updates)).clamp(max=1.0).nan_to_num(1.0)
        return times(updates, factors)
