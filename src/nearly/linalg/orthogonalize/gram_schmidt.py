"""Block Gram-Schmidt in the inner product of a sparse matrix, accurate to round-off on the most dependent vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf

from nearly.linalg.threads import one_blas_thread

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCK = 32  # rows transposed together for a sparse product
PICKED = 1e-6  # Gram matrices resolve sqrt(1e-16) of their largest entry; two digits are left for safety
NEGLIGIBLE = 1e-14  # what is left of a unit vector below this is round-off
SMALL = 1e-4  # a direction this small beside the vectors it is left of needs its orthogonality restored


def extend_orthonormal(
    basis: Float[np.ndarray, "r n"],
    vectors: Float[np.ndarray, "k n"],
    images: Float[np.ndarray, "k n"],
    product: Any,
    *,
    sizes: Float[np.ndarray, " k"] | None = None,
    negligible: float = NEGLIGIBLE,
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "k s"], Float[np.ndarray, " k"]]:
    """Split vectors into a part in an X-orthonormal basis and new X-orthonormal directions.

    Block Gram-Schmidt, done twice (twice is enough; Giraud, Langou, Rozloznik, van den Eshof 2005, doi:10.1007/s00211-005-0615-4),
    then a rank-revealing factorization inside the block. What is left of a vector below `negligible` times its size makes no
    direction.

    Args:
        basis: X-orthonormal rows, none to start with.
        vectors: any rows.
        images: X times the vectors.
        product: X, sparse, symmetric positive semidefinite; None for the identity.
        sizes: of the vectors, by default their X-norms; larger where they are parts of something larger.
        negligible: by default what is round-off.

    Returns:
        The new directions (m rows), coordinates of the vectors with respect to basis and new directions together, s = r + m, and
        the X-norms of what is in neither, to round-off.

    Example:
        >>> import scipy.sparse
        >>> rows, identity = np.array([[3.0, 4.0], [6.0, 8.0]]), scipy.sparse.eye_array(2, format="csr")
        >>> extend_orthonormal(np.zeros((0, 2)), rows, rows, identity)[1].round(12).tolist()
        [[5.0], [10.0]]
    """
    if sizes is None:
        sizes = np.sqrt(np.maximum(np.einsum("kn,kn->k", vectors, images), 0.0))
    scale = np.maximum(sizes, np.finfo(np.float64).tiny)[:, None]
    if not len(basis):
        new, outside, missed, _ = _directions(vectors / scale, images / scale, product, negligible)
        return new, outside * scale, missed * scale[:, 0]
    inside = dense_times(images, basis.T)
    rest = vectors - dense_times(inside, basis)
    again = dense_times(sparse_times(product, rest), basis.T)
    rest -= dense_times(again, basis)
    inside += again
    rest /= scale
    new, outside, missed, least = _directions(rest, sparse_times(product, rest), product, negligible)
    if (
        len(new) and least < SMALL
    ):  # made of so little, they carry round-off along the basis, magnified as they were scaled up
        for _ in range(2):
            new -= dense_times(dense_times(sparse_times(product, new), basis.T), basis)
            new, _ = _unit(new, product)
        outside = dense_times(sparse_times(product, rest), new.T)
    return new, np.concatenate([inside, outside * scale], axis=1), missed * scale[:, 0]


def _directions(
    rows: Float[np.ndarray, "k n"], images: Float[np.ndarray, "k n"], product: Any, negligible: float
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "k m"], Float[np.ndarray, " k"], float]:
    """X-orthonormal directions that span rows of norm at most 1 down to `negligible`, the rows' coordinates, the norms of what is
    left of them, the least direction's size.

    Pivoted Cholesky of the Gram matrix picks rows down to 1e-6 of the largest; a second Cholesky repairs the orthogonality that
    this condition number cost (CholeskyQR2; Yamamoto, Nakatsukasa, Yanagisawa, Fukaya 2015, doi:10.1553/etna_vol44s306). Rows that
    were not picked are projected, and what is left of them goes round again.
    """
    found_so_far: list[np.ndarray] = []
    outside, missed = np.zeros((len(rows), 0)), np.zeros(len(rows))
    left, least = np.arange(len(rows)), 1.0
    while len(left):
        gram = dense_times(rows, images.T)
        largest = gram.diagonal().max()
        if not largest > negligible**2:
            missed[left] = np.sqrt(np.maximum(gram.diagonal(), 0.0))
            break
        with one_blas_thread():
            factor, order, rank, _ = dpstrf(gram, lower=1, tol=max(largest * PICKED**2, negligible**2))
        picked, others = order[:rank] - 1, order[rank:] - 1
        lower = np.tril(factor[:rank, :rank])
        found = _solve_rows(lower, rows[picked])
        # Small remainders carry round-off along earlier directions, magnified by the scaling.
        for earlier in found_so_far:
            found -= dense_times(dense_times(sparse_times(product, found), earlier.T), earlier)
        found, turn = _unit(found, product)
        found_so_far.append(found)
        least = min(least, float(lower.diagonal().min()))
        block = np.zeros((len(outside), rank))
        block[left[picked]] = lower @ turn
        if len(others):
            part = dense_times(images[others], found.T)
            block[left[others]] = part
            rows = rows[others] - dense_times(part, found)
            images = sparse_times(product, rows)
        left, outside = left[others], np.concatenate([outside, block], axis=1)
    return np.concatenate(found_so_far) if found_so_far else rows[:0], outside, missed, least


def _unit(rows: Float[np.ndarray, "m n"], product: Any) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "m m"]]:
    """Nearly X-orthonormal rows made so, `L^-1 rows`, and L."""
    lower = torch.linalg.cholesky(torch.from_numpy(dense_times(rows, sparse_times(product, rows).T))).numpy()
    return _solve_rows(lower, rows), lower


def _solve_rows(lower: Float[np.ndarray, "m m"], rows: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    """`L^-1 rows`."""
    return torch.linalg.solve_triangular(torch.from_numpy(lower), torch.from_numpy(rows), upper=False).numpy()


def dense_times(left: Float[np.ndarray, "k m"], right: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "k n"]:
    """`left @ right` by torch: its threads and those of NumPy's library, taken in turn, wait for each other."""
    return (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()


def sparse_times(product: Any, rows: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """`rows X` for a symmetric sparse X, in blocks that stay in cache while they are transposed; the rows themselves for None."""
    if product is None:
        return rows
    result = np.empty_like(rows)
    for start in range(0, len(rows), BLOCK):
        result[start : start + BLOCK] = (product @ rows[start : start + BLOCK].T).T
    return result
