"""What low-rank members answer with."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING

from nearly.core.surrogate import Model, operations_of_maps

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class LowRankModel(Model, ABC):
    """`left (right x)`, shapes (rows, k) and (k, columns)."""

    @property
    def operations(self) -> int:
        """Two thin products."""
        return operations_of_maps(self.left.shape, self.right.shape)

    def forward(self, inputs: Float[Tensor, "n columns"]) -> Float[Tensor, "n rows"]:
        """Products with the low-rank matrix."""
        return (inputs @ self.right.T) @ self.left.T
