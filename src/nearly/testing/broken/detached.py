"""A part of its answer hides from automatic differentiation."""

from __future__ import annotations

from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

BREAKS = "differentiable"
SAYS = "automatic derivatives differ"

CARD = {
    "name": "Detached",
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


class DetachedModel(PolynomialModel):
    """As the honest one, but for this."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        answers = super().forward(inputs)
        return answers / 2 + answers.detach() / 2


class Detached(Polynomials):
    """Polynomials. A part of its answer hides from automatic differentiation."""

    model = DetachedModel
