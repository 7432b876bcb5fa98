"""Low-rank matrices from some of their entries, by least squares that are not solved to the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, generator_from, require_int, require_parameters, tolerance_for
from nearly.linalg.operator import csr
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

CARD = {
    "name": "complete_matrix",
    "kind": "completion",
    "rows": [297],
    "replaces": "alternating least squares with a system of normal equations per row and column",
    "residual": "||P(M - L R^T)|| / ||P(M)||, P what is known, 2-norm",
    "rate": "linear in sweeps, at a rate that worsens with rank (rows + columns) / known entries",
    "order": None,
    "differentiable": [],
    "parameters": {
        "rank": ["integer", 1, None],
        "accuracy": ["real", 0, 1],
        "tolerance": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}
TOLERANCE = 1e-8  # by default, in double precision
SPARE = 5  # columns of the first subspace above the rank
POWERS = 4  # products of the first subspace with the known entries and back


@dataclass(frozen=True)
class Completion:
    """What `complete_matrix` found: a matrix as `left @ right^T`.

    Attributes:
        left: of shape (*batch, m, rank).
        right: of shape (*batch, n, rank).
        operations: additions and multiplications it took, all problems together.
    """

    left: Float[Tensor, "*batch m rank"]
    right: Float[Tensor, "*batch n rank"]
    operations: int

    @property
    def matrix(self) -> Float[Tensor, "*batch m n"]:
        """The product."""
        return self.left @ self.right.mT


@dataclass(frozen=True)
class _Known:
    """Known entries of the block diagonal matrix of all problems, by rows."""

    starts: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    def sparse(self, values: Tensor) -> Tensor:
        return csr(self.starts, self.columns, values, self.shape)


def complete_matrix(
    places: Int[Tensor, "2 known"],
    values: Float[Tensor, "*batch known"],
    *,
    shape: tuple[int, int],
    rank: int,
    accuracy: float = 0.1,
    tolerance: float | None = None,
    iterations: int = 200,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Solution:
    r"""A matrix `L R^T` of a given rank that has the given entries: alternating minimization of `||P(M - L R^T)||` in L and in R.

    It replaces solving every least-squares problem of a sweep exactly, `known k^2` operations and memory for a k x k matrix per
    row. Here each is taken from the last solution by a few steps of conjugate gradients, all rows at once, `4 known k` operations
    each. Errors of a half-step are mended by those after it: an accuracy of one digit, two to four steps, costs no sweeps. What is
    fixed, say R, is made orthonormal first: where the known entries are spread evenly, each row's normal matrix is then near a
    multiple of I, so that one QR decomposition preconditions all rows.

    The first subspace is that of the known entries' leading singular vectors. With some `k (m + n) log(m + n)` entries at random
    places, of a matrix whose singular vectors are spread out (incoherent), sweeps converge linearly to M (their theorem asks for
    more). In general a small residual says that known entries are met, not that others are right, above all where the rank is too
    large: hold some back to see.

    Source: Gu, Song, Yin and Zhang 2023, Low rank matrix completion via robust alternating minimization in nearly linear time,
    arXiv 2302.11068; Jain, Netrapalli and Sanghavi 2013, arXiv 1212.0467. Departures: (1) they sketch and factor each row's
    least-squares problem, `k^3` operations for every row, which exceeds the work it saves unless rows have far more than `k^2`
    entries; one orthonormal basis serves all here; (2) no fresh entries for each sweep, and no clipping of large rows.

    Args:
        places: row and column of each known entry, all different; every row and column has at least `rank` of them.
        values: the entries; problems of a batch share the places.
        shape: (m, n).
        rank: k.
        accuracy: of each half of a sweep, by which every row's (or column's) gradient falls.
        tolerance: for `||P(M - L R^T)|| / ||P(M)||`; 1e-8 by default, in single precision 1e-4.
        iterations: most sweeps.
        seed: number or source of randomness.
        check: raise where the tolerance is not reached.

    Returns:
        The solution, a `Completion`.

    Raises:
        BadInput: for places outside the matrix, given twice, or too few of them; values that do not fit, or are all zero.
        NotConverged: where the tolerance is not reached.

    Example:
        >>> m = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 6.0)).double()
        >>> places = (torch.eye(6, 5) == 0).nonzero().T
        >>> found = complete_matrix(places, m[places[0], places[1]], shape=(6, 5), rank=1).value
        >>> torch.allclose(found.matrix, m)
        True
    """
    require_parameters(CARD, rank=rank, accuracy=accuracy, tolerance=tolerance, iterations=iterations)
    values = as_floating("values", values, least_dimensions=1).detach()
    tolerance = tolerance_for(tolerance, values.dtype, TOLERANCE)
    m, n = _checked_shape(shape, rank)
    rows, columns = _checked_places(places, values, (m, n), rank)
    generator = generator_from(seed)
    batch, flat = values.shape[:-1], values.reshape(-1, values.shape[-1])
    unit = binary_scale(flat, 1)
    if not bool((flat != 0).any(dim=1).all()):
        raise BadInput("values", "nonzero for every problem", "zeros, which the zero matrix explains")
    flat = flat / unit
    along, across = _blocks(rows, columns, flat, (m, n)), _blocks(columns, rows, flat, (n, m))
    size, count = torch.linalg.vector_norm(flat, dim=1), len(flat)
    known = flat.numel()

    right = _leading(along, across, count, rank, generator)
    left = torch.zeros(count * m, rank, dtype=flat.dtype, device=flat.device)
    operations = POWERS * 4 * known * (rank + SPARE) + (POWERS + 1) * 4 * count * n * (rank + SPARE) ** 2
    done = torch.zeros(count, dtype=torch.bool, device=flat.device)
    taken = torch.zeros(count, dtype=torch.int64, device=flat.device)
    for _ in range(iterations):
        new, basis, first = _half(along, left, right, accuracy, count)
        other, frame, second = _half(across, basis, new, accuracy, count)
        operations += 4 * (first + second + 2) * known * rank
        operations += count * rank * (6 * (m + n) * rank + 10 * (m * first + n * second))
        left, right = (_where(done, a, b) for a, b in ((left, frame), (right, other)))
        taken += ~done
        rest = _rest(along, left, right).reshape(count, -1)
        operations += 2 * known * rank
        done = done | (torch.linalg.vector_norm(rest, dim=1) <= tolerance * size)
        if bool(done.all()):
            break
    scaled = left.reshape(count, m, rank) * unit.unsqueeze(2)
    # From what is returned: large and small factors may have left the range of their type.
    back = scaled / unit.unsqueeze(2)
    rest = _rest(along, back.flatten(0, 1), right).reshape(count, -1)
    return conclude(
        "complete_matrix",
        Completion(scaled.reshape(*batch, m, rank), right.reshape(*batch, n, rank), operations),
        residual=(torch.linalg.vector_norm(rest, dim=1) / size).reshape(batch),
        tolerance=tolerance,
        iterations=taken.reshape(batch),
        advice=f"raise iterations= above {iterations} or rank=, lower accuracy=, or give more entries (some "
        "multiple of rank times rows and columns); noise in the entries leaves a residual of its own size",
        check=check,
    )


def _half(known: _Known, free: Tensor, fixed: Tensor, accuracy: float, count: int) -> tuple[Tensor, Tensor, int]:
    """Better free factors for an orthonormal basis of the fixed ones, this basis (both one problem below the other), and steps."""
    rank = fixed.shape[1]
    basis, triangle = torch.linalg.qr(fixed.reshape(count, -1, rank))
    free = (free.reshape(count, -1, rank) @ triangle.mT).flatten(0, 1)
    basis = basis.flatten(0, 1)
    across = basis.T.contiguous()
    slope = known.sparse(_rest(known, free, basis)) @ basis
    direction, square = slope, slope.square().sum(dim=1, keepdim=True)
    pattern = known.sparse(torch.ones_like(known.values))
    rounding = torch.finfo(square.dtype).eps ** 2 * known.values.square().mean()
    goal = torch.maximum(accuracy**2 * square, rounding)
    taken = 0
    while taken < 2 * rank and not bool((square <= goal).all()):  # rank steps, but for rounding
        taken += 1
        image = torch.sparse.sampled_addmm(pattern, direction, across, beta=0.0) @ basis
        curvature = (direction * image).sum(dim=1, keepdim=True)
        length = torch.where(curvature > 0, square / curvature, 0.0)
        free = free + length * direction
        slope = slope - length * image
        before, square = square, slope.square().sum(dim=1, keepdim=True)
        direction = slope + torch.where(before > 0, square / before, 0.0) * direction
    return free, basis, taken


def _rest(known: _Known, left: Tensor, right: Tensor) -> Tensor:
    """What the factors leave of the known entries."""
    given = known.sparse(known.values)
    return torch.sparse.sampled_addmm(given, left, right.T.contiguous(), beta=1.0, alpha=-1.0).values()


def _leading(along: _Known, across: _Known, count: int, rank: int, generator: torch.Generator) -> Tensor:
    """The right singular vectors of each problem's known entries, nearly, one below the other."""
    side = along.shape[1] // count
    width = min(rank + SPARE, side, along.shape[0] // count)
    block = torch.randn(along.shape[1], width, dtype=torch.float64, generator=generator, device=generator.device)
    block = block.to(along.values)
    for _ in range(POWERS):
        image = along.sparse(along.values) @ torch.linalg.qr(block.reshape(count, side, width))[0].flatten(0, 1)
        block = across.sparse(across.values) @ image
    basis = torch.linalg.qr(block.reshape(count, side, width))[0]
    image = (along.sparse(along.values) @ basis.flatten(0, 1)).reshape(count, -1, width)
    vectors = torch.linalg.svd(image, full_matrices=False)[2]
    return (basis @ vectors.mT[..., :rank]).flatten(0, 1)


def _where(done: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(done.repeat_interleave(len(old) // len(done)).unsqueeze(1), old, new)


def _blocks(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> _Known:
    """One block per problem down the diagonal."""
    order = (rows * shape[1] + columns).argsort()
    count, per_row = len(values), torch.bincount(rows, minlength=shape[0])
    starts = torch.nn.functional.pad(per_row.repeat(count).cumsum(0), (1, 0))
    shift = shape[1] * torch.arange(count, device=values.device).unsqueeze(1)
    return _Known(
        starts, (columns[order] + shift).flatten(), values[:, order].flatten(), (count * shape[0], count * shape[1])
    )


def _checked_shape(shape: Any, rank: int) -> tuple[int, int]:
    if not isinstance(shape, tuple | list | torch.Size) or len(shape) != 2:
        raise BadInput("shape", "two integers, (rows, columns)", describe(shape))
    m, n = (require_int("shape", side, least=1) for side in shape)
    if rank > min(m, n):
        raise BadInput("rank", f"at most {min(m, n)}, the smaller side", rank)
    return m, n


def _checked_places(places: Any, values: Tensor, shape: tuple[int, int], rank: int) -> tuple[Tensor, Tensor]:
    try:
        found = torch.as_tensor(places, device=values.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput("places", "integers of shape (2, known)", describe(places)) from error
    if (
        found.is_floating_point()
        or found.is_complex()
        or found.dtype == torch.bool
        or found.ndim != 2
        or len(found) != 2
    ):
        raise BadInput("places", "integers of shape (2, known)", describe(found))
    if values.shape[-1] != found.shape[1]:
        raise BadInput("values", f"of {found.shape[1]} entries in the last dimension, as places", describe(values))
    rows, columns = found.long()
    for what, index, side in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if not bool(((index >= 0) & (index < side)).all()):
            raise BadInput("places", f"{what} from 0 to {side - 1}", f"{int(index.min())} to {int(index.max())}")
    if len((rows * shape[1] + columns).unique()) < len(rows):
        raise BadInput("places", "all different", "some given twice")
    for what, index, side in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        fewest = torch.bincount(index, minlength=side).min()
        if fewest < rank:
            raise BadInput(
                "places", f"at least rank={rank} in all {what}, or they are not determined", f"{int(fewest)}"
            )
    return rows, columns
