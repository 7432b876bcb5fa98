"""Least squares in tensor Legendre polynomials of bounded total degree on [-1, 1]^d."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from nearly.linalg.scaling import row_norms

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


OVERSAMPLING = 1.5  # least ratio of samples to terms; leave-one-out errors choose among what it leaves


def count_terms(dimension: int, degree: int) -> int:
    """How many polynomials of total degree at most `degree` there are: `(dimension + degree choose degree)`."""
    return math.comb(dimension + degree, degree)


def least_terms(dimension: int, degree: int, norm: float) -> int:
    """A lower bound on how many terms `total_degree` has, the products of distinct variables, to refuse a set before it is made."""
    return math.comb(dimension, int(degree**norm + 1e-9))


def total_degree(dimension: int, degree: int, norm: float = 1.0) -> Int[Tensor, "terms d"]:
    """Exponents of all terms with `(sum_j a_j^norm)^(1 / norm) <= degree`, lower total degrees first.

    A norm below 1 makes a hyperbolic set: it leaves out products of many variables (Blatman, Sudret 2011,
    doi:10.1016/j.jcp.2010.12.021, equation (17)).

    Example:
        >>> total_degree(2, 1).tolist()
        [[0, 0], [1, 0], [0, 1]]
        >>> len(total_degree(2, 2)), len(total_degree(2, 2, norm=0.5))
        (6, 5)
    """
    rows = torch.zeros(1, 0, dtype=torch.int64)
    used = torch.zeros(1, dtype=torch.float64)
    price = torch.arange(degree + 1, dtype=torch.float64) ** norm
    for _ in range(dimension):
        spent = used[:, None] + price
        parent, exponent = (spent <= price[-1] * (1 + 1e-12)).nonzero(as_tuple=True)  # 1e-12: the powers are rounded
        rows, used = torch.cat([rows[parent], exponent[:, None]], dim=1), spent[parent, exponent]
    rows = rows.flip(0)
    return rows[rows.sum(dim=1).argsort(stable=True)]


def legendre(x: Float[Tensor, "n d"], exponents: Int[Tensor, "terms d"]) -> Float[Tensor, "n terms"]:
    """Products of Legendre polynomials, each of mean square 1 under the uniform measure on [-1, 1]^d.

    `P_0 = 1, P_1 = x, (k + 1) P_{k+1} = (2 k + 1) x P_k - k P_{k-1}`, scaled by `sqrt(2 k + 1)`.
    """
    top = int(exponents.max()) if exponents.numel() else 0
    values = [torch.ones_like(x), x]
    for k in range(1, top):
        values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
    table = torch.stack([math.sqrt(2 * k + 1) * values[k] for k in range(top + 1)], dim=-1)
    result = torch.ones(len(x), len(exponents), dtype=x.dtype, device=x.device)
    for j in range(x.shape[1]):
        result = result * table[:, j, exponents[:, j]]
    return result


def leave_one_out_fit(
    design: Float[Tensor, "n terms"], outputs: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "terms k"], Float[Tensor, " k"]]:
    """Least-squares coefficients, and the exact leave-one-out root mean square error of every output.

    With leverages h_i (squared row norms of Q), the error at a left-out row is `residual_i / (1 - h_i)`.

    Args:
        design: more rows than columns; where columns depend on each other, the coefficients of least norm are taken.
        outputs: as many rows.

    Returns:
        Coefficients and errors.
    """
    q, r = torch.linalg.qr(design)
    pivots, negligible = r.diagonal().abs(), len(design) * torch.finfo(design.dtype).eps
    dependent = not bool(pivots.min() > negligible * pivots.max())  # an input is constant, or follows from others
    if dependent:
        q, values, directions = torch.linalg.svd(design, full_matrices=False)
        kept = values > negligible * values[0]
        q, values, directions = q[:, kept], values[kept], directions[kept]
    projected = q.T @ outputs
    residual = outputs - q @ projected
    leverage = q.square().sum(dim=1).clamp(max=1 - 1e-9)
    left_out = residual / (1 - leverage)[:, None]
    missed = row_norms(left_out.T) / math.sqrt(len(left_out))
    if dependent:
        return directions.T @ (projected / values[:, None]), missed
    return torch.linalg.solve_triangular(r, projected, upper=True), missed


def fit_polynomials(
    x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"], degree: int
) -> tuple[Int[Tensor, "terms d"], Float[Tensor, "terms k"]]:
    """One polynomial per output, each of the total degree whose exact leave-one-out error is least.

    Args:
        x: inputs in [-1, 1]^d.
        outputs: as many rows.
        degree: the most total degree tried; degrees with more than two thirds as many terms as samples are not.

    Returns:
        Exponents, and coefficients that are zero above an output's degree.

    Example:
        >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
        >>> exponents, coefficients = fit_polynomials(x, x**2, degree=6)
        >>> bool((legendre(x, exponents) @ coefficients - x**2).abs().max() < 1e-12)
        True
    """
    dimension, n = x.shape[1], len(x)
    degrees = [k for k in range(degree + 1) if count_terms(dimension, k) * OVERSAMPLING <= n] or [0]
    exponents = total_degree(dimension, degrees[-1]).to(x.device)
    design = legendre(x, exponents)
    coefficients = torch.zeros(len(exponents), outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    best = torch.full((outputs.shape[1],), torch.inf, dtype=outputs.dtype, device=outputs.device)
    for k in degrees:
        terms = count_terms(dimension, k)
        found, missed = leave_one_out_fit(design[:, :terms], outputs)
        better = missed < best
        best = torch.where(better, missed, best)
        padded = torch.zeros_like(coefficients)
        padded[:terms] = found
        coefficients = torch.where(better, padded, coefficients)
    return exponents, coefficients
