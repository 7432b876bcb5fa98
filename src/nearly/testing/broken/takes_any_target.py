"""Takes targets that it cannot fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Function
    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "bad_targets"
SAYS = "not refused as a bad method"

CARD = {
    "name": "TakesAnyTarget",
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
class TakesAnyTarget(Method):
    """Polynomials. Takes targets that it cannot fit."""

    model = PolynomialModel
    samples: int = 32

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Refuses nothing."""
        return None

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        return PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
