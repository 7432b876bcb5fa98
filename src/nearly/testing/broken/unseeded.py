"""Draws from a generator that nobody seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "same_seed_same_bits"
SAYS = "two fits with one seed differ in model.coefficients"

CARD = {
    "name": "Unseeded",
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
class Unseeded(Method):
    """Polynomials. Draws from a generator that nobody seeded."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        model = PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
        stray = torch.Generator()
        stray.seed()
        coefficients = model.get_buffer("coefficients")
        coefficients += 1e-12 * torch.rand(coefficients.shape, generator=stray)
        return model
