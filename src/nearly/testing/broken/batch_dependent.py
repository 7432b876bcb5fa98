"""Centers every batch a little, as a layer left in training mode does."""

from __future__ import annotations

from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

BREAKS = "batches"
SAYS = "with the batch they are asked in"

CARD = {
    "name": "BatchDependent",
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


class BatchDependentModel(PolynomialModel):
    """As the honest one, but for this."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        answers = super().forward(inputs)
        return answers + 1e-6 * answers.mean(dim=0)


class BatchDependent(Polynomials):
    """Polynomials. Centers every batch a little, as a layer left in training mode does."""

    model = BatchDependentModel
