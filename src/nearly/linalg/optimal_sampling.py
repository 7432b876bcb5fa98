"""Random points for weighted least squares in a space of Legendre polynomials on [-1, 1]^d: independent, or repelling each other.

With p the m orthonormal polynomials and `K(x, y) = p(x)^T p(y)`, all of them have the density `K(x, x) / m` for each single point,
with respect to the uniform measure (that of Christoffel), and the weights are its inverse, `m / K(x, x)`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from nearly.linalg.legendre import legendre

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

SPARE = 1.5  # proposals for each one that is expected to be needed


def christoffel(exponents: Int[Tensor, "m d"], count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Independent points of density `K(x, x) / m` (Cohen, Migliorati 2017, doi:10.5802/smai-jcm.24).

    A polynomial is drawn, then each coordinate with density `P_a^2` by rejection from the arcsine density, since
    `(2 a + 1) P_a(x)^2 (1 - x^2)^(1/2) <= 4 / pi` (Bernstein's inequality; Antonov, Kholshevnikov 1981).

    Args:
        exponents: of the polynomials.
        count: how many points.
        generator: source of randomness.

    Returns:
        Points, in float64, on the device of the exponents.

    Example:
        >>> christoffel(torch.tensor([[0, 0], [3, 1]]), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    drawn = torch.randint(len(exponents), (count,), generator=generator)
    powers = exponents.cpu()[drawn].flatten()
    points = torch.zeros(len(powers), dtype=torch.float64)
    left = torch.arange(len(powers))
    while len(left):
        x = torch.cos(math.pi * torch.rand(len(left), dtype=torch.float64, generator=generator))
        degrees, place = powers[left].unique(return_inverse=True)
        squares = legendre(x[:, None], degrees[:, None]).square()[torch.arange(len(left)), place]
        level = torch.rand(len(left), dtype=torch.float64, generator=generator)
        accepted = level * 4 / math.pi <= squares * (1 - x.square()).sqrt()
        points[left[accepted]] = x[accepted]
        left = left[~accepted]
    return points.reshape(count, exponents.shape[1]).to(exponents.device)


def projection_dpp(exponents: Int[Tensor, "m d"], draws: int, generator: torch.Generator) -> Float[Tensor, "draws m d"]:
    """Draws of the projection determinantal point process of the space: m points of joint density `det(K(x_i, x_j)) / m!`.

    By the chain rule: given x_1, ..., x_k, the next point has density `(K(x, x) - |Q^T p(x)|^2) / (m - k)`, Q being an orthonormal
    basis of p(x_1), ..., p(x_k); it is drawn by rejection from the Christoffel density (Hough, Krishnapur, Peres, Virag 2006,
    doi:10.1214/154957806000000078, algorithm 18), for all draws at once.

    Args:
        exponents: of the m polynomials.
        draws: how many.
        generator: source of randomness.

    Returns:
        Points, in float64, on the device of the exponents; those of one draw in the order of the chain.

    Example:
        >>> points = projection_dpp(torch.arange(4)[:, None], 1, torch.Generator().manual_seed(0))[0, :, 0].sort().values
        >>> bool((points.diff() > 0.05).all())
        True
    """
    (m, d), device = exponents.shape, exponents.device
    exponents = exponents.cpu()
    points = torch.zeros(draws, m, d, dtype=torch.float64)
    basis = torch.zeros(draws, m, m, dtype=torch.float64)  # rows of each are orthonormal
    for k in range(m):
        waiting = torch.arange(draws)
        while len(waiting):
            tries = math.ceil(SPARE * m / (m - k))
            x = christoffel(exponents, len(waiting) * tries, generator)
            values = legendre(x, exponents).reshape(len(waiting), tries, m)
            whole = values.square().sum(dim=2)
            known = basis[:, :k] if len(waiting) == draws else basis[waiting, :k]  # a view where it may be
            rest = whole - (values @ known.mT).square().sum(dim=2)
            accepted = torch.rand(rest.shape, dtype=torch.float64, generator=generator) * whole <= rest
            some, first = accepted.any(dim=1), accepted.double().argmax(dim=1)
            done, place = waiting[some], first[some]
            points[done, k] = x.reshape(len(waiting), tries, d)[some, place]
            known = known if bool(some.all()) else known[some]
            new = values[some, place]
            for _ in range(2):
                new = new - ((new[:, None] @ known.mT) @ known)[:, 0]
            basis[done, k] = new / new.norm(dim=1, keepdim=True)
            waiting = waiting[~some]
    return points.to(device)


def weighted_fit(
    x: Float[Tensor, "*b n d"], outputs: Float[Tensor, "*b n k"], exponents: Int[Tensor, "m d"]
) -> Float[Tensor, "*b m k"]:
    """Coefficients that minimize `sum_i w_i |f(x_i) - p(x_i)^T c|^2`, w the inverse Christoffel density.

    Args:
        x: at least as many points as polynomials.
        outputs: the values there.
        exponents: of the polynomials.

    Returns:
        The coefficients, for each batch.
    """
    design = legendre(x.flatten(0, -2), exponents).reshape(*x.shape[:-1], len(exponents))
    root = (len(exponents) / design.square().sum(dim=-1, keepdim=True)).sqrt()
    q, r = torch.linalg.qr(root * design)
    return torch.linalg.solve_triangular(r, q.mT @ (root * outputs), upper=True)
