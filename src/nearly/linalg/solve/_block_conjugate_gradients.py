"""Conjugate gradients in which the columns of a system share one Krylov space."""

from __future__ import annotations

import torch
from torch import Tensor

from nearly.linalg.solve._system import Cycle, Product


def block_cycle(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    r"""One run from a residual R of k columns, each of which is minimized over the sum of all their Krylov spaces.

    From `R = W s` with `W' M W = I`, `D = M W`:

        X <- X + D c s,   W_new t = W - A D c,   D <- M W_new + D t',   s <- t s,   c = (D' A D)^-1,

    so that for n unknowns some n / k steps are enough. W comes from Householder's factorization, whose columns are orthonormal
    also where residuals depend on each other, as they do when some have converged before others: none has to be left out.

    A system whose `D' A D` has no Cholesky factor ends with what it has, and all do where some `W' M W` has none; as W may then
    hold directions that are in no residual, this by itself proves nothing of A or M.

    Source: O'Leary 1980, The block conjugate gradient algorithm and related methods, doi:10.1016/0024-3795(80)90247-5, in the form
    of Dubrulle 2001, Retooling the method of block conjugate gradients, Electronic Transactions on Numerical Analysis 12, pages
    216 to 233 (orthonormal residuals). Departure: with a preconditioner they are orthonormal in its inner product.
    """
    x, taken = torch.zeros_like(rest), torch.zeros_like(enough, dtype=torch.int64)
    live = torch.ones_like(enough, dtype=torch.bool)
    found = _orthonormal(rest, precondition)
    if found is None or not most:
        return Cycle(x, taken, ~live)
    basis, direction, sizes, _ = found
    eye = torch.eye(rest.shape[-1], dtype=rest.dtype, device=rest.device)
    for _ in range(most):
        image = product(direction)
        gram = direction.mH @ image
        factor, failed = torch.linalg.cholesky_ex((gram + gram.mH) / 2)
        ended = failed > 0
        live = live & ~ended.unsqueeze(-1)
        if not bool(live.any()):
            break
        lengths = torch.cholesky_inverse(torch.where(ended[..., None, None], eye, factor))
        lengths, image = (torch.where(ended[..., None, None], 0.0, one) for one in (lengths, image))
        x += direction @ (lengths @ sizes)
        taken += live
        found = _orthonormal(basis - image @ lengths, precondition)
        if found is None:
            break
        basis, better, change, upper = found
        live = live & ((upper @ sizes).norm(dim=-2) > enough)
        if not bool(live.any()):
            break
        direction = better + direction @ change.mH
        sizes = change @ sizes
    return Cycle(x, taken, torch.zeros_like(live))


def _orthonormal(columns: Tensor, precondition: Product) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """W, M W, t and u with `V = W t`, `W' M W = I` and `||V y|| = ||u y||` for all y; None where M is not positive definite."""
    basis, upper = torch.linalg.qr(columns)
    better = precondition(basis)
    if better is basis:
        return basis, basis, upper, upper
    gram = basis.mH @ better
    factor, failed = torch.linalg.cholesky_ex((gram + gram.mH) / 2)
    if bool(failed.any()):
        return None
    basis, better = (torch.linalg.solve_triangular(factor, one.mH, upper=False).mH for one in (basis, better))
    return basis, better, factor.mH @ upper, upper
