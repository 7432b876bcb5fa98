"""The output of the nearest known input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.linalg.features import apply_features, features_of, fit_features

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "NearestNeighbor",
    "nouns": ["field", "function"],
    "rows": [],
    "replaces": "anything continuous, by a table",
    "certificate": "Probable",
    "rate": "samples^(-1/d) for d inputs",
    "cost": "distances to all samples, and their memory",
    "parameters": {"samples": ["integer", 1, None]},
    "budget": {"parameter": "samples", "start": 32, "factor": 4, "most": 2048},
    "skips": {"differentiable": "a table is piecewise constant: its derivatives are zero or do not exist"},
}


class NearestNeighborModel(Model):
    """Stored pairs."""

    def __init__(self, *, references: Tensor, outputs: Tensor, **features: Tensor) -> None:
        super().__init__(references=references, outputs=outputs, **features)

    @property
    def operations(self) -> int:
        """All distances."""
        return 3 * self.references.numel() + self.outputs[0].numel()

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The output of the nearest stored input, in scaled coordinates."""
        features = features_of(self, inputs)
        distance = torch.cdist(features, self.references, compute_mode="donot_use_mm_for_euclid_dist")
        return self.outputs[distance.argmin(dim=1)]


@dataclass(frozen=True, kw_only=True)
class NearestNeighbor(Method):
    """A table of `samples` pairs; distances are taken between scaled inputs (`nearly.linalg.features`).

    Args:
        samples: pairs to store.

    Example:
        >>> from nearly.core.nouns import Function
        >>> from nearly.core.domain import Box
        >>> surrogate = NearestNeighbor(samples=500).fit(Function(lambda x: x, Box([0.0], [1.0])))
        >>> abs(float(surrogate(torch.tensor([[0.5]]))) - 0.5) < 0.01
        True
    """

    model = NearestNeighborModel
    samples: int = 256

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> NearestNeighborModel:
        pairs = supply.fitting(self.samples)
        features = fit_features(pairs.inputs)
        return NearestNeighborModel(
            references=apply_features(pairs.inputs, **features), outputs=pairs.outputs, **features
        )
