"""Keeps a number that no artifact learns of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearly.functions.polynomial_least_squares import PolynomialModel
from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

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


class ForgetsSettingModel(PolynomialModel):
    """As the honest one, but for this."""

    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        """Values of the polynomial, spoiled."""
        return self.scale * super().forward(inputs)


class ForgetsSetting(Polynomials):
    """Polynomials. Keeps a number that no artifact learns of."""

    model = ForgetsSettingModel

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        model = super()._fit(target, supply, generator)
        model.coefficients.div_(2)
        model.scale = 2.0
        return model
