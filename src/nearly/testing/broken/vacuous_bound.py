"""Its bound is true and useless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.matrices.truncated_svd import TruncatedSVD, TruncatedSVDModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Matrix
    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "certificate_sharp"
SAYS = "the bound is"

CARD = {
    "name": "VacuousBound",
    "nouns": ["matrix"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Bound",
    "rate": "that of the singular values",
    "cost": "two thin products",
    "parameters": {"rank": ["integer", 1, None]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 16},
    "skips": {},
}


class VacuousBoundModel(Model):
    """`U S V^T x`, as `TruncatedSVD` has it."""

    theorem = "none: it is wrong on purpose"
    left: Tensor
    right: Tensor
    tail: Tensor
    largest: Tensor

    def __init__(self, *, left: Tensor, right: Tensor, tail: Tensor, largest: Tensor) -> None:
        super().__init__(left=left, right=right, tail=tail, largest=largest)

    @property
    def operations(self) -> int:
        """Two thin products."""
        return 2 * (self.left.numel() + self.right.numel())

    def forward(self, inputs: Tensor) -> Tensor:
        """Products with the low-rank matrix."""
        return (inputs @ self.right.T) @ self.left.T

    def bound(self, inputs: Tensor) -> Tensor:
        """The true bound, spoiled."""
        honest = TruncatedSVDModel(left=self.left, right=self.right, tail=self.tail, largest=self.largest)
        return 1000.0 * honest.bound(inputs)


@dataclass(frozen=True, kw_only=True)
class VacuousBound(Method):
    """Truncated singular values. Its bound is true and useless."""

    model = VacuousBoundModel
    rank: int = 4

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """As the member that it is made of."""
        return super().refuses(target) or TruncatedSVD.refuses(target)

    def _fit(self, target: Matrix, supply: Supply, generator: torch.Generator) -> VacuousBoundModel:
        honest = TruncatedSVD(rank=self.rank)._fit(target, supply, generator)
        return VacuousBoundModel(**honest.state_dict())
