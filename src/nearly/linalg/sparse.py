"""Direct solves of sparse matrices that share one pattern: ordered once, assembled and factored per coefficient vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.validate import describe
from nearly.linalg.threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from jaxtyping import Float, Int

# Unknowns with at most this many neighbors are eliminated by hand, before SuperLU: the centers of a crisscross mesh,
# every other cell of a five-point grid. On 19,801 unknowns of the former this took factoring from 17 to 11 ms.
_NEIGHBORS = 4
# SuperLU's solve with many right-hand sides is fastest in blocks that stay in cache (0.69 ms each at 200, 0.32 at 32).
_BLOCK = 32
_WORST_RESIDUAL = 1e-6


class SparseFamily:
    """All matrices `A(c) = sum_q c_q A_q` on the free unknowns, for solving with one after another.

    It replaces assembling each matrix anew and factoring it with a fresh ordering. Made once: the union of the patterns,
    the unknowns that are eliminated by hand, and a minimum-degree ordering of the others. Made per coefficient vector:
    the entries (one product with a sparse matrix), the Schur complement, and its factors L U without pivoting.

    Going without pivoting is safe when the symmetric part of every A(c) is positive definite on the free unknowns,
    as of every coercive problem (Golub and Van Loan 2013, section 4.3.2); other matrices are not for this class. Every
    solution's residual is checked all the same.

    Args:
        operators: the A_q: sparse, square, one shape.
        free: indices of the unknowns solved for; the others are zero.

    Raises:
        BadInput: operators of different shapes, or free not distinct indices of unknowns.

    Example:
        >>> family = SparseFamily([scipy.sparse.diags([1.0, 2.0, 4.0])], np.array([0, 2]))
        >>> family.factor(np.array([2.0]))(np.ones(3)).tolist()
        [0.5, 0.0, 0.125]
    """

    def __init__(self, operators: Sequence[scipy.sparse.spmatrix], free: Int[np.ndarray, " f"]) -> None:
        parts = [scipy.sparse.coo_matrix(operator) for operator in operators]
        if not parts:
            raise BadInput("operators", "at least one sparse matrix", "none")
        size = parts[0].shape[0]
        for index, part in enumerate(parts):
            if part.shape != (size, size):
                raise BadInput(f"operators[{index}]", f"of shape ({size}, {size})", part.shape)
            if part.dtype.kind == "c":
                raise BadInput(f"operators[{index}]", "real", part.dtype)
        terms = np.repeat(np.arange(len(parts)), [part.nnz for part in parts])
        rows, columns, weights = (np.concatenate([getattr(part, a) for part in parts]) for a in ("row", "col", "data"))
        self._prepare(rows, columns, terms, weights, len(parts), size, free)

    @classmethod
    def from_entries(
        cls,
        rows: Int[np.ndarray, " e"],
        columns: Int[np.ndarray, " e"],
        terms: Int[np.ndarray, " e"],
        weights: Float[np.ndarray, " e"],
        *,
        count: int,
        size: int,
        free: Int[np.ndarray, " f"],
    ) -> SparseFamily:
        """The family of `size` x `size` matrices whose entry (rows_e, columns_e) gains `weights_e c[terms_e]` for each e.

        For many small terms (one per element or face of a mesh); `count` is the length of c.
        """
        family = cls.__new__(cls)
        family._prepare(rows, columns, terms, weights, count, size, free)
        return family

    def _prepare(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        terms: np.ndarray,
        weights: np.ndarray,
        count: int,
        size: int,
        free: np.ndarray,
    ) -> None:
        free = np.asarray(free)
        valid = free.ndim == 1 and free.size and free.dtype.kind in "iu" and free.min() >= 0 and free.max() < size
        if not valid or np.unique(free).size != free.size:
            raise BadInput("free", f"distinct indices from 0 to {size - 1}, at least one", describe(free))
        inside = free.size
        place = np.full(size, -1)
        place[free] = np.arange(inside)
        rows, columns = place[rows], place[columns]
        used = (rows >= 0) & (columns >= 0)
        rows, columns, terms, weights = rows[used], columns[used], terms[used], weights[used]

        # The pattern, made symmetric and with its diagonal, because the elimination fills in that way.
        both = np.concatenate([rows, columns, np.arange(inside)]), np.concatenate([columns, rows, np.arange(inside)])
        graph = scipy.sparse.csr_matrix((np.ones(len(both[0])), both), shape=(inside, inside))
        graph.data[:] = 1.0
        order, kept = _order(graph)
        number = np.empty(inside, dtype=np.int64)
        number[order] = np.arange(inside)

        # Entries sorted into the blocks kept-kept, kept-eliminated, eliminated-kept and the diagonal, each by columns.
        pattern = graph.tocoo()
        new = number[pattern.row], number[pattern.col]
        block = 2 * (new[0] >= kept) + (new[1] >= kept)
        sorting = np.lexsort((new[0], new[1], block))
        keys = pattern.row[sorting].astype(np.int64) * inside + pattern.col[sorting]
        by_key = np.argsort(keys)
        entry = by_key[np.searchsorted(keys[by_key], rows * inside + columns)]
        self._entries = scipy.sparse.csr_matrix((weights, (entry, terms)), shape=(len(keys), count))
        self._size, self._kept, self._unknowns = size, kept, free[order]
        self._blocks = []
        gone = inside - kept
        start = 0
        for index, shape in enumerate(((kept, kept), (kept, gone), (gone, kept))):
            members = sorting[block[sorting] == index]
            i, j = new[0][members] - kept * (index == 2), new[1][members] - kept * (index == 1)
            pointer = np.concatenate([[0], np.cumsum(np.bincount(j, minlength=shape[1]))])
            span = slice(start, start + len(members))
            self._blocks.append((span, i.astype(np.int32), pointer.astype(np.int32), shape))
            start = span.stop

        glob = free[pattern.row[sorting]], free[pattern.col[sorting]]
        self._natural = np.lexsort(glob)
        self._indices = glob[0][self._natural].astype(np.int32)
        self._pointer = np.concatenate([[0], np.cumsum(np.bincount(glob[1], minlength=size))]).astype(np.int32)

    @property
    def unknowns(self) -> int:
        """Length of a solution, fixed unknowns included."""
        return self._size

    def _data(self, coefficients: np.ndarray) -> np.ndarray:
        coefficients = np.asarray(coefficients, dtype=np.float64)
        if coefficients.shape != (self._entries.shape[1],):
            raise BadInput("coefficients", f"of shape ({self._entries.shape[1]},)", coefficients.shape)
        if not np.isfinite(coefficients).all():
            raise BadInput("coefficients", "finite", "NaN or infinite entries")
        return self._entries @ coefficients

    def assemble(self, coefficients: Float[np.ndarray, " q"]) -> scipy.sparse.csc_matrix:
        """A(c), shape (unknowns, unknowns), with zero rows and columns at fixed unknowns.

        Raises:
            BadInput: coefficients of another length, or not finite.
        """
        data = self._data(coefficients)[self._natural]
        return scipy.sparse.csc_matrix((data, self._indices, self._pointer), shape=(self._size, self._size))

    def factor(self, coefficients: Float[np.ndarray, " q"]) -> Factor:
        """Factor A(c); call the result with right-hand sides.

        Raises:
            BadInput: coefficients of another length, or not finite.
            FactorizationFailed: a pivot is zero, or not positive where positive definiteness demands it.
        """
        data = self._data(coefficients)
        main, right, left = (
            scipy.sparse.csc_matrix((data[span], indices, pointer), shape=shape)
            for span, indices, pointer, shape in self._blocks
        )
        diagonal = data[self._blocks[-1][0].stop :]
        if not (diagonal > 0.0).all():
            raise FactorizationFailed(f"a diagonal entry is {diagonal.min():.3g}; a coercive matrix has positive ones.")
        left.data = left.data / diagonal[left.indices]
        if diagonal.size:
            main = (main - right @ left).tocsc()
        return Factor(self._size, self._unknowns, main, right, left, diagonal)


class Factor:
    """The factors of one sparse matrix; call it with a right-hand side of shape (n,) or (n, k) to solve."""

    def __init__(
        self,
        size: int,
        unknowns: np.ndarray,
        main: scipy.sparse.csc_matrix,
        right: scipy.sparse.csc_matrix,
        left: scipy.sparse.csc_matrix,
        diagonal: np.ndarray,
    ) -> None:
        self._size, self._unknowns, self._main = size, unknowns, main
        self._right, self._left, self._diagonal = right, left, diagonal
        self._lu = _splu(main, "NATURAL") if main.shape[0] else None

    def __call__(self, rhs: Float[np.ndarray, " n *k"]) -> Float[np.ndarray, " n *k"]:
        """Solve; entries of `rhs` at fixed unknowns are ignored, those of the solution are zero.

        Raises:
            BadInput: `rhs` is not of shape (n,) or (n, k), or not finite.
            FactorizationFailed: the residual is over 1e-6 of the right-hand side; the matrix is singular to rounding.
        """
        rhs = np.asarray(rhs, dtype=np.float64)
        if rhs.ndim not in {1, 2} or rhs.shape[0] != self._size:
            raise BadInput("rhs", f"of shape ({self._size},) or ({self._size}, k)", rhs.shape)
        with one_blas_thread():
            if rhs.ndim == 1:
                return self._solve(rhs)
            solution = np.zeros_like(rhs, order="F")
            for start in range(0, rhs.shape[1], _BLOCK):
                solution[:, start : start + _BLOCK] = self._solve(rhs[:, start : start + _BLOCK])
            return solution

    def _solve(self, rhs: np.ndarray) -> np.ndarray:
        kept = self._main.shape[0]
        taken = rhs[self._unknowns]
        if not np.isfinite(taken).all():
            raise BadInput("rhs", "finite", "NaN or infinite entries")
        diagonal = self._diagonal if rhs.ndim == 1 else self._diagonal[:, None]
        last = taken[kept:] / diagonal
        first = taken[:kept]
        if self._lu is not None:
            schur = first - self._right @ last
            first = self._lu.solve(np.asfortranarray(schur))
            residual = np.linalg.norm(self._main @ first - schur, axis=0)
            if not np.all(residual <= _WORST_RESIDUAL * np.linalg.norm(schur, axis=0)):
                raise FactorizationFailed(
                    "the matrix is singular to rounding: a solution leaves its residual over 1e-6."
                )
            last -= self._left @ first
        solution = np.zeros_like(rhs)
        solution[self._unknowns[:kept]] = first
        solution[self._unknowns[kept:]] = last
        return solution


def _splu(matrix: scipy.sparse.csc_matrix, ordering: str) -> Any:
    # Neither relax nor panel_size is passed: other than default values corrupted the heap (SciPy 1.17.1).
    try:
        with one_blas_thread():
            return splu(matrix, permc_spec=ordering, diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError as error:
        raise FactorizationFailed(f"SuperLU says: {error}.") from error


def _order(graph: scipy.sparse.csr_matrix) -> tuple[np.ndarray, int]:
    """Kept unknowns by minimum degree, then the eliminated ones (no two neighbors); and how many are kept."""
    candidates = np.flatnonzero(np.diff(graph.indptr) - 1 <= _NEIGHBORS)
    # Greedy in either direction; the larger set wins (on a crisscross mesh the centers, which come last, are the better).
    eliminated = max(_independent(graph, candidates), _independent(graph, candidates[::-1]), key=np.count_nonzero)
    kept, gone = np.flatnonzero(~eliminated), np.flatnonzero(eliminated)
    if not kept.size:
        return gone, 0
    right = graph[kept][:, gone]
    pattern = graph[kept][:, kept] + right @ right.T
    # Any values of this pattern give the same ordering; these are diagonally dominant, so that SuperLU accepts them.
    pattern.data[:] = -1.0
    pattern = pattern + scipy.sparse.diags(2.0 + np.diff(pattern.indptr))
    return np.concatenate([kept[np.argsort(_splu(pattern.tocsc(), "MMD_AT_PLUS_A").perm_c)], gone]), len(kept)


def _independent(graph: scipy.sparse.csr_matrix, candidates: np.ndarray) -> np.ndarray:
    """A mask of nodes, taken from the candidates in their order, no two of them neighbors."""
    pointer, taken = graph.indptr.tolist(), np.zeros(graph.shape[0], dtype=bool)
    for node in candidates.tolist():
        taken[node] = not taken[graph.indices[pointer[node] : pointer[node + 1]]].any()
    return taken
