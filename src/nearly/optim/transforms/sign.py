"""Signs of updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Sign(Transform):
    """The sign of every entry: the steepest descent of unit size in the largest entry; 0 stays 0."""

    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The signs."""
        return list(torch._foreach_sign(updates))
