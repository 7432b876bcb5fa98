"""Makes a tensor on the host whenever it answers."""

from __future__ import annotations

import torch
from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

BREAKS = "follows_device"
SAYS = "on another device it fails"

CARD = {
    "name": "StaysOnHost",
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


class StaysOnHostModel(PolynomialModel):
    """As the honest one, but for this."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, times a one of the host."""
        return super().forward(inputs) * torch.ones(1, dtype=inputs.dtype)


class StaysOnHost(Polynomials):
    """Polynomials. Makes a tensor on the host whenever it answers."""

    model = StaysOnHostModel
