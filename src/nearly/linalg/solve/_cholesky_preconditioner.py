"""Cholesky factors in single precision, with which a few steps of an iteration in double precision are enough."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nearly.linalg.operator import on_parts
from nearly.linalg.solve._system import Product
from nearly.linalg.threads import cholesky


def cholesky_preconditioner(matrix: Tensor) -> Product | None:
    r"""The product with `(S L L' S)^-1`, where L is the Cholesky factor of `S^-1 A S^-1 + c I` in single precision.

    S^2 is the diagonal of A, and c two units of round-off, or eightfold while there is no factor, up to n of them or more, n the
    size of A: then there is one for whatever is positive definite. Eigenvalues of S^-1 A S^-1 above c become those of M A near 1.

    Source: Higham, Pranesh 2021, Exploiting lower precision arithmetic in solving symmetric positive definite linear systems and
    least squares problems, SIAM Journal on Scientific Computing 43, doi:10.1137/19M1298263: the scaling, a shift by a multiple of
    the diagonal, and factors that precondition GMRES. Conjugate gradients in its place, which they try as well, have no guarantee:
    where these factors do not help, the iteration goes on without.

    Args:
        matrix: A, Hermitian, shape (*batch, n, n), entries in the range of single precision.

    Returns:
        The product with vectors as columns, for a matrix without a factor the identity; None where none has one.
    """
    low = torch.complex64 if matrix.is_complex() else torch.float32
    scale = matrix.diagonal(dim1=-2, dim2=-1).real.rsqrt().unsqueeze(-1)
    scaled = matrix.to(low, copy=True).mul_(scale.float()).mul_(scale.float().mT)
    factor, failed = _factors(scaled, 2)
    shift, most = 2, matrix.shape[-1]
    while shift < most and bool(failed.any()):
        shift *= 8
        factor[failed], failed[failed.clone()] = _factors(scaled[failed], shift)
    if bool(failed.all()):
        return None
    if bool(failed.any()):
        factor[failed], scale[failed] = torch.eye(most, dtype=low, device=matrix.device), 1.0
    product = partial(_apply, factor, scale)
    return product if matrix.is_complex() else on_parts(product)


def _factors(scaled: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Factors, and of which matrices there are none."""
    scaled.diagonal(dim1=-2, dim2=-1).fill_(1 + shift * torch.finfo(scaled.dtype).eps)
    factor, info = cholesky(scaled)
    return factor, (info > 0) | ~torch.isfinite(factor.diagonal(dim1=-2, dim2=-1)).all(dim=-1)


def _apply(factor: Tensor, scale: Tensor, rest: Tensor) -> Tensor:
    inner = rest * scale
    size = inner.abs().amax(dim=-2, keepdim=True).clamp(min=torch.finfo(scale.dtype).tiny)
    inner = torch.linalg.solve_triangular(factor, (inner / size).to(factor.dtype), upper=False)
    return torch.linalg.solve_triangular(factor.mH, inner, upper=True) * (scale * size)
