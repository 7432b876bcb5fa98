"""Rosenbrock's function: a sparse polynomial of total degree four, so that a polynomial method can be exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.core.domain import Box
from nearly.core.nouns import Function
from nearly.core.validate import require_int

if TYPE_CHECKING:
    from torch import Tensor


def rosenbrock(dimension: int = 6) -> Function:
    """`sum_i 100 (x_(i+1) - x_i^2)^2 + (1 - x_i)^2`, uniform on [-2, 2]^dimension; least, 0, at (1, ..., 1).

    Source: Rosenbrock 1960, An automatic method for finding the greatest or least value of a function,
    doi:10.1093/comjnl/3.3.175, there of two variables; the chained form for more.

    Args:
        dimension: the number of variables, at least 2.

    Returns:
        The target: inputs (n, dimension), outputs (n, 1); errors in units of its spread.

    Raises:
        BadInput: a dimension below 2.

    Example:
        >>> import torch
        >>> rosenbrock(3)(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])).flatten().tolist()
        [0.0, 2.0]
    """
    require_int("dimension", dimension, least=2)
    return Function(_valley, Box([-2.0] * dimension, [2.0] * dimension), name="Rosenbrock")


def _valley(x: Tensor) -> Tensor:
    before, after = x[:, :-1], x[:, 1:]
    return (100 * (after - before.square()).square() + (1 - before).square()).sum(dim=1)
