"""What iterations for linear systems take: matrices, right-hand sides, approximate inverses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe
from nearly.linalg.operator import Operator, as_square
from nearly.linalg.promotion import in_precision

if TYPE_CHECKING:
    from nearly.linalg.solve._system import Product


def checked_system(matrix: Any, right: Any, *, complex_too: bool = False) -> tuple[Tensor | Operator, Tensor]:
    """Matrix and right-hand sides of one dtype; but a real matrix stays real beside complex right-hand sides.

    Args:
        matrix: as `as_square` takes it.
        right: shape (n,), (n, k), or (*batch, n, k).
        complex_too: whether complex systems are taken.

    Returns:
        The matrix, a dense tensor, sparse tensor by rows or operator; and the right-hand sides.

    Raises:
        BadInput: otherwise.
    """
    right = as_floating("right", right, least_dimensions=1, complex_too=complex_too)
    matrix = as_square(matrix, right.shape[0], dtype=right.dtype, device=right.device, complex_too=complex_too)
    shape = tuple(matrix.shape)
    batch, side = shape[:-2], shape[-1]
    asked = f"of shape ({side},) or ({side}, k)" if not batch else f"of shape {(*batch, side, 'k')}"
    if not batch and right.ndim > 2:
        raise BadInput(
            "matrix", f"of shape {(*right.shape[:-1], right.shape[-2])}, as right is batched", f"shape {shape}"
        )
    fits = right.shape[0] == side if not batch else tuple(right.shape[:-1]) == shape[:-1]
    if not fits or (batch and right.ndim != len(shape)):
        raise BadInput("right", asked, describe(right))
    if isinstance(matrix, Tensor):
        matrix = matrix.to(torch.promote_types(matrix.dtype, right.dtype.to_real()))
    return matrix, right.to(torch.promote_types(matrix.dtype, right.dtype))


def checked_inverse(
    name: str, inverse: Any, *, device: torch.device | None = None, complex_too: bool = False
) -> Product:
    """The product with an approximate inverse: the identity, a callable, or anything with `@`.

    Args:
        name: the argument's, for messages.
        inverse: as given; matrices and SciPy's operators are applied in their own precision.
        device: of what has none of its own.
        complex_too: whether it may be complex, as the system is.

    Returns:
        The product, whose shapes are checked at each call.

    Raises:
        BadInput: for anything else.
    """
    if inverse is None:
        return lambda rest: rest
    side = None
    if isinstance(inverse, Tensor) or any(hasattr(inverse, one) for one in ("__array__", "tocsr", "matmat")):
        try:
            inverse = as_square(inverse, device=device, complex_too=complex_too)
        except BadInput as error:
            raise BadInput(name, error.requirement, error.got, error.advice) from error
        side = inverse.shape[-1]
        product = in_precision(inverse.__matmul__, inverse.dtype)
    elif hasattr(inverse, "__matmul__"):
        product = inverse.__matmul__
    elif callable(inverse):
        product = inverse
    else:
        raise BadInput(name, "a callable, or something with products", describe(inverse))

    def apply(rest: Tensor) -> Tensor:
        if side not in (None, rest.shape[-2]):
            raise BadInput(name, f"of {rest.shape[-2]} columns", describe(inverse))
        found = product(rest)
        if not isinstance(found, Tensor) or found.shape != rest.shape:
            raise BadInput(name, f"able to take {tuple(rest.shape)} to the same shape", describe(found))
        if found.is_complex() and not rest.is_complex():
            raise BadInput(name, "real, as the system is", describe(found))
        return found.to(rest.dtype)

    return apply
