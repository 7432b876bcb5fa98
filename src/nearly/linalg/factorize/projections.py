"""Factorizations `A = F G H` from a choice of columns and rows: the core G that projects A onto both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import describe, generator_from, require_float, require_int
from nearly.linalg.factorize._entry import as_matrix, frobenius, in_range
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

HELD_OUT = 10  # test vectors of an estimate that deviates by at most sqrt(2 / 10) of itself


class Interpolative(NamedTuple):
    """`A = A[..., columns] weights + R`, shapes (..., k), (..., k, n), and R's Frobenius norm, shape (...)."""

    columns: Tensor
    weights: Tensor
    error: Tensor


class CUR(NamedTuple):
    """`A = A[..., columns] core A[..., rows, :] + R`: shapes (..., k), (..., k), (..., k, k); R's Frobenius norm, shape (...)."""

    columns: Tensor
    rows: Tensor
    core: Tensor
    error: Tensor


class Nystrom(NamedTuple):
    """`A = left right + R`, shapes (..., m, k), (..., k, n); the root of an unbiased estimate of R's squared Frobenius norm."""

    left: Tensor
    right: Tensor
    estimate: Tensor


def projected_core(
    matrix: Float[Tensor, "*batch m n"],
    left: Float[Tensor, "*batch m k"],
    right: Float[Tensor, "*batch l n"],
    *,
    left_test: Float[Tensor, "*batch m p"] | None = None,
    right_test: Float[Tensor, "*batch n q"] | None = None,
) -> Float[Tensor, "*batch k l"]:
    """The core G of `A ~ F G H`, F = left and H = right, that makes `F G H` the projection `P A Q` of A.

    It replaces a formula of its own for each decomposition. P projects onto the columns of F along the complement of `left_test`
    (B), Q onto the rows of H along that of `right_test` (D): `Y^* = (B^* F)^+ B^*` solves the projector equation `F Y^* F = F`,
    `X = D (H D)^+` solves `H X H = H`, and `G = Y^* A X` the reconstruction. Without a test the projector is orthogonal, B = F
    and D = H^*, `Y^* = F^+` with no product formed. Special cases: singular vectors for F and H (SVD), Q and R of a pivoted QR
    decomposition, any orthonormal bases (UTV), columns and rows of A (CUR), `F = A D` and `H = B^* A` (generalized Nystroem).
    Projections are exact where F and H span A's columns and rows.

    Pseudo-inverses cut singular values below `max(shape) eps` of the largest: dependent columns do no harm. Differentiable where
    no singular value is cut.

    Source: Karpowicz 2021, A theory of meta-factorization, arXiv 2111.14385, projector and reconstruction equations, with the
    free parameter W of their general solution zero.

    Args:
        matrix: A, real or complex.
        left: F.
        right: H.
        left_test: B.
        right_test: D.

    Returns:
        G.

    Raises:
        BadInput: shapes that do not fit, entries that are not finite.

    Example:
        >>> a = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
        >>> core = projected_core(a, a[:, :1], a[:1])
        >>> torch.allclose(a[:, :1] @ core @ a[:1], a)
        True
    """
    matrix, left, right = as_matrix("matrix", matrix), as_matrix("left", left), as_matrix("right", right)
    (m, n), b, d = matrix.shape[-2:], left_test, right_test
    b = None if b is None else _near_one(as_matrix("left_test", b))
    d = None if d is None else _near_one(as_matrix("right_test", d))
    for name, found, size in (("left", left, m), ("left_test", b, m), ("right", right.mT, n), ("right_test", d, n)):
        if found is not None and found.shape[-2] != size:
            raise BadInput(name, f"{size} long, as the matrix", describe(found))
    inner = torch.linalg.pinv(left) @ matrix if b is None else torch.linalg.pinv(b.mH @ left) @ (b.mH @ matrix)
    return in_range("the core", inner @ (torch.linalg.pinv(right) if d is None else d @ torch.linalg.pinv(right @ d)))


