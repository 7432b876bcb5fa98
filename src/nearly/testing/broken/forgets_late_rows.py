"""Rows of a batch beyond the first 256 get the answer of the 256th."""

from __future__ import annotations

import torch
from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

BREAKS = "certificate_holds"
SAYS = "certificates do not hold"

CARD = {
    "name": "ForgetsLateRows",
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


class ForgetsLateRowsModel(PolynomialModel):
    """As the honest one, but for this."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        return super().forward(inputs)[torch.arange(len(inputs)).clamp(max=255)]


class ForgetsLateRows(Polynomials):
    """Polynomials. Rows of a batch beyond the first 256 get the answer of the 256th."""

    model = ForgetsLateRowsModel
