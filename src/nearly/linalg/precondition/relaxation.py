"""A symmetric sweep of successive over-relaxation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import require_float
from nearly.linalg.operator import adjoint, as_square, diagonal_of
from nearly.linalg.promotion import in_precision
from nearly.linalg.triangular import Product, triangular_solver


def symmetric_over_relaxation(matrix: Any, *, relaxation: float = 1.0) -> Product:
    r"""The preconditioner `M r`, `M^-1 = w / (2 - w) (D / w + L) D^-1 (D / w + L)'`, one forward and one backward sweep (SSOR).

    D and L are the diagonal of A and what lies below it. For symmetric positive definite A and 0 < w < 2 it is positive definite,
    with a condition number of `M A` near the square root of that of A where w is chosen well, on Poisson problems. Sparse triangles
    are solved level by level.

    Source: Axelsson 1972, A generalized SSOR method, doi:10.1007/BF01932955; Saad 2003, section 10.2.

    Args:
        matrix: A, symmetric or Hermitian: dense, shape (*batch, n, n), or sparse, shape (n, n).
        relaxation: w, between 0 and 2.

    Returns:
        A map on residuals of shape (*batch, n, k).

    Raises:
        BadInput: for an operator, or a zero on the diagonal.

    Example:
        >>> import torch
        >>> symmetric_over_relaxation(torch.diag(torch.tensor([2.0, 4.0])))(torch.ones(2, 1)).flatten().tolist()
        [0.5, 0.25]
    """
    w = require_float("relaxation", relaxation, above=0, below=2)
    matrix = as_square(matrix, complex_too=True)
    diagonal = diagonal_of(matrix).detach().unsqueeze(-1)
    if not bool((diagonal != 0).all()):
        raise BadInput("matrix", "without zeros on its diagonal", f"{int((diagonal == 0).sum())} of them")
    turned = adjoint(matrix)
    assert isinstance(matrix, Tensor)  # operators have no diagonal
    assert isinstance(turned, Tensor)
    forward = triangular_solver(matrix.detach())(diagonal / w)
    backward = triangular_solver(turned.detach(), upper=True)(diagonal / w)
    middle = (2 / w - 1) * diagonal

    def apply(rest: Tensor) -> Tensor:
        return backward(middle * forward(rest))

    return in_precision(apply, matrix.dtype)
