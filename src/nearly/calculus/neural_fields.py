"""Derivatives of neural fields whose own derivatives are noise, by local fits of polynomials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, generator_from, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float


class LocalFit(NamedTuple):
    """Of a field at points, by the polynomials fitted around them.

    Attributes:
        value: smoothed, of shape (n,).
        gradient: of shape (n, d).
        laplacian: of shape (n,).
    """

    value: Tensor
    gradient: Tensor
    laplacian: Tensor


def fit_locally(
    field: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n d"],
    *,
    radius: float,
    degree: int = 2,
    samples: int = 64,
    seed: int | torch.Generator = 0,
) -> LocalFit:
    r"""Value, gradient and Laplacian of the polynomial nearest to a field around every point.

    Replaces automatic differentiation of fields on grids or hash grids, whose small oscillations swamp their derivatives (Chetan,
    Yang, Wang, Marschner, Hariharan 2024, "Accurate Differential Operators for Hybrid Neural Fields", arXiv:2312.05984).
    Values at random offsets in a ball are fitted by least squares; offsets are the same at every point, so that the fit is one
    product with a pseudo-inverse. Noise of size s leaves errors of order $s / (r \sqrt{m})$ in gradients and $s / (r^2 \sqrt{m})$
    in Laplacians; what the degree p does not hold leaves $r^p$ (p even; $r^{p-1}$ in Laplacians). Departure: offsets are uniform
    in a ball.

    Args:
        field: maps points (n, d) to values (n,) or (n, 1).
        points: where.
        radius: r of the ball, in the units of the points.
        degree: p, two or more.
        samples: m, offsets of the ball.
        seed: of the offsets.

    Returns:
        The three; gradients flow to the field's parameters.

    Raises:
        BadInput: for a degree below two, or fewer samples than coefficients.

    Example:
        >>> fit = fit_locally(lambda x: (x**2).sum(-1), torch.tensor([[1.0, 2.0]], dtype=torch.float64), radius=0.1)
        >>> fit.gradient.round(decimals=6).tolist(), fit.laplacian.round(decimals=6).tolist()
        ([[2.0, 4.0]], [4.0])
    """
    x = as_floating("points", points, dimensions=2)
    require_float("radius", radius, above=0)
    require_int("degree", degree, least=2)
    d = x.shape[1]
    require_int("samples", samples, least=math.comb(d + degree, d))
    offsets = _ball(samples, d, generator_from(seed))
    powers = [p for p in itertools.product(range(degree + 1), repeat=d) if sum(p) <= degree]
    basis = torch.stack([(offsets ** torch.tensor(p)).prod(1) for p in powers], dim=1)
    inverse = torch.linalg.pinv(basis).to(x)
    nearby = x[:, None] + radius * offsets.to(x)
    coefficients = field(nearby.flatten(0, 1)).reshape(len(x), samples) @ inverse.mT
    units = [[int(i == j) for i in range(d)] for j in range(d)]
    slopes = [powers.index(tuple(unit)) for unit in units]
    bends = [powers.index(tuple(2 * i for i in unit)) for unit in units]
    return LocalFit(
        coefficients[:, powers.index((0,) * d)],
        coefficients[:, slopes] / radius,
        2 * coefficients[:, bends].sum(1) / radius**2,
    )


def _ball(samples: int, d: int, generator: torch.Generator) -> Tensor:
    """Uniform in the unit ball."""
    direction = torch.randn(samples, d, dtype=torch.float64, generator=generator)
    size = torch.rand(samples, 1, dtype=torch.float64, generator=generator) ** (1 / d)
    return direction / direction.norm(dim=1, keepdim=True) * size


def refinement_loss(
    field: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n d"],
    *,
    value: Float[Tensor, " n"],
    gradient: Float[Tensor, "n d"],
    weight: float = 0.1,
) -> Float[Tensor, ""]:
    r"""Mean of $(f - u)^2 + w ||\nabla f - g||^2$: fine-tunes a field toward the gradients of its own local fits.

    Args:
        field: maps points (n, d) to values; trained on this loss its automatic derivatives become accurate.
        points: where.
        value: u, of the field before fine-tuning; shape (n,) or (n, 1).
        gradient: g, of `fit_locally` on the field before fine-tuning.
        weight: w, in squared units of length.

    Returns:
        The loss.

    Raises:
        BadInput: for a weight that is not positive, and values and gradients of other shapes.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> refinement_loss(lambda x: (x**2).sum(-1), x, value=torch.tensor([5.0]), gradient=2 * x).item()
        0.0
    """
    require_float("weight", weight, above=0)
    x = as_floating("points", points, dimensions=2).detach().clone().requires_grad_()
    for name, given, width in (("value", value, 1), ("gradient", gradient, x.shape[1])):
        if given.shape != (len(x), width) and (width > 1 or given.shape != x.shape[:1]):
            raise BadInput(name, f"of shape ({len(x)}, {width})", describe(given))
    value, gradient = value.reshape(len(x)), gradient.reshape(x.shape)
    with torch.enable_grad():
        found = field(x).reshape(len(x))
        (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    return (found - value).square().mean() + weight * (slope - gradient).square().sum(-1).mean()
