"""The squared dual norm of a reduced-basis residual, interpolated between a few directly computed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_finite
from nearly.linalg.factorize import empirical_interpolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int
    from torch import Tensor


def direct_squared_norm(
    coefficients: Float[Tensor, "n k"],
    representatives: Float[Tensor, "k dofs"],
    product: Float[Tensor, "dofs dofs"] | None = None,
) -> Float[Tensor, " n"]:
    """Squared residual dual norm from the assembled representative, `|sum_k c_k g_k|_X^2`; costs O(n k dofs).

    Accurate down to `eps` times the largest term: terms cancel before they are squared.

    Args:
        coefficients: c, one row per parameter.
        representatives: Riesz representatives g_k of the residual's parts r_k, one per row.
        product: the inner product X; None when the representatives are given in X-orthonormal coordinates.

    Returns:
        Shape (n,).

    Example:
        >>> direct_squared_norm(torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
        [25.0]
    """
    residual = coefficients @ representatives
    return (residual * (residual if product is None else residual @ product)).sum(dim=1)


def expanded_squared_norm(coefficients: Float[Tensor, "n k"], gram: Float[Tensor, "k k"]) -> Float[Tensor, " n"]:
    """Squared residual dual norm from the Gram matrix, `c^T G c`; costs O(n k^2), free of the full dimension.

    Squares are summed before they cancel, so what is left is `eps` times the largest of them and the norm stagnates
    near `sqrt(eps)`, 1e-8 of the load's norm in float64; it may be negative.

    Args:
        coefficients: c, one row per parameter.
        gram: G_kl = (g_k, g_l)_X.

    Returns:
        Shape (n,).

    Example:
        >>> expanded_squared_norm(torch.tensor([[1.0, -1.0]]), torch.tensor([[9.0, 0.0], [0.0, 16.0]])).tolist()
        [25.0]
    """
    return ((coefficients @ gram) * coefficients).sum(dim=1)


@dataclass(frozen=True, eq=False)
class InterpolatedResidual:
    r"""Squared residual dual norm as a combination of directly computed ones; replaces the expansion `c^T G c`.

    With `r(mu) = sum_k c_k(mu) r_k`, the squared norm is linear in the products `X_I = c_i c_j`. Empirical
    interpolation chooses parameters mu_1..mu_d and products I_1..I_d such that, for all I,
    `X_I(mu) = sum_s lambda_s(mu) X_I(mu_s)` up to the interpolation error, hence

    .. math:: \|r(\mu)\|^2 \approx \sum_s \lambda_s(\mu) \, \|r(\mu_s)\|^2, \qquad
        \sum_s X_{I_t}(\mu_s) \lambda_s(\mu) = X_{I_t}(\mu).

    Gram entries of size one never meet: every number summed is itself a small squared norm. A call costs O(d^2) per
    parameter, whatever the full dimension. Norms below about 1e-8 of the largest one chosen are lost (their squares
    fall below its round-off), so this wants residuals that are small everywhere, as a greedy basis makes them.
    The value is an estimate, no bound: it can lie below the truth wherever the training set misses something.

    Stabilization: a product `c_i c_j` is known up to about `eps (|c_i| + |c_j|) max|c|`, since the reduced solve that
    made the coefficients errs by `eps max|c|`. Each product is divided by this level (over the training set) before
    points are chosen. Small products then count as long as they carry digits, and interpolation stops when none
    does. Undivided products stop at the round-off of the largest one, where the parts that a tiny residual is made of
    are already cut off.

    Args:
        pairs: i and j of the chosen products, int64, shape (2, d).
        levels: what the chosen products are divided by, shape (d,).
        lower: triangular matrix B of the interpolation at the chosen products, shape (d, d).
        weights: the squared norms seen through the other factor U: `sum_s lambda_s V_s = weights . B^-1 x`, shape (d,).
        chosen: which training rows were evaluated directly, int64, shape (d,).
        terms: length k of a coefficient vector.
        error: largest interpolation error of a product over the training set, in units of its level.
    """

    pairs: Int[Tensor, "2 d"]
    levels: Float[Tensor, " d"]
    lower: Float[Tensor, "d d"]
    weights: Float[Tensor, " d"]
    chosen: Int[Tensor, " d"]
    terms: int
    error: float

    @classmethod
    def prepare(
        cls,
        coefficients: Float[Tensor, "m k"],
        squared_norm: Callable[[Float[Tensor, "d k"]], Float[Tensor, " d"]],
        *,
        rank: int | None = None,
        stabilized: bool = True,
    ) -> InterpolatedResidual:
        """Choose parameters from a training set and evaluate the squared norm there, and nowhere else.

        The training set needs at least as many rows as the products span dimensions (2 N + 1 for N basis functions
        and one parameter that enters linearly); it holds m k (k + 1) / 2 products at a time.

        Args:
            coefficients: c at the training parameters, float64. For loads phi_p f_p and operators theta_q A_q on a
                basis u_n: `c = [phi_1, .., -theta_1 u_1, ..]` in any order.
            squared_norm: accurate squared dual norms for rows of coefficients, such as `direct_squared_norm` with the
                representatives filled in, or a full solve per row.
            rank: most parameters to evaluate; by default as many as carry digits.
            stabilized: whether to divide the products by their round-off levels.

        Returns:
            The prepared estimate.

        Raises:
            BadInput: coefficients are not a non-empty, finite float64 matrix or all zero, `rank` is out of range, or
                `squared_norm` returns a wrong shape, NaN or a negative number.

        Source:
            Casenave, Ern and Lelievre 2014, "Accurate and online-efficient evaluation of the a posteriori error bound
            in the reduced basis method", ESAIM M2AN 48, doi 10.1051/m2an/2013097, arXiv 1212.0970: the interpolated
            formula. Departures: (1) greedy choice by pivoted elimination, see `empirical_interpolation`; (2) the
            stabilization above is Nearly's own, in the place of the one in the paper; (3) real coefficients.

        Example:
            >>> mu = torch.linspace(1, 2, 9, dtype=torch.float64)[:, None]
            >>> c = torch.cat([torch.ones_like(mu), -mu], dim=1)  # r(mu) = r_1 - mu r_2, |r_1| = |r_2| = 1, orthogonal
            >>> estimate = InterpolatedResidual.prepare(c, lambda rows: rows.square().sum(dim=1))
            >>> len(estimate.chosen), round(float(estimate.squared_norm(c[3:4])), 12) == round(1 + 1.375**2, 12)
            (3, True)
        """
        if coefficients.ndim != 2 or not coefficients.numel() or coefficients.dtype != torch.float64:
            raise BadInput("coefficients", "a float64 matrix, one row per parameter", describe(coefficients))
        require_finite("coefficients", coefficients)
        size = coefficients.shape[1]
        pairs = torch.triu_indices(size, size, device=coefficients.device)
        largest = coefficients.abs().amax(dim=0)
        if not bool(largest.max() > 0):
            raise BadInput("coefficients", "not all zero", describe(coefficients))
        levels = (largest[pairs[0]] + largest[pairs[1]]) * largest.max()
        if not stabilized:
            levels = torch.ones_like(levels)
        # A coefficient that is zero on the whole training set has level zero with itself.
        levels = torch.where(levels > 0, levels, 1.0)
        products = (coefficients[:, pairs[0]] * coefficients[:, pairs[1]]).T / levels[:, None]
        eim = empirical_interpolation(products, rank=rank)
        assert eim.basis is not None
        assert eim.upper is not None
        squares = squared_norm(coefficients[eim.columns])
        if squares.shape != eim.columns.shape or not bool(((squares >= 0) & torch.isfinite(squares)).all()):
            raise BadInput("squared_norm", "a function to one finite number >= 0 per row", describe(squares))
        weights = torch.linalg.solve_triangular(eim.upper.T, squares.to(products)[:, None], upper=False)[:, 0]
        kept = eim.rows
        return cls(pairs[:, kept], levels[kept], eim.basis[kept], weights, eim.columns, size, float(eim.errors[-1]))

    def squared_norm(self, coefficients: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Estimated squared dual norm; round-off can make it slightly negative where the residual is nearly zero.

        Args:
            coefficients: c, one row per parameter, ordered as in `prepare`.

        Returns:
            Shape (n,).

        Raises:
            BadInput: coefficients are not a float64 matrix with as many columns as the training ones.
        """
        if coefficients.ndim != 2 or coefficients.shape[1] != self.terms or coefficients.dtype != torch.float64:
            raise BadInput("coefficients", f"a float64 matrix with {self.terms} columns", describe(coefficients))
        products = coefficients[:, self.pairs[0]] * coefficients[:, self.pairs[1]] / self.levels
        return torch.linalg.solve_triangular(self.lower, products.T, upper=False, unitriangular=True).T @ self.weights

    def norm(self, coefficients: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Estimated dual norm, zero where the estimated square is negative; arguments as for `squared_norm`."""
        return self.squared_norm(coefficients).clamp(min=0).sqrt()
