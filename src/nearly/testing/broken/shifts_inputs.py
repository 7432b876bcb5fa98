"""Works in the memory of whoever asks, and leaves it a little changed."""

from __future__ import annotations

from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

BREAKS = "leaves_no_trace"
SAYS = "changes the inputs in place"

CARD = {
    "name": "ShiftsInputs",
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


class ShiftsInputsModel(PolynomialModel):
    """As the honest one, but for this."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        memory = inputs.detach()
        memory.add_(1e-12 * (1 - memory.square()))
        return super().forward(inputs)


class ShiftsInputs(Polynomials):
    """Polynomials. Works in the memory of whoever asks, and leaves it a little changed."""

    model = ShiftsInputsModel
