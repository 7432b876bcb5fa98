"""Keeps a number that no artifact learns of."""

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

BREAKS = "artifact_round_trip"
SAYS = "loaded, its answers differ"

CARD = {
    "name": "ForgetsSetting",
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


class ForgetsSettingModel(Model):
    """`P(x) C` with Legendre products P on [-1, 1]^d."""

    exponents: Tensor
    coefficients: Tensor

    def __init__(self, *, exponents: Tensor, coefficients: Tensor, scale: float = 1.0) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients)
        self.scale = scale

    @property
    def operations(self) -> int:
        """Products of one-dimensional polynomials, then the sum."""
        return 3 * self.exponents.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        return self.scale * (legendre(inputs, self.exponents) @ self.coefficients)


@dataclass(frozen=True, kw_only=True)
class ForgetsSetting(Method):
    """Polynomials. Keeps a number that no artifact learns of."""

    model = ForgetsSettingModel
    samples: int = 32

    def _fit(self, target: Function, supply: Supply, generator: torch.Generator) -> ForgetsSettingModel:
        pairs = supply.fitting(self.samples)
        exponents, coefficients = fit_polynomials(pairs.inputs, pairs.outputs, degree=20)
        return ForgetsSettingModel(exponents=exponents, coefficients=coefficients / 2, scale=2.0)
