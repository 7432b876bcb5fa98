"""Proper orthogonal decomposition with a polynomial regression per mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.fields._components import components_of, inner_product
from nearly.linalg.features import apply_features, features_of, fit_features
from nearly.linalg.legendre import fit_polynomials, legendre

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "PODRegression",
    "nouns": ["field"],
    "rows": [],
    "replaces": "a simulation whose solutions depend smoothly on few parameters",
    "certificate": "Probable",
    "rate": "exponential in the degree for analytic dependence, until the samples run out",
    "cost": "polynomials of the parameters, then one matrix product",
    "parameters": {"samples": ["integer", 8, None], "degree": ["integer", 1, 20]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 2048},
    "skips": {},
}


class PODModel(Model):
    """`mean + P(x) C B`: polynomials, coefficients per mode, modes."""

    def __init__(
        self,
        *,
        exponents: Tensor,
        coefficients: Tensor,
        mean: Tensor,
        components: Tensor,
        shape: list[int],
        **features: Tensor,
    ) -> None:
        super().__init__(
            exponents=exponents, coefficients=coefficients, mean=mean, components=components, shape=shape, **features
        )

    @property
    def operations(self) -> int:
        """Polynomials, coefficients, modes."""
        return 2 * self.exponents.numel() + operations_of_maps(self.coefficients.shape, self.components.shape)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Predictions."""
        features = features_of(self, inputs)
        coordinates = legendre(features, self.exponents) @ self.coefficients
        return torch.addmm(self.mean, coordinates, self.components).reshape(inputs.shape[0], *self.shape)


@dataclass(frozen=True, kw_only=True)
class PODRegression(Method):
    """Solutions on their principal components in the problem's inner product, each coordinate a polynomial of the parameters.

    Every mode has its own total degree, the one of least exact leave-one-out error: leading modes are smooth and well resolved,
    trailing ones are better left at low degree. (Hesthaven and Ubbiali 2018, Non-intrusive reduced order modeling,
    doi:10.1016/j.jcp.2018.02.037, with polynomials in place of their networks.)

    Args:
        samples: snapshots to fit.
        degree: the most total degree tried.

    Example:
        >>> from nearly.core.nouns import Field
        >>> from nearly.core.domain import Box
        >>> wave = Field(lambda mu: torch.exp(mu * torch.linspace(0, 1, 50, dtype=torch.float64)), Box([0.0], [1.0]))
        >>> surrogate, x = PODRegression(samples=40).fit(wave), wave.sample(5, 1)
        >>> bool((wave.error(wave(x), surrogate(x)) < 1e-6).all())
        True
    """

    model = PODModel
    samples: int = 256
    degree: int = 12

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> PODModel:
        pairs = supply.fitting(self.samples)
        features = fit_features(pairs.inputs)
        scaled = apply_features(pairs.inputs, **features)
        mean, components, coordinates = components_of(pairs.outputs, inner_product(target, pairs.outputs))
        exponents, coefficients = fit_polynomials(scaled, coordinates, self.degree)
        return PODModel(
            exponents=exponents,
            coefficients=coefficients,
            mean=mean,
            components=components,
            shape=list(pairs.outputs.shape[1:]),
            **features,
        )
