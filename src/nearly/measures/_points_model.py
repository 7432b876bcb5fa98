"""What thinning gives: a few weighted points in place of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nearly.core.nouns.measure import waves
from nearly.core.surrogate import Model

if TYPE_CHECKING:
    from jaxtyping import Float


class PointsModel(Model):
    """Weighted points."""

    def __init__(self, *, points: Tensor, weights: Tensor) -> None:
        super().__init__(points=points, weights=weights)

    @property
    def operations(self) -> int:
        """One inner product and one cosine per point."""
        return 2 * self.points.numel() + 20 * len(self.points)

    def forward(self, inputs: Float[Tensor, "n k"]) -> Float[Tensor, "n 1"]:
        """Expectations of the test functions."""
        return (waves(inputs, self.points) @ self.weights)[:, None]
