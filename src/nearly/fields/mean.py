"""The mean output: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "Mean",
    "nouns": ["field", "function"],
    "rows": [],
    "replaces": "anything, by one constant output",
    "certificate": "Probable",
    "rate": "none: it does not look at the input",
    "cost": "a copy",
    "parameters": {"samples": ["integer", 1, None]},
    "budget": {"parameter": "samples", "start": 32, "factor": 4, "most": 32},
    "skips": {
        "differentiable": "a constant output has no derivative but zero",
        "error_falls": "the mean does not look at its input, so more samples only settle it",
    },
}


class MeanModel(Model):
    """One stored output."""

    def __init__(self, *, mean: Tensor) -> None:
        super().__init__(mean=mean)

    @property
    def operations(self) -> int:
        """A copy."""
        return self.mean.numel()

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The mean, once per input."""
        return self.mean.expand(inputs.shape[0], *self.mean.shape).clone()


@dataclass(frozen=True, kw_only=True)
class Mean(Method):
    """The mean of `samples` outputs, whatever the input: an error of 1 where the field's relative spread is 1.

    Args:
        samples: outputs to average.

    Example:
        >>> from nearly.core.nouns import Function
        >>> from nearly.core.domain import Box
        >>> Mean(samples=8).fit(Function(lambda x: 0 * x + 3, Box([0.0], [1.0]), metric="absolute")).model.mean.tolist()
        [3.0]
    """

    model = MeanModel
    samples: int = 32

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> MeanModel:
        return MeanModel(mean=supply.fitting(self.samples).outputs.mean(dim=0))
