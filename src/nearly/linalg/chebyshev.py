"""Chebyshev polynomials on [-1, 1]: interpolation at the extreme points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def extreme_points(degree: int) -> Float[Tensor, " m"]:
    """The degree + 1 points `cos(pi k / degree)` where the polynomial of that degree, at least 1, is 1 or -1."""
    return torch.cos(math.pi / degree * torch.arange(degree + 1, dtype=torch.float64))


def coefficient_map(degree: int) -> Float[Tensor, "m m"]:
    """The matrix that maps values at the extreme points to coefficients: a discrete cosine transform.

    `c_j = (2 / degree) sum_k h_j h_k cos(pi j k / degree) f_k`, h being 1/2 at both ends and 1 between (Trefethen 2013,
    Approximation Theory and Approximation Practice, chapter 3).

    Example:
        >>> values = 2 * extreme_points(3) ** 2  # 1 + T_2
        >>> [abs(round(c, 12)) for c in (coefficient_map(3) @ values).tolist()]
        [1.0, 0.0, 1.0, 0.0]
    """
    k = torch.arange(degree + 1, dtype=torch.float64)
    half = torch.ones(degree + 1, dtype=torch.float64)
    half[0] = half[-1] = 0.5
    return 2 / degree * half[:, None] * torch.cos(math.pi / degree * torch.outer(k, k)) * half


def chebyshev(x: Float[Tensor, " n"], count: int) -> Float[Tensor, "n m"]:
    """Values of the first `count`, at least 2, polynomials: `T_0 = 1, T_1 = x, T_{k+1} = 2 x T_k - T_{k-1}`."""
    values = [torch.ones_like(x), x]
    for _ in range(count - 2):
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values, dim=1)
