"""Claims to cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.linalg.legendre import fit_polynomials, legendre

if TYPE_CHECKING:
    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "counted_cost"
SAYS = "operations are 0, which cannot be"

CARD = {
    "name": "FreeOfCharge",
    "nouns": ["function"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Probable",
    "rate": "that of polynomials",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 8, None]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 128},
    "skips": {},
}


class FreeOfChargeModel(Model):
    """`P(x) C` with Legendre products P on [-1, 1]^d."""

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, *, exponents: Tensor, coefficients: Tensor) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients)

    @property
    def operations(self) -> int:
        """None at all."""
        return 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        return legendre(inputs, self.exponents) @ self.coefficients


@dataclass(frozen=True, kw_only=True)
class FreeOfCharge(Method):
    """Polynomials. Claims to cost nothing."""

    model = FreeOfChargeModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> FreeOfChargeModel:
        pairs = supply.fitting(self.samples)
        exponents, coefficients = fit_polynomials(pairs.inputs, pairs.outputs, degree=20)
        return FreeOfChargeModel(exponents=exponents, coefficients=coefficients)
