"""A few of the samples, drawn at random: the baseline of thinning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.measures._points_model import PointsModel

if TYPE_CHECKING:
    from nearly.core.nouns import Measure
    from nearly.core.supply import Supply

CARD = {
    "name": "RandomSubsample",
    "nouns": ["measure"],
    "rows": [],
    "replaces": "an expectation over many samples, by one over few",
    "certificate": "Probable",
    "rate": "size^(-1/2)",
    "cost": "size evaluations of the test function",
    "parameters": {"size": ["integer", 1, None]},
    "budget": {"parameter": "size", "start": 16, "factor": 2, "most": 65536},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class RandomSubsample(Method):
    """`size` samples drawn independently by weight, equally weighted: unbiased, with an error of the spread over sqrt(size).

    Args:
        size: points kept; at least as many as there are samples keeps them all, exactly.

    Example:
        >>> from nearly.core.nouns import Measure
        >>> measure = Measure(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
        >>> RandomSubsample(size=10).fit(measure).model.points.shape
        torch.Size([10, 2])
    """

    model = PointsModel
    size: int = 64

    def _fit(self, target: Measure, supply: Supply, generator: torch.Generator) -> PointsModel:
        if self.size >= len(target.samples):
            return PointsModel(points=target.samples.clone(), weights=target.weights.clone())
        index = torch.multinomial(target.weights.double().cpu(), self.size, replacement=True, generator=generator)
        points = target.samples[index.to(target.samples.device)]
        return PointsModel(points=points, weights=points.new_full((self.size,), 1 / self.size))
