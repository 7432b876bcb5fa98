"""Odd polynomials of matrices, which change their singular values alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearly.linalg.products import hermitian_product, multiply_add

LONG = 1.5  # a side over the other, from which two steps on the Gram matrix cost fewer operations than on the matrix

Steps = Sequence[tuple[float, float, float]]


def multiplies_halves(matrix: Tensor) -> bool:
    """Whether products in bfloat16 are faster here: CPUs without instructions for it make them slower."""
    if matrix.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return not matrix.is_complex()


def gram_matrix(x: Tensor) -> Tensor:
    """Products of the vectors on the shorter side: `X X^H` of wide and square matrices, `X^H X` of tall ones."""
    short = x if x.shape[-2] <= x.shape[-1] else x.mH
    return hermitian_product(short, short.mH)


def times_change(x: Tensor, change: Tensor, *, beta: float = 0.0) -> Tensor:
    """X times a polynomial of its Gram matrix, from that side, `+ beta X`: in memory the result lies as X does."""
    left, right = (change, x) if x.shape[-2] <= x.shape[-1] else (x, change)
    return multiply_add(x if beta else None, left, right, beta=beta)


def unit_norm(x: Tensor) -> Tensor:
    """X over its Frobenius norm; zero stays zero."""
    return x / x.flatten(-2).norm(dim=-1)[..., None, None].clamp(min=torch.finfo(x.dtype).tiny)


def scaled_to_one(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X, its Gram matrix G and `G^2`, scaled so that no singular value exceeds one; zero stays zero.

    `||G^2||_F^(1/4)` is at least the largest singular value, and for a Gaussian matrix of size 1,024 at most 1.7 times that, where
    the Frobenius norm is 16 times it; the first step needs `G^2` in any case.
    """
    gram = gram_matrix(x)
    square = hermitian_product(gram, gram)
    size = square.flatten(-2).norm(dim=-1)[..., None, None].clamp(min=torch.finfo(square.dtype).tiny)
    root = size.sqrt()
    return x / root.sqrt(), gram / root, square / size


def advance(x: Tensor, gram: Tensor, steps: Steps, square: Tensor | None = None) -> Tensor:
    """X after steps `X (a I + b G + c G^2)`, or `(a I + b G + c G^2) X`, with G the Gram matrix of what X has become.

    Several are taken on the Gram matrix, and X is multiplied once: to first order the singular values change by what rounding does
    to G, relative to its largest eigenvalue.

    Args:
        x: matrices.
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
            return times_change(x, change, beta=a)
        change.diagonal(dim1=-2, dim2=-1).add_(a)
        composed = change if composed is None else hermitian_product(composed, change)
        if k + 1 < len(steps):
            gram = hermitian_product(hermitian_product(gram, change), change)
    assert composed is not None
    return times_change(x, composed)


def runs(schedule: Steps, matrix: Tensor) -> list[Steps]:
    """A schedule in pieces to take on one Gram matrix: pairs where a side is much longer; in bfloat16, the last two steps alone.

    There, a pair leaves singular values near one some percent off, and the steep first polynomials overshoot and diverge beyond
    one: pairs all through took matrices with singular values from 1 to 0.01 to a norm of 500 in five steps (least = 0.001).
    """
    if max(matrix.shape[-2:]) < LONG * min(matrix.shape[-2:]):
        return [[step] for step in schedule]
    singles = max(0, len(schedule) - 2) if matrix.dtype == torch.bfloat16 else len(schedule) % 2
    return [[step] for step in schedule[:singles]] + [schedule[k : k + 2] for k in range(singles, len(schedule), 2)]
