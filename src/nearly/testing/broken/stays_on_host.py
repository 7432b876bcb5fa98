"""Makes a tensor on the host whenever it answers."""

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

BREAKS = "follows_device"
SAYS = "on another device it fails"

CARD = {
    "name": "StaysOnHost",
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


class StaysOnHostModel(Model):
    """`P(x) C` with Legendre products P on [-1, 1]^d."""

    def __init__(self, *, exponents: Tensor, coefficients: Tensor) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients)

    @property
    def operations(self) -> int:
        """Products of one-dimensional polynomials, then the sum."""
        return 3 * self.exponents.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, each term times one of the host."""
        ones = torch.ones(len(self.exponents), dtype=inputs.dtype)
        return (legendre(inputs, self.exponents) * ones) @ self.coefficients


@dataclass(frozen=True, kw_only=True)
class StaysOnHost(Method):
    """Polynomials. Makes a tensor on the host whenever it answers."""

    model = StaysOnHostModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> StaysOnHostModel:
        pairs = supply.fitting(self.samples)
        exponents, coefficients = fit_polynomials(pairs.inputs, pairs.outputs, degree=20)
        return StaysOnHostModel(exponents=exponents, coefficients=coefficients)
