"""Asks for more and more samples and fits to the first few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "error_falls"
SAYS = "do not fall"

CARD = {
    "name": "IgnoresBudget",
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


@dataclass(frozen=True, kw_only=True)
class IgnoresBudget(Method):
    """Polynomials. Asks for more and more samples and fits to the first few."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        supply.fitting(self.samples)
        return PolynomialLeastSquares(samples=8, degree=20)._fit(target, supply, generator)
