"""The largest singular triplets of a matrix, with a bound on what was left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_finite, require_float, require_int, to_tensor
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearly.linalg.operator import Operator

GRAM = 2048  # the smaller side up to which its Gram matrix is formed: its eigenvalues take a few seconds
OPERATIONS = (
    2**36
)  # of a larger residual's Gram matrix, up to which its largest eigenvalue is taken: 4 s for a side of 4,096
OVERSAMPLING = 10  # Halko, Martinsson and Tropp 2011, section 4.2
DEPTH = 3  # blocks of the Krylov space: as good as some DEPTH^2 power iterations (Musco and Musco 2015)
BLOCK = 32  # vectors of a block where the rank is not known
ROWS = 4096  # of the matrix, held at once as a dense residual
FAR = 1e9  # from 1, beyond which entries are scaled: the fourth power is in the range of single precision
CLEAR = 100.0  # what is left out must exceed the Gram matrix's rounding by this, or the Gram matrix is not used


class LowRank(NamedTuple):
    """`A = left diag(values) right + R`, with orthonormal columns of `left`, orthogonal to R's, and orthonormal rows of `right`.

    Attributes:
        left: shape (rows, k).
        values: shape (k,), falling: the largest singular values, none of them above the true ones but for rounding.
        right: shape (k, columns).
        spectral: bound on R's 2-norm.
        frobenius: bound on R's Frobenius norm.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    spectral: float
    frobenius: float


def randomized_svd(
    matrix: Float[Tensor, "m n"] | Any, rank: int, *, generator: torch.Generator, tolerance: float | None = None
) -> LowRank:
    """The `rank` largest singular triplets, or as many of them as a tolerance needs, with proven norms of what is left out.

    It replaces the full decomposition, and randomized ones that report no error. Two routes, taken by size:

    - The smaller side is at most 2,048: eigenvectors of its Gram matrix, `A^T A`, exact but for rounding. The square root halves
      the digits, so what lies below about sqrt(rows * eps) of the matrix's norm is lost; where that matters, the other route is
      taken.
    - Otherwise, orthonormal bases of a block Krylov space `[G, A^T A G, ...]` of a Gaussian block G, and the triplets of A on it.

    The bounds hold for any draw of G, and hold of the matrix as stored: they add the rounding of the sums that they come from. The
    2-norm is an eigenvalue of a Gram matrix where the smaller side is at most 2,048, or the larger side times the square of the
    smaller at most 4,096^3, and else the Frobenius norm, which may exceed it by far where singular values fall slowly.

    Sources: Halko, Martinsson and Tropp 2011, Finding structure with randomness, arXiv 0909.4061; Musco and Musco 2015, Randomized
    block Krylov methods, arXiv 1504.05477, algorithm 2; Yu, Gu and Li 2018, arXiv 1606.09402, section 3, for the Frobenius
    norm of what is left out as a difference, which stops the search for a rank.

    Args:
        matrix: dense tensor or SciPy sparse matrix.
        rank: the most triplets; cut to the smaller side.
        generator: source of randomness, on the CPU.
        tolerance: of the Frobenius norm left out, relative to the matrix's; the least rank found that keeps it is taken.

    Returns:
        The triplets and bounds.

    Raises:
        BadInput: for a matrix, rank or tolerance that is not as above.

    Example:
        >>> a = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
        >>> found = randomized_svd(a, 2, generator=torch.Generator().manual_seed(0))
        >>> [round(v, 6) for v in found.values.tolist()], round(found.spectral, 6)
        ([4.0, 2.0], 1.0)
    """
    if hasattr(matrix, "tocsr"):
        matrix = by_rows("matrix", matrix)
    else:
        matrix = as_floating("matrix", matrix, dimensions=2).detach().resolve_neg()  # NumPy knows no lazy negatives
    rank = min(require_int("rank", rank, least=1), *matrix.shape)
    if tolerance is not None:
        require_float("tolerance", tolerance, above=0.0, below=1.0)
    entries = to_tensor(matrix.data) if hasattr(matrix, "tocsr") else matrix.flatten()
    require_finite("matrix", entries)
    unit = float(binary_scale(entries, 0)) if len(entries) else 1.0
    if not 1 / FAR < unit < FAR:  # squares of squares must stay in range
        found = randomized_svd(matrix / unit, rank, generator=generator, tolerance=tolerance)
        return LowRank(found.left, found.values * unit, found.right, found.spectral * unit, found.frobenius * unit)
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    energy = float(entries.norm(dtype=torch.float64).square())
    # Sums of m products are off by m eps of the sum of their sizes (Higham 2002, equation 3.5); eigenvalues add no more than that.
    rounding = 2 * tall.shape[0] * torch.finfo(_dtype(matrix)).eps * energy
    basis, tail = _by_gram(tall, rank, tolerance, energy, rounding)
    if basis is None:
        basis = _by_krylov(tall, rank, tolerance, energy, generator)
    left, values, right = _triplets(matrix, torch.linalg.qr(times(tall, basis))[0] if wide else basis)
    kept = float(values.double().square().sum())
    frobenius = math.sqrt(max(0.0, energy - kept) + rounding)
    if tail is None and (energy - kept < CLEAR * rounding or _takes_gram(matrix)):
        tail, direct = _residual(matrix, left * values, right)
        frobenius = min(frobenius, direct)
    slack = 4 * math.sqrt(rank) * torch.finfo(_dtype(matrix)).eps * math.sqrt(energy)
    spectral = frobenius + slack if tail is None else tail + slack
    return LowRank(left, values, right, min(spectral, frobenius + slack), frobenius + slack)


