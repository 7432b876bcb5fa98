"""Claims to cost nothing."""

from __future__ import annotations

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

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


class FreeOfChargeModel(PolynomialModel):
    """As the honest one, but for this."""

    @property
    def operations(self) -> int:
        """None at all."""
        return 0


class FreeOfCharge(Polynomials):
    """Polynomials. Claims to cost nothing."""

    model = FreeOfChargeModel
