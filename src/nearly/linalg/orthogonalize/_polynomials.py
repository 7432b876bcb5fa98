"""Odd polynomials of matrices, which change their singular values alone, by products that know what is symmetric."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Rows from which a symmetric product is made of blocks, the upper ones copied. One core with bfloat16 instructions: 0.76 of a
# product's time at n = 1,024 in single precision, 0.81 in half, and no gain in half precision at n = 256.
BLOCKED = 256
BLOCKED_HALF = 1024
TALL = 1.5  # rows over columns, from which two steps on the Gram matrix cost fewer operations than on the matrix

Steps = Sequence[tuple[float, float, float]]


def multiplies_halves(matrix: Tensor) -> bool:
    """Whether products in bfloat16 are faster here: CPUs without instructions for it make them slower."""
    if matrix.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return not matrix.is_complex()


def hermitian_product(
    left: Tensor, right: Tensor, base: Tensor | None = None, *, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """`alpha left @ right + beta base` of matrices or one batch of them, where that is Hermitian."""
    n = left.shape[-2]
    if left.device.type != "cpu" or n < (BLOCKED_HALF if left.dtype == torch.bfloat16 else BLOCKED):
        return multiply_add(base, left, right, beta=beta, alpha=alpha)
    half = n // 2
    out = left.new_empty(*left.shape[:-1], n)
    for rows, columns in ((slice(half), slice(half)), (slice(half, None), slice(None))):
        block = out[..., rows, columns]
        below = None if base is None else base[..., rows, columns]
        multiply_add(below, left[..., rows, :], right[..., columns], beta=beta, alpha=alpha, out=block)
    out[..., :half, half:] = out[..., half:, :half].mH
    return out


def multiply_add(
    base: Tensor | None, left: Tensor, right: Tensor, *, beta: float, alpha: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """`alpha left @ right + beta base` in one pass."""
    if base is None:
        return torch.matmul(left, right, out=out)
    fused = torch.addmm if left.ndim == 2 else torch.baddbmm
    return fused(base, left, right, beta=beta, alpha=alpha, out=out)


def unit_norm(x: Tensor) -> Tensor:
    """X over its Frobenius norm; zero stays zero."""
    return x / x.flatten(-2).norm(dim=-1)[..., None, None].clamp(min=torch.finfo(x.dtype).tiny)


def scaled_to_one(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X, its Gram matrix G and `G^2`, scaled so that no singular value exceeds one; zero stays zero.

    `||G^2||_F^(1/4)` is at least the largest singular value, and for a Gaussian matrix of size 1,024 at most 1.7 times that, where
    the Frobenius norm is 16 times it; the first step needs `G^2` in any case.
    """
    gram = hermitian_product(x.mH, x)
    square = hermitian_product(gram, gram)
    size = square.flatten(-2).norm(dim=-1)[..., None, None].clamp(min=torch.finfo(square.dtype).tiny)
    root = size.sqrt()
    return x / root.sqrt(), gram / root, square / size


def advance(x: Tensor, gram: Tensor, steps: Steps, square: Tensor | None = None) -> Tensor:
    """X after steps `X (a I + b G + c G^2)` with G the Gram matrix of what X has become.

    Several are taken on the Gram matrix, and X is multiplied once: to first order the singular values change by what rounding does
    to G, relative to its largest eigenvalue.

    Args:
        x: matrices, tall or square.
        gram: their Gram matrices.
        steps: coefficients (a, b, c).
        square: of the Gram matrices, where known.

    Returns:
        The new matrices.
    """
    composed = None
    for k, (a, b, c) in enumerate(steps):
        if k or square is None:
            change = hermitian_product(gram, gram, gram, beta=b, alpha=c)
        else:
            change = torch.add(gram * b, square, alpha=c)
        if len(steps) == 1:
            return multiply_add(x, x, change, beta=a)
        change.diagonal(dim1=-2, dim2=-1).add_(a)
        composed = change if composed is None else hermitian_product(composed, change)
        if k + 1 < len(steps):
            gram = hermitian_product(hermitian_product(gram, change), change)
    assert composed is not None
    return x @ composed


def runs(schedule: Steps, matrix: Tensor) -> list[Steps]:
    """A schedule in pieces to take on one Gram matrix: pairs where matrices are tall; in bfloat16, the last two steps alone.

    There, a pair leaves singular values near one some percent off, and the steep first polynomials overshoot and diverge beyond
    one: pairs all through took matrices with singular values from 1 to 0.01 to a norm of 500 in five steps (least = 0.001).
    """
    if matrix.shape[-2] < TALL * matrix.shape[-1]:
        return [[step] for step in schedule]
    singles = max(0, len(schedule) - 2) if matrix.dtype == torch.bfloat16 else len(schedule) % 2
    return [[step] for step in schedule[:singles]] + [schedule[k : k + 2] for k in range(singles, len(schedule), 2)]
