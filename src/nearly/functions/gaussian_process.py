"""Gaussian-process regression (ordinary Kriging)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.certificate import Estimate
from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.functions._polynomial import scaling
from nearly.linalg.features import apply_features, features_of
from nearly.linalg.gaussian_process import correlation, learn
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "GaussianProcess",
    "nouns": ["function"],
    "rows": [],
    "replaces": "a smooth function of several variables, known from few samples",
    "certificate": "Probable",
    "rate": "samples^(-(5/2) / d) for d inputs and twice differentiable functions; faster than any power for entire ones",
    "cost": "kernel values at all samples, then one matrix product",
    "parameters": {"samples": ["integer", 4, None]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 1024},
    "skips": {},
}


class GaussianProcessModel(Model):
    """`mean + r(x) A^-1 (Y - mean)`; the weights cancel too much for single precision."""

    keeps_precision = True

    def __init__(
        self,
        *,
        kernel: str,
        references: Tensor,
        lengths: Tensor,
        weights: Tensor,
        mean: Tensor,
        spread: Tensor,
        factor: Tensor,
        **features: Tensor,
    ) -> None:
        super().__init__(
            kernel=kernel,
            references=references,
            lengths=lengths,
            weights=weights,
            mean=mean,
            spread=spread,
            factor=factor,
            **features,
        )

    @property
    def operations(self) -> int:
        """Distances and kernel values, then the weights."""
        return 3 * self.references.numel() + 10 * len(self.references) + operations_of_maps(self.weights.shape)

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The posterior mean."""
        return self.mean + self._correlation(inputs) @ self.weights

    def deviation(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The posterior standard deviation of each output, the uncertainty of the mean included; see `estimate`.

        `spread^2 (1 - r A^-1 r^T + (1 - r A^-1 1)^2 / (1^T A^-1 1))`, hyper-parameters taken as known.
        """
        whitened = torch.linalg.solve_triangular(self.factor, self._correlation(inputs).T, upper=False)
        ones = torch.linalg.solve_triangular(self.factor, torch.ones_like(self.factor[:, :1]), upper=False)
        left = 1 - whitened.square().sum(dim=0) + (1 - (ones.T @ whitened)[0]).square() / ones.square().sum()
        return left.clamp(min=0).sqrt()[:, None] * self.spread

    def estimate(self, inputs: Float[Tensor, "n d"]) -> Estimate:
        """What the process says of its own error on some inputs: an estimate, often too small.

        Args:
            inputs: in the target's own units.

        Returns:
            The root mean square of the deviations, absolute.
        """
        error = float(self.deviation(inputs).square().sum(dim=1).mean().sqrt())
        return Estimate(error=error, unit="absolute", basis="the posterior deviation of a fitted Gaussian process")

    def _correlation(self, inputs: Tensor) -> Tensor:
        return correlation(self.kernel, features_of(self, inputs) / self.lengths, self.references)


@dataclass(frozen=True, kw_only=True)
class GaussianProcess(Method):
    """A Gaussian process with unknown constant mean, a Matern-5/2 or Gaussian kernel and one length scale per coordinate.

        f(x) = m + r(x) (R + nugget I)^-1 (Y - m),   m = 1^T A^-1 Y / (1^T A^-1 1),   A = R + nugget I

    Length scales and nugget have the largest restricted likelihood, climbed by L-BFGS from the best of seeded draws; kernel,
    and nugget or none, have the least exact leave-one-out error. All algebra is by Cholesky factors in float64, and gpytorch is not
    needed to answer. Inputs are scaled to [-1, 1]^d, logarithmically in log coordinates. The process's own deviation is an
    `Estimate` (`model.deviation`, `model.estimate`), never a bound: on deterministic functions its "95%" was measured to cover
    69% to 93% of fresh inputs. The certificate comes from fresh samples.

    Source: Rasmussen, Williams 2006, Gaussian processes for machine learning, sections 2.7 and 5.4; the restricted likelihood:
    Harville 1974, doi:10.1093/biomet/61.2.383. Departure: beyond 512 samples, hyper-parameters are learned from the first 512.

    Args:
        samples: points to fit.

    Example:
        >>> from nearly.core.domain import Box
        >>> from nearly.core.nouns import Function
        >>> surrogate = GaussianProcess(samples=20).fit(Function(lambda x: torch.sin(3 * x), Box([0.0], [1.0])))
        >>> abs(float(surrogate(torch.tensor([[0.5]], dtype=torch.float64))) - 0.997495) < 1e-5
        True
    """

    model = GaussianProcessModel
    samples: int = 256

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs gpytorch to fit."""
        missing = None if find_spec("gpytorch") else "it needs gpytorch: pip install 'nearly[gp]'"
        return super().refuses(target) or missing

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> GaussianProcessModel:
        pairs = supply.fitting(self.samples)
        inputs = pairs.inputs.to(torch.float64)
        features = scaling(target, inputs)
        x, outputs = apply_features(inputs, **features), pairs.outputs.reshape(len(pairs), -1).to(torch.float64)
        unit = binary_scale(outputs, (0, 1))[0]
        outputs = outputs / unit  # squares neither overflow nor vanish
        scale = (outputs - outputs.mean(dim=0)).square().mean().sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        learned = learn(x, (outputs - outputs.mean(dim=0)) / scale, generator)
        references = x / learned.lengths
        matrix = correlation(learned.kernel, references, references)
        # As many roundings as rows: a smaller nugget than this may leave no Cholesky factor.
        matrix.diagonal().add_(max(learned.nugget, 8 * len(x) * torch.finfo(x.dtype).eps))
        factor = torch.linalg.cholesky(matrix)
        ones = torch.cholesky_solve(torch.ones_like(x[:, :1]), factor)
        mean = (ones.T @ outputs)[0] / ones.sum()
        weights = torch.cholesky_solve(outputs - mean, factor)
        return GaussianProcessModel(
            kernel=learned.kernel,
            references=references,
            lengths=learned.lengths,
            weights=weights * unit,
            mean=mean * unit,
            spread=((outputs - mean) * weights).sum(dim=0).div(len(x) - 1).sqrt() * unit,
            factor=factor,
            **features,
        )