def matrix_free_svd(
    operator: Operator, rank: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"], Float[Tensor, "k n"]]:
    """The `rank` largest singular triplets, nearly, from some `4 rank + 30` products each with the matrix and its transpose.

    The block Krylov route of `randomized_svd`. Nothing is known of what is left out: products bound no norm with certainty.

    Args:
        operator: with products of its transpose.
        rank: of triplets; cut to the smaller side.
        generator: source of randomness, on the CPU.

    Returns:
        Orthonormal columns, values (falling), orthonormal rows.

    Raises:
        BadInput: for an operator without transpose, or a rank below 1.

    Example:
        >>> from nearly.linalg.operator import as_operator
        >>> diagonal = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
        >>> operator = as_operator(lambda x: diagonal[:, None] * x, shape=(3, 3))
        >>> matrix_free_svd(operator, 1, generator=torch.Generator().manual_seed(0))[1].round(decimals=6).tolist()
        [4.0]
    """
    rank = min(require_int("rank", rank, least=1), *operator.shape)
    wide = operator.shape[0] < operator.shape[1]
    tall = operator.T if wide else operator
    basis = _by_krylov(tall, rank, None, math.inf, generator)
    return _triplets(operator, torch.linalg.qr(tall @ basis)[0] if wide else basis)


def _triplets(matrix: Any, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triplets of the matrix on the span of a basis of its rows."""
    q = torch.linalg.qr(times(matrix, basis))[0]
    right, small = torch.linalg.qr(times(matrix.T, q))
    u, values, vt = torch.linalg.svd(small.T)
    return q @ u, values, vt @ right.T


def by_rows(name: str, matrix: Any) -> Any:
    """A SciPy sparse matrix of any format by rows, each entry stored once, as norms ask for: the sum of those at its place.

    Raises:
        BadInput: for one that is not real and floating, or has no entries.
    """
    if matrix.dtype not in (np.float32, np.float64) or 0 in matrix.shape:
        raise BadInput(name, "a real floating, non-empty matrix", describe(matrix))
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()  # it may be the caller's
        rows.sum_duplicates()
    return rows


def _dtype(matrix: Any) -> torch.dtype:
    return to_tensor(matrix.data[:0]).dtype if hasattr(matrix, "tocsr") else matrix.dtype


def times(matrix: Any, vectors: Tensor) -> Tensor:
    """`matrix @ vectors` for a SciPy sparse matrix (on the CPU), a tensor or an operator."""
    if hasattr(matrix, "tocsr"):
        return torch.from_numpy(np.ascontiguousarray(matrix @ vectors.cpu().numpy()))
    return matrix @ vectors


def _gram(matrix: Any) -> Tensor:
    """`A^T A`, in half the operations where NumPy sees that it is symmetric."""
    if hasattr(matrix, "tocsr"):
        return torch.from_numpy((matrix.T @ matrix).toarray())
    if matrix.device.type == "cpu":
        array = matrix.detach().numpy()
        return torch.from_numpy(array.T @ array)
    return matrix.T @ matrix


def _least_rank(squares: Tensor, most: int, allowed: float) -> int:
    """The least rank, from 1 up to `most`, whose remaining squares sum to at most `allowed`."""
    remaining = squares.double().flip(0).cumsum(0)
    return min(most, max(1, int((remaining > allowed).sum())))


def _by_gram(
    tall: Any, rank: int, tolerance: float | None, energy: float, rounding: float
) -> tuple[Tensor | None, float | None]:
    """Leading right singular vectors and a bound on the first value left out; Nones where that is too small for a Gram matrix."""
    size = tall.shape[1]
    if size > GRAM or (tolerance is not None and tolerance**2 * energy < CLEAR * rounding):
        return None, None
    values, vectors = torch.linalg.eigh(_gram(tall))
    values, vectors = values.flip(0), vectors.flip(1)
    if tolerance is not None:
        rank = _least_rank(values, rank, tolerance**2 * energy)
    after = float(values[rank]) if rank < size else 0.0
    if after < CLEAR * rounding:
        return None, None
    return vectors[:, :rank], math.sqrt(after + rounding)


def _by_krylov(
    tall: Any, rank: int, tolerance: float | None, energy: float, generator: torch.Generator
) -> Float[Tensor, "n k"]:
    """An orthonormal basis that leading right singular vectors nearly lie in, from a block Krylov space."""
    size = tall.shape[1]
    width = min(size, rank + OVERSAMPLING if tolerance is None else BLOCK)
    device = tall.device if not hasattr(tall, "tocsr") else torch.device("cpu")
    draw = torch.randn(size, width, dtype=torch.float64, generator=generator).to(device=device, dtype=_dtype(tall))
    basis = block = torch.linalg.qr(draw)[0]
    images = image = times(tall, block)
    blocks = 1
    if tolerance is None:
        depth, allowed = DEPTH, -math.inf
    else:  # a quarter of the allowed energy may lie outside the space, the rest is for what is cut from it
        depth, allowed = math.ceil(rank / width) + DEPTH, 0.25 * tolerance**2 * energy
    left_out = energy - (last := float(image.double().square().sum()))
    while basis.shape[1] < size and blocks < depth:
        # The difference loses half the digits; below that the last block tells, roughly, what is to come.
        if max(left_out, last if allowed < 1e-8 * energy else 0.0) <= allowed:
            break
        block = times(tall.T, image / binary_scale(image, (0, 1)))[:, : size - basis.shape[1]]
        for _ in range(2):  # twice is enough
            block = torch.linalg.qr(block - basis @ (basis.T @ block))[0]
        image = times(tall, block)
        basis, images, blocks = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1), blocks + 1
        left_out -= (last := float(image.double().square().sum()))
    _, values, vt = torch.linalg.svd(torch.linalg.qr(images, mode="r")[1])
    if tolerance is not None:
        rank = _least_rank(values.square(), rank, 0.75 * tolerance**2 * energy)
    return basis @ vt[:rank].T


def _takes_gram(matrix: Any) -> bool:
    """Whether the Gram matrix of what is left out may be formed."""
    small, large = sorted(matrix.shape)
    return small <= GRAM or large * small**2 <= OPERATIONS


def _residual(matrix: Any, left: Tensor, right: Tensor) -> tuple[float | None, float]:
    """2-norm (where `_takes_gram`) and Frobenius norm of `A - left right`, some rows at a time."""
    side = min(matrix.shape)
    gram = torch.zeros(side, side, dtype=left.dtype, device=left.device) if _takes_gram(matrix) else None
    wide = matrix.shape[0] < matrix.shape[1]
    square = 0.0
    turned = matrix.T if wide else matrix
    first, second = (right.T, left.T) if wide else (left, right)
    if hasattr(turned, "tocsr"):
        turned = turned.tocsr()
    for start in range(0, turned.shape[0], ROWS):
        part = turned[start : start + ROWS]
        part = torch.from_numpy(part.toarray()) if hasattr(part, "tocsr") else part
        rest = part - first[start : start + ROWS] @ second
        square += float(rest.double().square().sum())
        if gram is not None:
            gram += _gram(rest)
    square *= 1 + turned.shape[0] * torch.finfo(left.dtype).eps
    if gram is None:
        return None, math.sqrt(square)
    extra = turned.shape[0] * torch.finfo(left.dtype).eps * square
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])) + extra), math.sqrt(square)
