"""The largest singular triplets of a sparse matrix that grows: each update costs what its own nonzeros cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse
import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, generator_from, require_finite, require_int, to_tensor
from nearly.linalg.factorize.randomized_svd import LowRank, by_rows, times
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DEPTH = 4  # blocks of the Krylov space for large updates: with 4 the smallest values are within 1% of those of all directions
OVERSAMPLING = 10  # Halko, Martinsson and Tropp 2011, section 4.2
WORST = 1e4  # condition of the small factor at which it is multiplied out; round-off grows by as much


class UpdatedSVD:
    """`A = left diag(values) right + R` for a matrix that gains rows, columns or products, at most `rank` triplets at a time.

    It replaces computing the factors anew after every change. The singular vectors are kept as products: U = U' K with a small K,
    and V likewise. New rows E add the directions `(I - V V^T) E^T = E^T - V (E V)^T`, a sparse part and coefficients of V; their
    Gram matrix is `E E^T - (E V)(E V)^T`, so that they are made orthonormal (Q) without ever being formed. The singular value
    decomposition of the small matrix `[diag(values), 0; E V, E Q]` then turns K, and only rows of V' where E has nonzeros are
    touched.

    With s rows of nnz nonzeros in c columns and rank k, an update takes O(nnz l + (s + c) (k + l)^2) operations, l the directions:
    s, or for s > 4 (k + 10) as many as that. Whenever K has become badly conditioned, O((m + n) k^2) to multiply it out.

    What is cut off at one update is gone at the next: singular values close to the last one kept end up some per cent below
    those of the whole matrix, as with every method that keeps k triplets. Triplets beyond those needed cure it.

    Source: Deng, Yang, Li, Chen, Jiang and Pu 2024, Fast updating truncated SVD for representation learning with sparse matrices,
    arXiv 2401.09703: the product form, and Algorithms 2 (orthogonalization) and 3 (rows and low-rank products). The updates
    themselves: Zha and Simon 1999, doi:10.1137/S1064827597329266.
    Departures: (1) the Gram matrix is factored by its eigenvalues, all directions at once, in place of Gram-Schmidt in the
    semi-inner product, so dependent rows are no special case; (2) the directions of large updates come from a block Krylov space
    that starts from E V, what V's triplets gain to first order, and 10 random vectors, in place of random power iterations (which
    left the smallest values several times as far off); (3) K is multiplied out when its condition exceeds 1e4; (4) what is cut
    off is added up.

    Args:
        matrix: to start with: SciPy sparse matrix or array, or tensor (dense or sparse); float32 or float64, m x n.
        rank: the most triplets kept.
        seed: of the Krylov spaces, or a generator.

    Attributes:
        shape: (rows, columns) so far.
        values: the singular values, falling, shape (k,), each within `error` of the true one, and none above it, but for
            rounding, while the matrix has grown by rows alone, or by columns alone.
        error: bound on the Frobenius norm of R in exact arithmetic: the sum of what the updates cut off. Differences of squares
            blur it by about sqrt(eps) of the matrix's norm at each.

    Raises:
        BadInput: a matrix or rank that is not as above.

    Example:
        >>> svd = UpdatedSVD(torch.diag(torch.tensor([4.0, 2.0, 1.0])), rank=2)
        >>> svd.add_rows(torch.tensor([[3.0, 0.0, 0.0]]))
        >>> svd.values.tolist(), round(svd.error, 6), svd.shape
        ([5.0, 2.0], 1.0, (4, 3))
    """

    def __init__(self, matrix: Any, rank: int, *, seed: int | torch.Generator = 0) -> None:
        self.rank = require_int("rank", rank, least=1)
        self._generator = generator_from(seed)
        first = _Update("matrix", matrix, None)
        self._left, self._right = _Factor(0, first.entries), _Factor(first.shape[1], first.entries)
        self.values = first.entries.new_zeros(0)
        self.error = 0.0
        self._add(self._left, self._right, first)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns so far."""
        return self._left.length, self._right.length

    @property
    def left(self) -> Float[Tensor, "m k"]:
        """Left singular vectors as columns; multiplied out on every access."""
        return self._left.vectors()

    @property
    def right(self) -> Float[Tensor, "k n"]:
        """Right singular vectors as rows; multiplied out on every access."""
        return self._right.vectors().T

    def factors(self) -> LowRank:
        """The triplets, with `error` as the bound of both norms; of `values` and R only what is said above."""
        return LowRank(self.left, self.values, self.right, self.error, self.error)

    def add_rows(self, rows: Any) -> None:
        """The matrix becomes `[A; E]`.

        Args:
            rows: E, as `matrix`, with as many columns as A.

        Raises:
            BadInput: E does not fit.
        """
        update = _Update("rows", rows, self.values)
        if update.shape[1] != self.shape[1]:
            raise BadInput("rows", f"of {self.shape[1]} columns", describe(rows))
        self._add(self._left, self._right, update)

    def add_columns(self, columns: Any) -> None:
        """The matrix becomes `[A, E]`.

        Args:
            columns: E, as `matrix`, with as many rows as A.

        Raises:
            BadInput: E does not fit.
        """
        update = _Update("columns", columns, self.values, transpose=True)
        if update.shape[1] != self.shape[0]:
            raise BadInput("columns", f"of {self.shape[0]} rows", describe(columns))
        self._add(self._right, self._left, update)

    def add_product(self, left: Any, right: Any) -> None:
        """The matrix becomes `A + B C^T`.

        Args:
            left: B, as `matrix`, shape (m, r); r is to be small.
            right: C, shape (n, r).

        Raises:
            BadInput: B or C does not fit.
        """
        first = _Update("left", left, self.values, transpose=True)
        second = _Update("right", right, self.values, transpose=True)
        if first.shape[1] != self.shape[0]:
            raise BadInput("left", f"of {self.shape[0]} rows", describe(left))
        if second.shape != (first.shape[0], self.shape[1]):
            raise BadInput("right", f"of shape {(self.shape[1], first.shape[0])}", describe(right))
        one, two = _split(self._left, first), _split(self._right, second)
        k = len(self.values)
        small = torch.cat([one.inside, one.outside], 1).T @ torch.cat([two.inside, two.outside], 1)
        small[:k, :k] += torch.diag(self.values)
        u, v = self._truncated(small, small)
        self._left.turn(u[:k] - one.along @ u[k:], first.support, one.apart @ u[k:])
        self._right.turn(v[:k] - two.along @ v[k:], second.support, two.apart @ v[k:])

    def _add(self, longer: _Factor, other: _Factor, update: _Update) -> None:
        """More rows for one factor; the other gains their directions."""
        k, (count, _) = len(self.values), update.shape
        start = None
        if count > DEPTH * (self.rank + OVERSAMPLING):
            draw = torch.randn(count, self.rank - k + OVERSAMPLING, dtype=torch.float64, generator=self._generator)
            start = draw.to(update.entries)
        split = _split(other, update, start)
        top = torch.cat([torch.diag(self.values), self.values.new_zeros(k, split.outside.shape[1])], 1)
        small = torch.cat([top, torch.cat([split.inside, split.outside], 1)])
        u, v = self._truncated(small, torch.cat([self.values, update.entries.flatten()]))
        longer.turn(u[:k], update.support[:0], u[:0])
        longer.append(u[k:])
        other.turn(v[:k] - split.along @ v[k:], update.support, split.apart @ v[k:])

    def _truncated(self, small: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Leading vectors of a small matrix, whose values are kept; what is lost of the entries' norm adds to the error."""
        if not small.numel():
            return small.new_zeros(len(small), 0), small.new_zeros(small.shape[1], 0)
        u, values, vt = torch.linalg.svd(small, full_matrices=False)
        negligible = max(small.shape) * torch.finfo(values.dtype).eps * values[0]
        self.values = values[: min(self.rank, int((values > negligible).sum()))]
        k = len(self.values)
        scale = _scale(entries)
        lost = (entries / scale).double().square().sum() - (self.values / scale).double().square().sum()
        self.error += scale * math.sqrt(max(0.0, float(lost)))
        return u[:, :k], vt[:k].T


class _Factor:
    """Orthonormal columns as `base[:length] @ small`; the base has room for more rows."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.length, self.base, self.small = length, like.new_zeros(length, 0), like.new_zeros(0, 0)

    def vectors(self) -> Float[Tensor, "m k"]:
        return self.base[: self.length] @ self.small

    def turn(self, matrix: Float[Tensor, "k r"], support: Tensor, change: Float[Tensor, "c r"]) -> None:
        """The columns become `vectors matrix`, plus a change of some of their rows."""
        self.small = self.small @ matrix
        sizes = torch.linalg.svdvals(self.small)
        if self.small.shape[0] != self.small.shape[1] or not bool((sizes * WORST > sizes[:1]).all()):
            self.base = self.base @ self.small
            self.small = torch.eye(self.small.shape[1], dtype=change.dtype, device=change.device)
        self.base[support] += change @ torch.linalg.inv(self.small)  # a condition of 1e4 at most

    def append(self, rows: Float[Tensor, "s k"]) -> None:
        """More rows: in the base, theirs times the small factor's inverse."""
        end = self.length + len(rows)
        if end > len(self.base):
            room = self.base.new_zeros(max(end, 3 * len(self.base) // 2), self.base.shape[1])
            room[: self.length] = self.base[: self.length]
            self.base = room
        self.base[self.length : end] = rows @ torch.linalg.inv(self.small)
        self.length = end


class _Update:
    """New rows, restricted to the columns (`support`) in which they have entries.

    Raises:
        BadInput: no matrix, not floating, not finite, or of another dtype or device than the first.
    """

    def __init__(self, name: str, matrix: Any, like: Tensor | None, *, transpose: bool = False) -> None:
        if hasattr(matrix, "tocsr"):
            matrix = by_rows(name, matrix.T if transpose else matrix)
            self.entries = to_tensor(matrix.data)
            require_finite(name, self.entries)
            columns, places = np.unique(matrix.indices, return_inverse=True)
            self.support = torch.from_numpy(columns).long()
            self.block = scipy.sparse.csr_matrix((matrix.data, places, matrix.indptr), (matrix.shape[0], len(columns)))
        elif isinstance(matrix, torch.Tensor) and matrix.layout != torch.strided:
            if matrix.dtype not in (torch.float32, torch.float64) or matrix.ndim != 2 or 0 in matrix.shape:
                raise BadInput(name, "a real floating, non-empty matrix", describe(matrix))
            matrix = (matrix.T if transpose else matrix).detach().to_sparse_coo().coalesce()
            self.entries = matrix.values()
            require_finite(name, self.entries)
            rows, columns = matrix.indices()
            self.support, inside = columns.unique(return_inverse=True)
            size = (matrix.shape[0], len(self.support))
            inside = torch.stack([rows, inside])
            self.block = torch.sparse_coo_tensor(inside, self.entries, size, check_invariants=True)
        else:
            matrix = as_floating(name, matrix, dimensions=2).detach()
            matrix = matrix.T if transpose else matrix
            self.support = (matrix != 0).any(0).nonzero().flatten()
            self.entries = self.block = matrix[:, self.support]
        self.shape = tuple(matrix.shape)
        if like is not None and (like.dtype, like.device) != (self.entries.dtype, self.entries.device):
            raise BadInput(name, f"{like.dtype} on {like.device}, as the first matrix", describe(matrix))


class _Split(NamedTuple):
    """Rows E in orthonormal columns V and new ones `Q = apart - V along`, apart having rows on E's support alone."""

    inside: Tensor  # E V, s x k
    outside: Tensor  # E Q, s x l
    along: Tensor  # k x l
    apart: Tensor  # c x l


def _split(factor: _Factor, update: _Update, start: Tensor | None = None) -> _Split:
    """Directions of all rows, or of their leading combinations from a block Krylov space."""
    scale = _scale(update.entries)
    block = update.block / scale
    vectors = factor.base[update.support] @ factor.small
    inside = times(block, vectors)
    if start is None:
        images = block.toarray().T if hasattr(block, "tocsr") else block.to_dense().T
        images = torch.as_tensor(images, dtype=inside.dtype, device=inside.device)
        shares = inside.T
    else:
        basis = _krylov(block, inside, torch.cat([inside, start], 1))
        images, shares = times(block.T, basis), inside.T @ basis
    squares, turn = torch.linalg.eigh(images.T @ images - shares.T @ shares)
    # What is a difference of squares is off by some eps of them: the fewer digits are asked of a direction, the more are left
    # to its orthogonality. 0.6 of the digits of the square is a balance of both.
    least = torch.finfo(squares.dtype).eps ** 0.6 * images.square().sum(0).max() if images.numel() else 0.0
    kept = squares > least
    turn = turn[:, kept] / squares[kept].sqrt()
    along, apart = shares @ turn, images @ turn
    return _Split(inside * scale, (times(block, apart) - inside @ along) * scale, along, apart)


def _krylov(block: Any, inside: Tensor, start: Tensor) -> Tensor:
    """An orthonormal basis of `[X, G X, G^2 X]`, `G = E (I - V V^T) E^T`."""
    basis = newest = torch.linalg.qr(start)[0]
    for _ in range(DEPTH - 1):
        newest = times(block, times(block.T, newest)) - inside @ (inside.T @ newest)
        for _ in range(2):  # twice is enough
            newest = torch.linalg.qr(newest - basis @ (basis.T @ newest))[0]
        basis = torch.cat([basis, newest], 1)
    return basis


def _scale(entries: Tensor) -> float:
    """A power of two near the largest entry, by which squares neither overflow nor vanish; 1 where there is none."""
    return float(binary_scale(entries.flatten(), 0)) if entries.numel() else 1.0