def pseudo_inverse(
    left: Float[Tensor, "*batch m k"], right: Float[Tensor, "*batch k n"]
) -> Float[Tensor, "*batch n m"]:
    """The Moore-Penrose inverse of a matrix given by factors, `A = left right`, without forming it: `right^+ left^+`.

    It replaces the singular value decomposition of the product, at O((m + n) k^2) operations besides the result's m n k. Exact
    where both factors have rank k (MacDuffee's theorem; Ben-Israel and Greville 2003, theorem 1.5). If one has not, orthonormal
    bases are taken first, and the singular values of the k x k matrix between them below `k eps` of the largest are cut.

    Args:
        left: with k <= m.
        right: with k <= n.

    Returns:
        The inverse, differentiable where no singular value is cut.

    Raises:
        BadInput: factors that do not fit, or are wide where they should be tall.

    Example:
        >>> column = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
        >>> pseudo_inverse(column, column[:1] / 3).round(decimals=4).tolist()
        [[0.12, 0.16]]
    """
    left, right = as_matrix("left", left), as_matrix("right", right)
    k = left.shape[-1]
    if right.shape[-2] != k or k > min(left.shape[-2], right.shape[-1]):
        raise BadInput("right", f"of {k} rows and at least as many columns, as left of rows", describe(right))
    sizes = binary_scale(left, (-2, -1)), binary_scale(right, (-2, -1))
    (q, r), (p, s) = torch.linalg.qr(left / sizes[0]), torch.linalg.qr((right / sizes[1]).mH)
    return in_range("the inverse", p @ torch.linalg.pinv(r @ s.mH) @ q.mH / sizes[0] / sizes[1])


def interpolative(
    matrix: Float[Tensor, "*batch m n"], rank: int | None = None, *, tolerance: float | None = None
) -> Interpolative:
    """A few columns, and the weights by which they give all: `A ~ A[:, J] Z`, J by greedy pivots as in pivoted QR.

    It replaces singular vectors by columns of the matrix itself. Every step takes the column that is farthest from the span of
    those before (Businger and Golub 1965, doi:10.1007/BF01436084); Z is the least-squares fit, so at J it is the identity. The
    2-norm error is at most `sqrt(n - k) 2^k sigma_(k+1)`, in practice some 2 to 10 times sigma_(k+1) (Gu and Eisenstat 1996,
    doi:10.1137/0917055). The error is that of this matrix, computed.

    Some 4 m n k operations, in batches; the choice does not depend on derivatives, the weights are differentiable.

    Args:
        matrix: A, real or complex.
        rank: k, the most columns; by default as many as the matrix has rows or columns.
        tolerance: relative, of the Frobenius norm: no more columns than the worst of the batch needs.

    Returns:
        Columns in the order of choice, weights and error. There are fewer than `rank` where nothing but rounding is left.

    Raises:
        BadInput: a matrix, rank or tolerance that is not as above.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
        >>> found = interpolative(a, 2)
        >>> found.columns.tolist(), float(found.error) < 1e-6
        ([2, 1], True)
    """
    matrix = as_matrix("matrix", matrix)
    columns = _pivots(matrix, *_asked(matrix, rank, tolerance))
    chosen, size = _columns(matrix, columns), binary_scale(matrix, (-2, -1))
    near, inverse = matrix / size, torch.linalg.pinv(chosen / size)
    weights = inverse @ near
    # The inverse loses its condition's digits; once more for what is left mends that.
    weights = weights + inverse @ (near - chosen / size @ weights)
    return Interpolative(columns, weights, frobenius(matrix - chosen @ weights))


def cur(matrix: Float[Tensor, "*batch m n"], rank: int | None = None, *, tolerance: float | None = None) -> CUR:
    """A few columns C and rows R of the matrix and the best core between them: `A ~ C U R`, `U = C^+ A R^+`.

    It replaces singular vectors by columns and rows, which keep sparsity, signs and meaning. Columns are chosen as in
    `interpolative`, as many rows as those of the transpose. Of all cores this one has the least Frobenius error (Stewart 1999,
    doi:10.1007/s002110050451), which is computed; it is at most the sum of what the columns and what the rows alone leave.

    Args:
        matrix: A, real or complex.
        rank: the most columns and rows.
        tolerance: relative, of the Frobenius norm of what the columns alone leave.

    Returns:
        Columns, rows, core and error.

    Raises:
        BadInput: a matrix, rank or tolerance that is not as above.

    Example:
        >>> a = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
        >>> found = cur(a)
        >>> found.columns.tolist(), found.rows.tolist(), bool(found.error < 1e-6)
        ([1], [1], True)
    """
    matrix = as_matrix("matrix", matrix)
    columns = _pivots(matrix, *_asked(matrix, rank, tolerance))
    rows = _pivots(matrix.mT, columns.shape[-1], 0.0, exactly=True)
    chosen, across = _columns(matrix, columns), _columns(matrix.mT, rows).mT
    core = projected_core(matrix, chosen, across)
    return CUR(columns, rows, core, frobenius(matrix - chosen @ core @ across))


