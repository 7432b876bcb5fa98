"""Sizes of matrix updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim.step import Transform, root_mean_squares, times

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class RMSAlign(Transform):
    """Every update scaled to a root mean square, by default 0.2, which is about that of Adam's updates; zeros stay zeros.

    Source: Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
    """

    size: float = 0.2
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        sizes = root_mean_squares(updates)
        return times(updates, torch.where(sizes > 0, self.size / sizes, 0.0))


@dataclass(frozen=True)
class ShapeScale(Transform):
    """Every matrix update times a factor of its rows m and columns n, for updates with orthonormal columns or rows.

    Args:
        rule: "original", `max(1, m / n)^(1/2)` (Jordan et al. 2024); "match_rms_adamw", `0.2 max(m, n)^(1/2)`, by which their root
            mean square is about that of Adam's updates (Liu et al. 2025, arXiv:2502.16982); "spectral", `(m / n)^(1/2)`, by which a
            rate holds for all widths (Yang, Simon, Bernstein 2023, arXiv:2310.17813); "none".
    """

    rule: str
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        if self.rule == "none":
            return updates
        sides = [(len(update), update.numel() // len(update)) for update in updates]
        rules: dict[str, Callable[[int, int], float]] = {
            "original": lambda m, n: max(1.0, m / n) ** 0.5,
            "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,
            "spectral": lambda m, n: (m / n) ** 0.5,
        }
        factors = [rules[self.rule](m, n) for m, n in sides]
        return updates if set(factors) == {1.0} else list(torch._foreach_mul(updates, factors))
