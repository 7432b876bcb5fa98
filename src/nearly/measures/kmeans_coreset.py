"""The means of clusters, weighted by the clusters' masses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.linalg.kmeans_seeding import kmeans_seeds, nearest_seed
from nearly.measures._points_model import PointsModel

if TYPE_CHECKING:
    from nearly.core.nouns import Measure
    from nearly.core.supply import Supply

CARD = {
    "name": "KMeansCoreset",
    "nouns": ["measure"],
    "rows": [156],
    "replaces": "an expectation over many samples, by one over few",
    "certificate": "Probable",
    "rate": "size^(-2/d) in d dimensions, for smooth test functions",
    "cost": "size evaluations of the test function",
    "parameters": {"size": ["integer", 1, None]},
    "budget": {"parameter": "size", "start": 16, "factor": 2, "most": 4096},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class KMeansCoreset(Method):
    """Clusters around k-means++ seeds, each replaced by its mean with its mass.

    The expectation of a test function with second derivatives up to b is off by at most b / 2 times the clusters' mean squared
    radius, the k-means cost, which the seeds bring within O(log k) of the least possible (Arthur and Vassilvitskii 2007).
    `nearly.linalg.kmeans_seeding.kmeans_seeds` draws the seeds by rejection; assigning the samples takes size distances each.

    Source: Shah, Agrawal and Jaiswal 2025, A new rejection sampling approach to k-means++ with improved trade-offs, arXiv
    2502.02085.

    Args:
        size: clusters; at least as many as there are samples keeps them all, exactly.

    Example:
        >>> from nearly.core.nouns import Measure
        >>> measure = Measure(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
        >>> KMeansCoreset(size=10).fit(measure).model.points.shape
        torch.Size([10, 2])
    """

    model = PointsModel
    size: int = 64

    def _fit(self, target: Measure, supply: Supply, generator: torch.Generator) -> PointsModel:
        samples, weights = target.samples, target.weights
        if self.size >= len(samples):
            return PointsModel(points=samples.clone(), weights=weights.clone())
        seeds = samples[kmeans_seeds(samples, self.size, weights=weights, generator=generator).indices]
        cluster = nearest_seed(samples, seeds)
        masses = weights.new_zeros(len(seeds)).index_add(0, cluster, weights)
        moments = torch.zeros_like(seeds).index_add(0, cluster, weights[:, None] * samples)
        kept = masses > 0
        return PointsModel(points=(moments[kept] / masses[kept, None]), weights=masses[kept])
