"""Division by the diagonal."""

from __future__ import annotations

from typing import Any

from nearly.core.errors import BadInput
from nearly.linalg.operator import as_square, diagonal_of
from nearly.linalg.triangular import Product


def jacobi(matrix: Any) -> Product:
    """The preconditioner `r -> D^-1 r`, D the diagonal of A.

    Among all diagonal ones it is within a factor n of the best condition number, for symmetric positive definite A (van der Sluis
    1969, Condition numbers and equilibration of matrices, doi:10.1007/BF02165096, theorem 4.1).

    Args:
        matrix: A, real or complex, dense of shape (*batch, n, n) or sparse of shape (n, n).

    Returns:
        A map on residuals of shape (*batch, n, k).

    Raises:
        BadInput: for an operator, or a zero on the diagonal.

    Example:
        >>> import torch
        >>> jacobi([[2.0, 1.0], [1.0, 4.0]])(torch.ones(2, 1)).flatten().tolist()
        [0.5, 0.25]
    """
    diagonal = diagonal_of(as_square(matrix, complex_too=True)).detach()
    if not bool((diagonal != 0).all()):
        raise BadInput("matrix", "without zeros on its diagonal", f"{int((diagonal == 0).sum())} of them")
    inverse = (1 / diagonal).unsqueeze(-1)
    return lambda rest: rest * inverse.to(rest.dtype.to_complex() if inverse.is_complex() else rest.dtype)
