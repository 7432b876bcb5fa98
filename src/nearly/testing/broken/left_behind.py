"""Keeps its tensors where `.to()` does not find them; brings them to its inputs' device, but not to their precision."""

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


class LeftBehindModel(Model):
    """`P(x) C` with Legendre products P on [-1, 1]^d."""

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, *, exponents: Tensor, coefficients: Tensor) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients)
        self.hidden = (self.exponents, self.coefficients)

    @property
    def operations(self) -> int:
        """Products of one-dimensional polynomials, then the sum."""
        return 3 * self.exponents.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        exponents, coefficients = (tensor.to(inputs.device) for tensor in self.hidden)
        return legendre(inputs, exponents) @ coefficients


@dataclass(frozen=True, kw_only=True)
class LeftBehind(Method):
    """Polynomials. Keeps its tensors where `.to()` does not find them."""

    model = LeftBehindModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> LeftBehindModel:
        pairs = supply.fitting(self.samples)
        exponents, coefficients = fit_polynomials(pairs.inputs, pairs.outputs, degree=20)
        return LeftBehindModel(exponents=exponents, coefficients=coefficients)
