"""Second moments of matrix updates, a factor for each side, and updates divided by their roots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nearly.linalg.factorize import inverse_root_of
from nearly.linalg.products import hermitian_product
from nearly.optim._matrices import each_matrix, gathered, spread_like
from nearly.optim._ranks import first_group
from nearly.optim._vectors import wide
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from nearly.optim.step import Step


@dataclass(frozen=True)
class Kronecker(Transform):
    r"""Shampoo's directions $L^{-1/p} U R^{-1/p}$, of running means L of $U U^T$ and R of $U^T U$, unbiased.

    Tensors are matrices (see `sides`), cut into blocks of equal shapes where a side is longer than `block`, each with factors of
    its own. Sums and roots are in single precision at least, eigenvectors on CPUs in double; on accelerators roots are found by
    products. Roots are made anew at every `every`-th step, and at first at the steps 1, 2, 4, 8 and so on, as the first moments
    have too low a rank to be kept; blocks of equal shapes are one batch, shared out over ranks. Zero moments give zero.

    Source: Gupta, Koren, Singer 2018, "Shampoo: Preconditioned Stochastic Tensor Optimization", arXiv:1802.09568, algorithm 1;
    Anil, Gupta, Koren, Regan, Singer 2020, arXiv:2002.09018, sections 3 and 4.

    Args:
        decay: of the running means.
        ridge: added to L and R, in Frobenius norms of each.
        damping: added to L and R, as it is.
        every: see above.
        block: most rows and columns of a block.
        power: p.
    """

    decay: float = 0.999
    ridge: float = 1e-6
    damping: float = 0.0
    every: int = 20
    block: int = 1024
    power: int = 4
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        pieces = [blocks(gathered(update), self.block) for update in updates]
        sides = {name: step.state(name, factors(self.block, name)) for name in ("left", "right")}
        roots = [step.state(f"{name} root", factors(self.block, name)) for name in sides]
        for piece, left, right in zip(pieces, *sides.values(), strict=True):
            hermitian_product(piece, piece.mT, left, beta=self.decay, alpha=1 - self.decay, out=left)
            hermitian_product(piece.mT, piece, right, beta=self.decay, alpha=1 - self.decay, out=right)
        if refreshes(step.number, self.every):
            moments = [one for side in sides.values() for factor in side for one in factor]
            kept = [one for side in roots for factor in side for one in factor]
            group = first_group(updates[0], step.process_group)
            found = each_matrix(lambda batch: self._roots(batch, step.number), moments, process_group=group)
            torch._foreach_copy_(kept, found)
        found = [left @ piece @ right for piece, left, right in zip(pieces, *roots, strict=True)]
        return [whole(piece, update) for piece, update in zip(found, updates, strict=True)]

    def _roots(self, moments: Tensor, number: int) -> Tensor:
        means = moments / (1 - self.decay**number)
        means.diagonal(dim1=-2, dim2=-1).add_(self.damping)
        route = "eigh" if means.device.type == "cpu" else "newton"
        return inverse_root_of(means, self.power, ridge=self.ridge, route=route)


def refreshes(number: int, every: int) -> bool:
    """Whether roots are made anew at this step: every so often, and at powers of two before.

    Example:
        >>> [number for number in range(1, 25) if refreshes(number, 6)]
        [1, 2, 4, 6, 12, 18, 24]
    """
    return number % every == 0 or (number < every and number & (number - 1) == 0)


def sides(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix, its axes parted where factors of both sides take the least memory.

    Example:
        >>> sides((64, 32, 3, 3)), sides((16, 16, 12, 12)), sides((5,))
        ((64, 288), (256, 144), (5, 1))
    """
    pairs = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, max(2, len(shape)))]
    return min(pairs, key=lambda pair: pair[0] ** 2 + pair[1] ** 2)


def cut(shape: Sequence[int], block: int) -> tuple[int, int, int, int]:
    """How a tensor is cut: blocks down and across, and rows and columns of each, zeros at the edges included.

    Example:
        >>> cut((5, 3, 2), 4)
        (2, 2, 3, 3)
    """
    rows, columns = sides(shape)
    down, across = -(-rows // block), -(-columns // block)
    return down, across, -(-rows // down), -(-columns // across)


def blocks(tensor: Tensor, block: int) -> Tensor:
    """A tensor's blocks in single precision at least, shape (blocks, rows, columns)."""
    down, across, rows, columns = cut(tensor.shape, block)
    matrix = tensor.reshape(sides(tensor.shape)).to(wide(tensor.dtype))
    if down == across == 1:
        return matrix[None]
    margins = (0, across * columns - matrix.shape[1], 0, down * rows - matrix.shape[0])
    padded = torch.nn.functional.pad(matrix, margins)
    return padded.view(down, rows, across, columns).transpose(1, 2).reshape(-1, rows, columns)


def whole(pieces: Tensor, like: Tensor) -> Tensor:
    """Blocks put together, in shape and dtype of the tensor they came from, and distributed as that is."""
    matrix_shape = sides(like.shape)
    if len(pieces) > 1:
        rows, columns = pieces.shape[1:]
        down, across = -(-matrix_shape[0] // rows), -(-matrix_shape[1] // columns)
        pieces = pieces.view(down, across, rows, columns).transpose(1, 2).reshape(down * rows, across * columns)
        pieces = pieces[: matrix_shape[0], : matrix_shape[1]]
    return spread_like(pieces.to(like.dtype), like)


def factors(block: int, side: str) -> Callable[[Tensor], Tensor]:
    """Makes zeros for the "left" or "right" factors of all blocks of a parameter, shape (blocks, n, n)."""

    def make(parameter: Tensor) -> Tensor:
        down, across, rows, columns = cut(parameter.shape, block)
        n = rows if side == "left" else columns
        return torch.zeros(down * across, n, n, dtype=wide(parameter.dtype), device=parameter.device)

    return make
