"""Powers of two that bring tensors of any size to size one without rounding, so that squares neither overflow nor vanish."""

from __future__ import annotations

import torch
from torch import Tensor


def binary_scale(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The power of two at or below the largest entry along some dimensions, which are kept; one where none is other than zero.

    The largest entries of `tensor / binary_scale(tensor, dim)` lie in [1, 2), or below where they are subnormal numbers.

    Example:
        >>> x = torch.tensor([3e300, 4e300], dtype=torch.float64)
        >>> scale = binary_scale(x, -1)
        >>> float((x / scale).norm() * (scale / 1e300))
        5.0
    """
    entries = tensor.detach().abs() if tensor.is_complex() else tensor.detach()
    if entries.numel():  # two passes over real entries take less time than one that writes
        largest = torch.maximum(entries.amax(dim=dim, keepdim=True), -entries.amin(dim=dim, keepdim=True))
    else:  # nothing has no largest entry, but its sum is zero
        largest = entries.sum(dim=dim, keepdim=True)
    _, exponent = torch.frexp(largest)
    ones = torch.ones_like(largest)
    scale = torch.ldexp(ones, exponent - 1).clamp(min=torch.finfo(largest.dtype).tiny)
    return torch.where(largest > 0, scale, ones)


def row_norms(rows: Tensor) -> Tensor:
    """The 2-norm of every row of a matrix; its squares neither overflow nor vanish.

    Example:
        >>> [f"{norm:.0e}" for norm in row_norms(torch.tensor([[3e200, 4e200], [3e-200, 4e-200]], dtype=torch.float64)).tolist()]
        ['5e+200', '5e-200']
    """
    scale = binary_scale(rows, 1)
    return (rows / scale).norm(dim=1) * scale[:, 0]
