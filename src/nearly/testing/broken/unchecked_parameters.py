"""Takes any parameter for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "bad_parameters"
SAYS = "is accepted, not refused by name"

CARD = {
    "name": "UncheckedParameters",
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
class UncheckedParameters(Method):
    """Polynomials. Takes any parameter for good."""

    model = PolynomialModel
    samples: int = 32

    def __post_init__(self) -> None:
        """Checks nothing."""

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        return PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
