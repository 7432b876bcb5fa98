"""One transform's directions with another's sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.optim.step import Transform, norms
from nearly.optim.transforms.moments import Moments, SecondMoment

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Graft(Transform):
    r"""$d\, ||s|| / ||d||$ in Frobenius norms, tensor by tensor; zero where d is. The rate of s, and its schedule, then serve d.

    Source: Agarwal, Anil, Hazan, Koren, Zhang 2020, "Disentangling Adaptive Gradient Methods from Learning Rates",
    arXiv:2002.11803, algorithm 1.

    Args:
        direction: makes d of the updates.
        size: makes s; None for the updates themselves.
    """

    direction: Transform
    size: Transform | None = None

    @property
    def separate(self) -> bool:  # type: ignore[override]
        """Where both are."""
        parts = (self.direction,) if self.size is None else (self.direction, self.size)
        return all(part.separate or part.elementwise for part in parts)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions, resized."""
        found = self.direction(updates, step)
        sizes = norms(updates if self.size is None else self.size(updates, step))
        lengths = norms(found)
        factors = torch.where(lengths > 0, sizes / lengths, 0.0).to(found[0].dtype)
        return list(torch._foreach_mul(found, list(factors.unbind())))


def grafted(direction: Transform, size: str, betas: tuple[float, float], eps: float) -> Transform:
    """Directions of the size of another step: "gradient", "rmsprop" or "adam"; or of their own, "none"."""
    if size == "none":
        return direction
    sizes = {"rmsprop": SecondMoment(betas[1], eps), "adam": Moments(betas, eps)}
    return Graft(direction, sizes.get(size))
