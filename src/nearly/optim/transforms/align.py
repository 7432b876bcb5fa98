"""Sizes of matrix updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.optim.step import Transform, norms

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class RMSAlign(Transform):
    """Every update scaled to a root mean square, by default 0.2, which is about that of Adam's updates; zeros stay zeros.

    Source: Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
    """

    size: float = 0.2

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        sizes = norms(updates)
        roots = torch.tensor([update.numel() ** 0.5 for update in updates], dtype=sizes.dtype, device=sizes.device)
        factors = torch.where(sizes > 0, self.size * roots / sizes, 0.0)
        return list(torch._foreach_mul(updates, list(factors.to(updates[0].dtype).unbind())))
