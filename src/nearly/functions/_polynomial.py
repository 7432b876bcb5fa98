"""What polynomial methods share: the model, and the map of a target's box, or of the range of its data, onto [-1, 1]^d."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.domain import Box
from nearly.core.surrogate import Model, operations_of_maps
from nearly.linalg.features import features_of, some
from nearly.linalg.legendre import legendre

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.target import Target


class PolynomialModel(Model):
    """`P(x) C` with Legendre products P on the box scaled to [-1, 1]^d."""

    def __init__(self, *, exponents: Tensor, coefficients: Tensor, **features: Tensor) -> None:
        super().__init__(exponents=exponents, coefficients=coefficients, **features)

    @property
    def operations(self) -> int:
        """Products of one-dimensional polynomials, then the sum."""
        return self.exponents.numel() + operations_of_maps(self.coefficients.shape)

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Values of the polynomial."""
        scaled = features_of(self, inputs)
        return legendre(scaled, self.exponents) @ self.coefficients


def scaling(target: Target, inputs: Float[Tensor, "n d"]) -> dict[str, Tensor]:
    """The map of the target's box, else of the inputs' range, onto [-1, 1]^d, as `nearly.linalg.features` applies it."""
    box = target.domain if isinstance(target.domain, Box) else _range(inputs)
    low, high = (torch.where(box.log, end.clamp(min=1e-300).log(), end).to(inputs) for end in (box.lower, box.upper))
    return {
        "feature_log": some(box.log.to(inputs.device)),
        "feature_shift": (high + low) / 2,
        "feature_scale": (high - low) / 2,
        "feature_axes": inputs.new_zeros(0, 0),
    }


def _range(inputs: Tensor) -> Box:
    low, high = inputs.amin(dim=0), inputs.amax(dim=0)
    flat = high <= low
    return Box(torch.where(flat, low - 1, low), torch.where(flat, high + 1, high))
