"""Kernel regression on the principal components of the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.fields._components import components_of, inner_product
from nearly.linalg.features import apply_features, features_of, fit_features
from nearly.linalg.kernel_ridge import apply_kernel_ridge, fit_kernel_ridge

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "KernelRegression",
    "nouns": ["field", "function"],
    "rows": [],
    "replaces": "a smooth map, known from samples alone",
    "certificate": "Probable",
    "rate": "samples^(-(5/2) / d) for d inputs and twice differentiable maps",
    "cost": "kernel values at all samples, then one matrix product",
    "parameters": {"samples": ["integer", 4, None]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 2048},
    "skips": {},
}


class KernelModel(Model):
    """`mean + k(x) W B`: kernel values, weights per component, components.

    Smooth data without noise is fitted by weights of some 1e7 that cancel; single precision would leave nothing of the sum.
    """

    keeps_precision = True

    def __init__(
        self,
        *,
        references: Tensor,
        weights: Tensor,
        length: Tensor,
        mean: Tensor,
        components: Tensor,
        shape: list[int],
        **features: Tensor,
    ) -> None:
        super().__init__(
            references=references,
            weights=weights,
            length=length,
            mean=mean,
            components=components,
            shape=shape,
            **features,
        )

    @classmethod
    def from_pairs(cls, inputs: Tensor, outputs: Tensor, product: Tensor | None) -> KernelModel:
        """Fit to pairs, in double precision; `product` is the inner product that orders the components."""
        inputs, outputs = inputs.double(), outputs.double()
        product = None if product is None else product.double()
        features = fit_features(inputs)
        references = apply_features(inputs, **features)
        mean, components, coordinates = components_of(outputs, product)
        weights, length, _ = fit_kernel_ridge(references, coordinates)
        return cls(
            references=references,
            weights=weights,
            length=length,
            mean=mean,
            components=components,
            shape=list(outputs.shape[1:]),
            **features,
        )

    @property
    def operations(self) -> int:
        """Distances and kernel values, weights, components."""
        return (
            3 * self.references.numel()
            + 10 * len(self.references)
            + operations_of_maps(self.weights.shape, self.components.shape)
        )

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Predictions."""
        features = features_of(self, inputs)
        coordinates = apply_kernel_ridge(features, self.references, self.weights, self.length)
        return torch.addmm(self.mean, coordinates, self.components).reshape(inputs.shape[0], *self.shape)


@dataclass(frozen=True, kw_only=True)
class KernelRegression(Method):
    """Matern-5/2 kernel ridge regression from scaled inputs to the principal components of the outputs.

    Length scale and ridge are chosen by exact leave-one-out errors (`nearly.linalg.kernel_ridge`), which serve this choice
    only: after a choice they are several times too optimistic, and certify nothing. Positive inputs that spread over decades are
    taken in logarithms; input fields by their principal axes.

    Args:
        samples: pairs to fit.

    Example:
        >>> from nearly.core.nouns import Function
        >>> from nearly.core.domain import Box
        >>> surrogate = KernelRegression(samples=60).fit(Function(lambda x: torch.sin(3 * x), Box([0.0], [1.0])))
        >>> abs(float(surrogate(torch.tensor([[0.5]], dtype=torch.float64))) - 0.99749) < 1e-3
        True
    """

    model = KernelModel
    samples: int = 256

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> KernelModel:
        pairs = supply.fitting(self.samples)
        return KernelModel.from_pairs(pairs.inputs, pairs.outputs, inner_product(target, pairs.outputs))
