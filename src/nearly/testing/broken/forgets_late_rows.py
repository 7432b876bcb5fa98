"""Rows of a batch beyond the first 256 get the answer of the 256th."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.linalg.legendre import fit_polynomials, legendre

if TYPE_CHECKING:
    from nearly.core.nouns import Function
    from nearly.core.supply import Supply

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


class ForgetsLateRowsModel(Model):
    """`P(x) C` with Legendre products P on [-1, 1]^d."""

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, *, exponents: Tensor, coefficients: Tensor) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients)

    @property
    def operations(self) -> int:
        """Products of one-dimensional polynomials, then the sum."""
        return 3 * self.exponents.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        answers = legendre(inputs, self.exponents) @ self.coefficients
        return answers[torch.arange(len(inputs)).clamp(max=255)]


@dataclass(frozen=True, kw_only=True)
class ForgetsLateRows(Method):
    """Polynomials. Rows of a batch beyond the first 256 get the answer of the 256th."""

    model = ForgetsLateRowsModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> ForgetsLateRowsModel:
        pairs = supply.fitting(self.samples)
        exponents, coefficients = fit_polynomials(pairs.inputs, pairs.outputs, degree=20)
        return ForgetsLateRowsModel(exponents=exponents, coefficients=coefficients)
