"""Penalties that make the Jacobians of composed maps of low rank, without singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.calculus._evaluations import same_draws
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, generator_from, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float

Map = Callable[[Tensor], Tensor]


def jacobian_frobenius(function: Map, points: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """`||Jf(x)||_F^2` at every point, exactly, by one reverse mode per output; differentiable.

    Args:
        function: f, takes points, gives shape (*batch, m), each value from its own point alone.
        points: x, shape (*batch, n).

    Returns:
        The squared norms.

    Raises:
        BadInput: for points that are not finite, and values of another shape.

    Example:
        >>> jacobian_frobenius(lambda x: x * x, torch.tensor([1.0, 2.0])).item()
        20.0
    """
    points = as_floating("points", points, least_dimensions=1)
    values, pull = torch.func.vjp(function, points)[:2]
    m = _checked(values, points).shape[-1]
    basis = torch.eye(m, dtype=values.dtype, device=values.device).view(m, *[1] * (values.ndim - 1), m)
    (rows,) = torch.func.vmap(pull)(basis.expand(m, *values.shape))
    return rows.square().sum(dim=(0, -1))


def jacobian_frobenius_estimate(
    function: Map,
    points: Float[Tensor, "*batch n"],
    *,
    sigma: float = 1e-2,
    samples: int = 1,
    seed: int | torch.Generator = 0,
) -> Float[Tensor, "*batch"]:
    r"""`||Jf(x)||_F^2` by differences with noise: the mean of `||f(x + sigma e) - f(x)||^2 / sigma^2`, e normal.

    No Jacobian is formed, and nothing is differentiated but what a loss would be. The mean is the squared norm plus `O(sigma^2)`;
    the variance of a sample for linear f is `2 ||J'J||_F^2`, at most twice the square of the norm's square. Rounding adds about
    `m (eps |f| / sigma)^2`: keep sigma well above `eps |f| / ||J||`.

    Source: Scarvelis and Solomon 2024, Nuclear norm regularization for deep learning, arXiv 2405.14544.

    Args:
        function: f, as for `jacobian_frobenius`; what it draws from torch's global state (dropout) is given by the seed too, and
            the same in all evaluations.
        points: x.
        sigma: size of the noise.
        samples: of noise, for every point.
        seed: of the noise.

    Returns:
        The estimates, differentiable.

    Raises:
        BadInput: as `jacobian_frobenius` does, and for sigma or samples out of range.

    Example:
        >>> estimate = jacobian_frobenius_estimate(lambda x: 2 * x, torch.zeros(1000, 1), samples=9)
        >>> bool((estimate.mean() - 4).abs() < 0.3)
        True
    """
    points = as_floating("points", points, least_dimensions=1)
    sigma, samples = require_float("sigma", sigma, above=0.0), require_int("samples", samples, least=1)
    generator = generator_from(seed)
    noise = torch.randn(samples, *points.shape, dtype=torch.float64, generator=generator).to(points)
    draw = int(torch.randint(2**62, (), generator=generator))

    def at(places: Tensor) -> Tensor:
        with same_draws(draw):  # or differences would be those of the draws
            return _checked(function(places), points)

    value = at(points)
    moved = torch.stack([at(points + sigma * one) for one in noise])
    return ((moved - value) / sigma).square().sum(dim=-1).mean(dim=0)


def jacobian_nuclear_penalty(
    outer: Map,
    inner: Map,
    points: Float[Tensor, "*batch n"],
    *,
    sigma: float | None = 1e-2,
    samples: int = 1,
    seed: int | torch.Generator = 0,
) -> Float[Tensor, "*batch"]:
    r"""The penalty `(||Jg(h(x))||_F^2 + ||Jh(x)||_F^2) / 2` of `f = g o h`, which replaces the nuclear norm `||Jf(x)||_*`.

    It is never below the nuclear norm, as `||A B||_* <= (||A||_F^2 + ||B||_F^2) / 2`. Over all g and h with enough inner dimensions
    the minima of a loss of f plus either penalty are the same (the paper's theorem, for means over data), so that no singular value
    decomposition is needed for Jacobians of low rank. For a given f and fixed inner coordinates the two may differ much.

    Source: Scarvelis and Solomon 2024, arXiv 2405.14544.

    Args:
        outer: g.
        inner: h.
        points: x, shape (*batch, n).
        sigma: of the noise of `jacobian_frobenius_estimate`; None for exact norms.
        samples: of noise, for every point.
        seed: of the noise.

    Returns:
        A penalty per point, differentiable for what g and h depend on.

    Raises:
        BadInput: as the two functions above do.

    Example:
        >>> g, h = (lambda y: y.sum(-1, keepdim=True)), (lambda x: torch.stack([x[..., 0], 0 * x[..., 0]], -1))
        >>> jacobian_nuclear_penalty(g, h, torch.zeros(1, 3), sigma=None).item()
        1.5
    """
    generator = generator_from(seed)
    points = as_floating("points", points, least_dimensions=1)
    middle = inner(points)
    if sigma is None:
        return (jacobian_frobenius(outer, middle) + jacobian_frobenius(inner, points)) / 2

    def norm(function: Map, at: Tensor) -> Tensor:
        return jacobian_frobenius_estimate(function, at, sigma=sigma, samples=samples, seed=generator)

    return (norm(outer, middle) + norm(inner, points)) / 2


def _checked(values: Tensor, points: Tensor) -> Tensor:
    fits = isinstance(values, Tensor) and values.ndim == points.ndim and values.shape[:-1] == points.shape[:-1]
    if not fits or values.is_complex():
        raise BadInput("function", f"one that gives real shape {(*points.shape[:-1], 'm')}", describe(values))
    return values
