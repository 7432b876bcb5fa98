"""Its card keeps its rate to itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "card_complete"
SAYS = "the card lacks 'rate'"

CARD = {
    "name": "IncompleteCard",
    "nouns": ["function"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Probable",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 8, None]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 128},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class IncompleteCard(Method):
    """Polynomials. Its card keeps its rate to itself."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        return PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
