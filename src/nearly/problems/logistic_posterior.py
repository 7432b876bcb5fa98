"""What is left to know of a logistic regression's coefficients after some observations, as samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.nouns import Measure
from nearly.core.validate import generator_from, require_int

if TYPE_CHECKING:
    from collections.abc import Callable

PRIOR = 2.0  # standard deviation of every coefficient
CHAINS = 200  # run side by side
WARM_UP = 200  # steps that are dropped; chains start from the Gaussian approximation, which is near already
BETWEEN = 10  # steps from one sample of a chain to its next
# Steps of 1.65^2 d^(-1/3) are best on Gaussians in high dimensions (Roberts and Rosenthal 1998, doi:10.1111/1467-9868.00123).
STEP = 1.65**2
NEWTON = 50  # steps to the mode, which take some ten; the function is strictly concave


def logistic_posterior(dimension: int = 5, observations: int = 200, samples: int = 4000, seed: int = 0) -> Measure:
    """The posterior of a Bayesian logistic regression, as samples of a Markov chain.

    `p(w | X, y)` is proportional to `exp(-||w||^2 / (2 * 2^2)) prod_i 1 / (1 + exp(-y_i w . x_i))`: coefficients w with independent
    normal priors of standard deviation 2, observations at standard Gaussian x_i, and labels y_i of +-1 drawn with coefficients from
    the prior. Sampled by the Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996, doi:10.2307/3318418),
    preconditioned by the Hessian at the mode, in 200 chains that start from the Gaussian approximation there; every tenth step is
    kept.

    Args:
        dimension: number of coefficients.
        observations: how many.
        samples: rows, all chains together, in the order of their steps.
        seed: of the data and of the chains.

    Returns:
        A measure of float64 samples, shape (samples, dimension).

    Raises:
        BadInput: for sizes that are no positive integers.

    Example:
        >>> logistic_posterior(dimension=2, samples=100).samples.shape
        torch.Size([100, 2])
    """
    require_int("dimension", dimension, least=1)
    require_int("observations", observations, least=1)
    require_int("samples", samples, least=2)
    generator = generator_from(seed)
    truth = PRIOR * _normal(generator, dimension)
    x = _normal(generator, observations, dimension)
    heads = torch.rand(observations, dtype=torch.float64, generator=generator) < torch.sigmoid(x @ truth)
    signed = torch.where(heads[:, None], x, -x)

    def density(w: Tensor) -> tuple[Tensor, Tensor]:
        """Log density but for a constant, and its gradient, per row."""
        margins = w @ signed.T
        log = torch.nn.functional.logsigmoid(margins).sum(dim=1) - w.square().sum(dim=1) / (2 * PRIOR**2)
        return log, torch.sigmoid(-margins) @ signed - w / PRIOR**2

    mode, factor = _mode(signed, density)
    per_chain = math.ceil(samples / CHAINS)
    draws = _chains(density, mode, factor, per_chain, generator)
    return Measure(draws[:samples], name=f"logistic posterior, {dimension} coefficients, {observations} observations")


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _mode(signed: Tensor, density: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mode by damped Newton steps, and the Cholesky factor of the inverse of the negative Hessian there."""
    w = signed.new_zeros(signed.shape[1])
    for _ in range(NEWTON):
        chance = torch.sigmoid(signed @ w)
        curvature = (signed * (chance * (1 - chance))[:, None]).T @ signed
        precision = curvature + torch.eye(len(w), dtype=w.dtype) / PRIOR**2
        value, gradient = (part[0] for part in density(w[None]))
        step = torch.linalg.solve(precision, gradient)
        size = 1.0
        while size > 1e-8 and float(density((w + size * step)[None])[0]) < float(value):
            size /= 2
        w = w + size * step
    return w, torch.linalg.cholesky(torch.linalg.inv(precision))


def _chains(
    density: Callable[[Tensor], tuple[Tensor, Tensor]],
    mode: Tensor,
    factor: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """`count` samples of each chain, in coordinates in which the Gaussian approximation is standard."""
    dimension = len(mode)
    step = STEP * dimension ** (-1 / 3)

    def there(z: Tensor) -> tuple[Tensor, Tensor]:
        log, gradient = density(mode + z @ factor.T)
        return log, gradient @ factor

    z = _normal(generator, CHAINS, dimension)
    log, gradient = there(z)
    kept = []
    for index in range(WARM_UP + count * BETWEEN):
        noise = _normal(generator, CHAINS, dimension)
        after = z + step / 2 * gradient + math.sqrt(step) * noise
        log_after, gradient_after = there(after)
        back = z - after - step / 2 * gradient_after
        gain = log_after - log + noise.square().sum(dim=1) / 2 - back.square().sum(dim=1) / (2 * step)
        accept = torch.rand(CHAINS, dtype=torch.float64, generator=generator).log() < gain
        z = torch.where(accept[:, None], after, z)
        log, gradient = torch.where(accept, log_after, log), torch.where(accept[:, None], gradient_after, gradient)
        if index >= WARM_UP and (index - WARM_UP) % BETWEEN == BETWEEN - 1:
            kept.append(mode + z @ factor.T)
    return torch.cat(kept)