def generalized_nystrom(
    matrix: Float[Tensor, "*batch m n"], rank: int, *, oversample: float = 1.5, seed: int | torch.Generator = 0
) -> Nystrom:
    """A low-rank approximation from one pass over the matrix: `A D (B^T A D)^+ B^T A`, D and B Gaussian.

    It replaces decompositions that need A twice, or its transpose after its products. With k columns of D and l = `oversample` k
    of B, the expected Frobenius error is at most `sqrt(1 + k / (l - k - 1)) sqrt(1 + r / (k - r - 1))` times the best of any rank
    r < k - 1. The pseudo-inverse is by singular values, those below `l eps` of the largest cut, and goes to both factors.

    Source: Nakatsukasa 2020, Fast and stable randomized low-rank matrix approximation, arXiv 2009.11392: 1.5 for the
    oversampling, the stabilized inverse. Departure: 10 more test vectors, held out, give an unbiased estimate of the squared
    error, which deviates by at most 45% of itself.

    Args:
        matrix: A, real or complex; the same D and B serve all of a batch.
        rank: k.
        oversample: l / k, above 1.
        seed: or a generator.

    Returns:
        Factors and the estimate.

    Raises:
        BadInput: a matrix, rank or oversampling that is not as above.

    Example:
        >>> a = torch.outer(torch.arange(5.0), torch.arange(4.0))
        >>> found = generalized_nystrom(a, 2)
        >>> torch.allclose(found.left @ found.right, a, atol=1e-4)
        True
    """
    matrix = as_matrix("matrix", matrix)
    m, n = matrix.shape[-2:]
    rank = require_int("rank", rank, least=1, most=min(m, n))
    more = min(m, round(require_float("oversample", oversample, above=1.0) * rank))
    generator = generator_from(seed)

    def gaussian(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, dtype=torch.float64, generator=generator).to(matrix)

    first, second = gaussian(n, rank + HELD_OUT), gaussian(m, more)
    images, across = matrix @ first, second.mT @ matrix
    u, values, vh = torch.linalg.svd(across @ first[:, :rank], full_matrices=False)
    kept = values > more * torch.finfo(values.dtype).eps * values[..., :1]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    left = in_range("a factor", images[..., :rank] @ (vh.mH * inverse[..., None, :]))
    right = u.mH @ across
    rest = images[..., rank:] - left @ (right @ first[:, rank:])
    return Nystrom(left, right, frobenius(rest) / HELD_OUT**0.5)


def _asked(matrix: Tensor, rank: int | None, tolerance: float | None) -> tuple[int, float]:
    most = min(matrix.shape[-2:])
    rank = require_int("rank", most if rank is None else rank, least=1, most=most)
    return rank, 0.0 if tolerance is None else require_float("tolerance", tolerance, above=0.0, below=1.0)


def _pivots(matrix: Tensor, most: int, tolerance: float, *, exactly: bool = False) -> Int[Tensor, "*batch k"]:
    """Columns by greedy pivots on what is left of them; `exactly` as many, or fewer once the tolerance or rounding is reached."""
    rest = _near_one(matrix.detach())
    size = torch.linalg.matrix_norm(rest)
    least = torch.maximum(size * tolerance, size * max(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps)
    chosen: list[Tensor] = []
    free = torch.ones(*matrix.shape[:-2], matrix.shape[-1], dtype=torch.bool, device=matrix.device)
    while len(chosen) < most:
        squares = rest.abs().square().sum(-2)
        if chosen and not exactly and bool((squares.sum(-1).sqrt() <= least).all()):
            break
        column = torch.where(free, squares, -1.0).argmax(-1)
        direction = _columns(rest, column[..., None])
        length = torch.linalg.matrix_norm(direction)[..., None, None]
        direction = torch.where(length > 0, direction / torch.where(length > 0, length, 1.0), 0.0)
        rest = rest - direction @ (direction.mH @ rest)
        free = free.scatter(-1, column[..., None], False)
        chosen.append(column)
    return torch.stack(chosen, -1)


def _near_one(matrix: Tensor) -> Tensor:
    return matrix / binary_scale(matrix, (-2, -1))


def _columns(matrix: Tensor, columns: Tensor) -> Tensor:
    return matrix.gather(-1, columns[..., None, :].expand(*matrix.shape[:-1], columns.shape[-1]))
