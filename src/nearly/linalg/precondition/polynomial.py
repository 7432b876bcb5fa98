"""Polynomials in a matrix that are close to its inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import require_float, require_int
from nearly.linalg.operator import as_square
from nearly.linalg.promotion import in_precision
from nearly.linalg.triangular import Product


def chebyshev(matrix: Any, *, low: float, high: float, steps: int) -> Product:
    r"""The preconditioner `r -> p(A) r`, p of degree `steps - 1`, by that many less one products with A.

    Among all polynomials of its degree `|1 - t p(t)|` is least on [low, high]: `1 / T_steps((high + low) / (high - low))`, at most
    `2 q^steps` with `q = (sqrt(c) - 1) / (sqrt(c) + 1)`, `c = high / low`. For symmetric or Hermitian positive definite A
    with its eigenvalues there `p(A) A` has a condition number of at most `(1 + e) / (1 - e)`, e that maximum. Eigenvalues above
    `high` are blown up, and p(A) may then be indefinite; those in (0, low) are merely improved less.

    Source: Saad 2003, Iterative methods for sparse linear systems, section 12.3.2.

    Args:
        matrix: A, real or complex, as `nearly.linalg.operator.as_square` takes it.
        low: lower end of the interval, above 0.
        high: its upper end; `high = low` gives `neumann`.
        steps: degree and one.

    Returns:
        A map on residuals of shape (*batch, n, k).

    Raises:
        BadInput: for an interval that is none.

    Example:
        >>> import torch
        >>> apply = chebyshev(torch.diag(torch.tensor([1.0, 2.0])), low=1.0, high=2.0, steps=8)
        >>> [round(value, 4) for value in apply(torch.ones(2, 1)).flatten().tolist()]
        [1.0, 0.5]
    """
    low, high = require_float("low", low, above=0), require_float("high", high, above=0)
    if high < low:
        raise BadInput("high", f"at least low, {low}", high)
    require_int("steps", steps, least=1)
    matrix = as_square(matrix, complex_too=True)

    def subtract(rest: Tensor, x: Tensor, weight: float) -> Tensor:
        return (rest - weight * (matrix @ x)).detach()

    def apply(rest: Tensor) -> Tensor:
        return chebyshev_iteration(subtract, rest, steps, low, high)

    return in_precision(apply, matrix.dtype)


def neumann(matrix: Any, *, scale: float, steps: int) -> Product:
    """The preconditioner `r -> w sum_j (1 - w A)^j r` over j < steps: the Neumann series of the inverse, cut off.

    It is `chebyshev` on the single point 1 / w, and leaves `(1 - w t)^steps` on an eigenvalue t.

    Source: Dubois, Greenbaum and Rodrigue 1979, Approximating the inverse of a matrix for use in iterative algorithms on vector
    processors, doi:10.1007/BF02243566.

    Args:
        matrix: A, real or complex, as `nearly.linalg.operator.as_square` takes it.
        scale: w, below 2 over the largest eigenvalue.
        steps: terms.

    Returns:
        A map on residuals of shape (*batch, n, k).

    Example:
        >>> import torch
        >>> neumann(torch.tensor([[0.5]]), scale=1.0, steps=3)(torch.ones(1, 1)).item()
        1.75
    """
    scale = require_float("scale", scale, above=0)
    return chebyshev(matrix, low=1 / scale, high=1 / scale, steps=steps)


def chebyshev_iteration(
    subtract: Callable[[Tensor, Tensor, float], Tensor], right: Tensor, steps: int, low: float, high: float
) -> Tensor:
    """`p(A) b` by the three-term recurrence (Saad 2003, algorithm 12.1).

    Args:
        subtract: `(rest, x, weight) -> rest - weight A x`.
        right: b.
        steps: degree of p, and one.
        low: end of the interval.
        high: the other end.

    Returns:
        The product.

    Example:
        >>> import torch
        >>> chebyshev_iteration(lambda rest, x, weight: rest - weight * x, torch.ones(1), 1, 1.0, 3.0).item()
        0.5
    """
    middle, half = (high + low) / 2, (high - low) / 2
    ratio = half / middle
    step, size = right, 1 / middle  # the step is size times this: a multiplication less
    x, rest = size * step, right
    for _ in range(steps - 1):
        rest = subtract(rest, step, size)
        after = 2 / (2 * middle - ratio * half)
        step = rest.add(step, alpha=ratio * half * size / 2)
        ratio, size = half * after / 2, after
        x = x.add(step, alpha=size)
    return x
