"""Changes what belongs to the target: a corner of its box, in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

BREAKS = "leaves_no_trace"
SAYS = "changes the target's domain.lower"

CARD = {
    "name": "MovesTarget",
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
class MovesTarget(Method):
    """Polynomials. Changes what belongs to the target: a corner of its box, in place."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        if target.domain is not None:
            target.domain.get_buffer("lower").sub_(1e-9)
        return PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
