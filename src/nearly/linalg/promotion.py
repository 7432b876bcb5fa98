"""Tensors of one dtype, none of whose numbers is lost, and products for those of another."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from nearly.linalg.operator import Product, on_parts


def promoted(*tensors: Tensor) -> list[Tensor]:
    """All in the least dtype that holds all of theirs: a large number in double precision would be infinite in single.

    Example:
        >>> [one.dtype for one in promoted(torch.ones(1), torch.ones(1, dtype=torch.complex128))]
        [torch.complex128, torch.complex128]
    """
    dtype = reduce(torch.promote_types, (one.dtype for one in tensors))
    return [one.to(dtype) for one in tensors]


def in_precision(product: Product, dtype: torch.dtype) -> Product:
    """A product with a matrix of a dtype for vectors of any: computed in its precision, rounded to theirs.

    Example:
        >>> in_precision(torch.eye(1).__matmul__, torch.float32)(torch.ones(1, 1, dtype=torch.complex128)).dtype
        torch.complex128
    """
    if dtype.is_complex:
        return lambda vectors: product(vectors.to(dtype)).to(vectors.dtype.to_complex())
    return on_parts(lambda vectors: product(vectors.to(dtype)).to(vectors.dtype))
