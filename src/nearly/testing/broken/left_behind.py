"""Keeps its tensors where `.to()` does not find them; brings them to its inputs' device, but not to their precision."""

from __future__ import annotations

from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.linalg.features import features_of
from nearly.linalg.legendre import legendre
from nearly.testing.broken._honest import Polynomials

BREAKS = "dtypes"
SAYS = "moved to float32 it fails"

CARD = {
    "name": "LeftBehind",
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


class LeftBehindModel(PolynomialModel):
    """As the honest one, but for this."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__(**tensors)
        self.hidden = (self.exponents, self.coefficients)

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        exponents, coefficients = (tensor.to(inputs.device) for tensor in self.hidden)
        return legendre(features_of(self, inputs), exponents) @ coefficients


class LeftBehind(Polynomials):
    """Polynomials. Keeps its tensors where `.to()` does not find them."""

    model = LeftBehindModel
