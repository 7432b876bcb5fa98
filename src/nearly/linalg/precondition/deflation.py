"""Some directions exactly, the others by another preconditioner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.validate import as_floating, describe
from nearly.linalg.operator import as_square
from nearly.linalg.promotion import in_precision
from nearly.linalg.triangular import Product

if TYPE_CHECKING:
    from jaxtyping import Float


def deflation(
    matrix: Any, directions: Float[Tensor, "*batch n m"], *, preconditioner: Product | None = None
) -> Product:
    r"""The preconditioner `Q + (1 - Q A) P (1 - A Q)`, `Q = V (V'A V)^-1 V'`: balancing, in the words of domain decomposition.

    On the range of V it is the inverse of A; on its A-orthogonal complement it is P. Where V spans eigenvectors and P is the
    identity, conjugate gradients see these eigenvalues as 1 and the others as they are: the condition number is that without
    them. Products with A are needed once, for A V.

    Source: Mandel 1993, Balancing domain decomposition, doi:10.1002/cnm.1640090307; Tang, Nabben, Vuik and Erlangga 2009,
    Comparison of two-level preconditioners, doi:10.1007/s10915-009-9272-6, section 2.3, "BNN".

    Args:
        matrix: A, symmetric or Hermitian positive definite, as `nearly.linalg.operator.as_square` takes it.
        directions: V, of full rank; real where A is.
        preconditioner: P, likewise; the identity by default.

    Returns:
        A map on residuals of shape (*batch, n, k).

    Raises:
        BadInput: for directions that do not fit the matrix.
        FactorizationFailed: where V'A V is not positive definite.

    Example:
        >>> matrix = torch.diag(torch.tensor([0.01, 1.0]))
        >>> [round(value, 3) for value in deflation(matrix, torch.eye(2)[:, :1])(torch.ones(2, 1)).flatten().tolist()]
        [100.0, 1.0]
    """
    directions = as_floating("directions", directions, least_dimensions=2, complex_too=True).detach()
    side, kind, device = directions.shape[-2], directions.dtype, directions.device
    matrix = as_square(matrix, side, dtype=kind, device=device, complex_too=True)
    if directions.is_complex() and not matrix.dtype.is_complex:
        raise BadInput("directions", "real, as the matrix is", describe(directions))
    if directions.shape[:-1] != matrix.shape[:-1]:
        raise BadInput("directions", f"of shape {(*matrix.shape[:-1], 'm')}", describe(directions))
    directions = directions.to(matrix.dtype, copy=True)  # to stay those that the images are of
    with torch.no_grad():
        images = matrix @ directions
        coarse, info = torch.linalg.cholesky_ex(directions.mH @ images)
    if bool(info.any()):
        raise FactorizationFailed(
            "the matrix is not positive definite on the directions, or they are linearly dependent: orthonormalize them"
        )

    def apply(rest: Tensor) -> Tensor:
        weights = torch.cholesky_solve(directions.mH @ rest, coarse)
        left = rest - images @ weights
        other = left if preconditioner is None else preconditioner(left)
        return other + directions @ (weights - torch.cholesky_solve(images.mH @ other, coarse))

    return in_precision(apply, matrix.dtype)
