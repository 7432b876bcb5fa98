"""A few of the samples, chosen so that a kernel's sums over them are nearly those over all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.linalg.kernel_thinning import gaussian_kernel, kernel_thinning
from nearly.measures._points_model import PointsModel

if TYPE_CHECKING:
    from nearly.core.nouns import Measure
    from nearly.core.supply import Supply

CARD = {
    "name": "KernelThinning",
    "nouns": ["measure"],
    "rows": [109],
    "replaces": "an expectation over many samples, by one over few",
    "certificate": "Probable",
    "rate": "size^(-1) but for logarithms, down to about samples^(-1/2)",
    "cost": "size evaluations of the test function",
    "parameters": {"size": ["integer", 1, None]},
    "budget": {"parameter": "size", "start": 16, "factor": 2, "most": 65536},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class KernelThinning(Method):
    """`size` equally weighted samples of small maximum mean discrepancy to all of them, by target kernel thinning.

    The kernel is the Gaussian one of the measure's own length scale, `exp(-||x - y||^2 / (2 scale^2))`, so that half the
    squared discrepancy is the mean square error over the measure's random waves of amplitude 1.
    `nearly.linalg.kernel_thinning` is the algorithm, for any kernel and with KT+.

    Source: Dwivedi and Mackey 2022, Generalized kernel thinning, arXiv 2110.01593; Shetty, Dwivedi and Mackey 2022,
    Distribution compression in near-linear time, arXiv 2111.07941.

    Args:
        size: points kept; at least as many as there are samples keeps them all, exactly.

    Example:
        >>> from nearly.core.nouns import Measure
        >>> measure = Measure(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
        >>> KernelThinning(size=10).fit(measure).model.points.shape
        torch.Size([10, 2])
    """

    model = PointsModel
    size: int = 64

    def _fit(self, target: Measure, supply: Supply, generator: torch.Generator) -> PointsModel:
        samples = target.samples
        if self.size >= len(samples):
            return PointsModel(points=samples.clone(), weights=target.weights.clone())
        kernel = gaussian_kernel(target.scale)
        index = kernel_thinning(samples, self.size, kernel, weights=target.weights, generator=generator)
        return PointsModel(points=samples[index], weights=samples.new_full((self.size,), 1 / self.size))
