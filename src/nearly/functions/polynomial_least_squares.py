"""Polynomial least squares of bounded total degree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions._polynomial import PolynomialModel as PolynomialModel
from nearly.functions._polynomial import scaling
from nearly.linalg.features import apply_features
from nearly.linalg.legendre import fit_polynomials

if TYPE_CHECKING:
    import torch

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
        >>> import torch
        >>> from nearly.core.domain import Box
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
        features = scaling(target, pairs.inputs)
        scaled = apply_features(pairs.inputs, **features)
        outputs = pairs.outputs.reshape(len(pairs), -1)
        exponents, coefficients = fit_polynomials(scaled, outputs, self.degree)
        return PolynomialModel(exponents=exponents, coefficients=coefficients, **features)
