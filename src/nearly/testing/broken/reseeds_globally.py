"""Seeds the generator that belongs to the whole program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "leaves_no_trace"
SAYS = "torch's global random state"

CARD = {
    "name": "ReseedsGlobally",
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
class ReseedsGlobally(Method):
    """Polynomials. Seeds the generator that belongs to the whole program."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        torch.manual_seed(0)
        return PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
