"""Polynomial least squares of bounded total degree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.domain import Box
from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.linalg.features import apply_features, features_of
from nearly.linalg.legendre import fit_polynomials, legendre

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "PolynomialLeastSquares",
    "nouns": ["function"],
    "rows": [],
    "replaces": "a smooth function of few variables",
    "certificate": "Probable",
    "rate": "exponential in the degree for analytic functions, degree^-k for k derivatives",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 4, None], "degree": ["integer", 0, 60]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 4096},
    "skips": {},
}


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


@dataclass(frozen=True, kw_only=True)
class PolynomialLeastSquares(Method):
    """Least squares on random points in tensor Legendre polynomials; the degree has the least exact leave-one-out error.

    On a box the polynomials are orthogonal under the drawing measure, log-uniform coordinates taken in logarithms; for data the
    box is the range of the rows. (Cohen, Davenport, Leviatan 2013, On the stability and accuracy of least squares
    approximations, doi:10.1007/s10208-013-9142-3: stable with high probability while the terms are few beside the samples.)

    Args:
        samples: points to fit.
        degree: the most total degree tried.

    Example:
        >>> from nearly.core.nouns import Function
        >>> exp = Function(lambda x: torch.exp(x), Box([0.0], [1.0]))
        >>> surrogate = PolynomialLeastSquares(samples=40).fit(exp)
        >>> abs(float(surrogate(torch.tensor([[0.0]], dtype=torch.float64))) - 1) < 1e-9
        True
    """

    model = PolynomialModel
    samples: int = 256
    degree: int = 20

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        pairs = supply.fitting(self.samples)
        box = target.domain if isinstance(target.domain, Box) else _range(pairs.inputs)
        features = _scaling(box, pairs.inputs)
        scaled = apply_features(pairs.inputs, **features)
        outputs = pairs.outputs.reshape(len(pairs), -1)
        exponents, coefficients = fit_polynomials(scaled, outputs, self.degree)
        return PolynomialModel(exponents=exponents, coefficients=coefficients, **features)


def _scaling(box: Box, like: Tensor) -> dict[str, Tensor]:
    """The map of the box onto [-1, 1]^d, as `nearly.linalg.features` applies it."""
    low, high = (torch.where(box.log, end.clamp(min=1e-300).log(), end).to(like) for end in (box.lower, box.upper))
    return {
        "feature_log": box.log.to(like.device),
        "feature_shift": (high + low) / 2,
        "feature_scale": (high - low) / 2,
        "feature_axes": like.new_zeros(0, 0),
    }


def _range(inputs: Tensor) -> Box:
    low, high = inputs.amin(dim=0), inputs.amax(dim=0)
    flat = high <= low
    return Box(torch.where(flat, low - 1, low), torch.where(flat, high + 1, high))
