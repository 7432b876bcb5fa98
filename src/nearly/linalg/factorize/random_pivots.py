"""One loop of random pivots on pairs of columns, for eigenvectors, singular vectors, QR and Cholesky factors alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, generator_from, require_parameters, tolerance_for
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int
    from torch import Tensor

CARD = {
    "name": "random_pivots",
    "kind": "diagonalize",
    "rows": [46],
    "replaces": "a routine of its own for each of four factorizations, with pivots in cyclic order, whose rate is not known",
    "residual": "the larger of ||A - left diag(values) right|| / ||A|| and, but for Cholesky factors, of the departure from "
    "orthonormality of left's columns whose value is not 0, Frobenius norms",
    "rate": "1 - 2 / (n (n - 1)) per pivot in the mean, of tr(B o B^-1) - n for the Gram matrix B, whichever the factorization",
    "order": None,
    "differentiable": [],
    "parameters": {
        "factorization": ["choice", "eigen", "svd", "qr", "cholesky"],
        "pivots": ["choice", "sweep", "one"],
        "tolerance": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}


TOLERANCE = 1e-10  # by default, in double precision


class Factors(NamedTuple):
    """`A = left diag(values) right`, shapes (..., m, n), (..., n) and (..., n, n)."""

    left: Tensor
    values: Tensor
    right: Tensor


def random_pivots(
    matrix: Float[Tensor, "*batch m n"],
    *,
    factorization: str,
    pivots: str = "sweep",
    tolerance: float | None = None,
    iterations: int = 10_000,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Solution:
    """Factors `A = left diag(values) right` by making random pairs of columns orthogonal until all are.

    A pivot takes two columns (i, j), i < j, of `A = Q R`, Q = A and R = I to start with, and an S for which the two columns of
    `Q S` are orthogonal; R becomes `S^-1 R`. Rotations lead to singular vectors; unit upper triangular S (Gram-Schmidt on two
    columns) leads to QR. The same applied to `B = R^T D R` from both sides gives eigenvectors and `L D L^T`:

    - "eigen", of a symmetric A: `V diag(l) V^T`, eigenvalues rising (Jacobi 1846).
    - "svd": `U diag(s) V^T`, singular values falling (one-sided Jacobi; Hestenes 1958, doi:10.1137/0106005).
    - "qr": orthonormal Q, positive values, R with unit diagonal.
    - "cholesky", of a symmetric positive definite A: L with unit diagonal, positive values, L^T.

    For a pair drawn uniformly, `tr(B o B^-1) - n`, B the Gram matrix (or A itself, from both sides), falls by the factor
    `1 - 2 / (n (n - 1))` in the mean, exactly, for every S: a pivot changes it by `2 B_ij (B^-1)_ij`. `pivots="one"` draws so.
    "sweep" draws an order of the columns and plays a round-robin tournament of n - 1 rounds of disjoint pairs, each of them a
    uniformly random matching: pivots of a round are independent of each other and done at once, and as all pairs meet in every
    sweep the eigenvalue and singular value iterations converge quadratically at the end, as cyclic ones do.

    The 2-norm of columns below `n eps ||A||_F` counts as 0, and so does their value. On CPUs LAPACK (`torch.linalg`) is 50 to
    1,000 times faster; this is for what the theorem says, and for small singular values of matrices with badly scaled columns,
    which keep all their digits. A round of disjoint pairs takes some 6 m n + 3 n^2 operations, or 6 n^2 + 3 n^2 from both sides.

    Source: Detherage and Shah 2025, Matrix factorizations with uniformly random pivoting (also: A unified perspective on
    orthogonalization and diagonalization), arXiv 2505.02023, pivots of two columns; the potential is theirs. Tournament sweeps
    are classical (Brent and Luk 1985, doi:10.1137/0906007). Departures: (1) disjoint pairs at once, above; (2) columns are taken
    as zero as above, so that singular matrices have factors.

    Args:
        matrix: A; m >= n, square and symmetric for "eigen" and "cholesky". Gradients do not flow.
        factorization: as above.
        pivots: "sweep", or "one" pair at a time.
        tolerance: of the residual: the larger of `||A - left diag(values) right|| / ||A||` and `||left^T left - I||`, on columns
            whose value is not 0; Frobenius norms. Without the second for "cholesky". 1e-10 by default, in single precision 1e-5.
        iterations: the most rounds; a round of "one" is a single pivot.
        seed: of the pairs, the same for all matrices of the batch; or a generator.
        check: whether to raise rather than return what has not converged.

    Returns:
        The `Factors`.

    Raises:
        BadInput: a matrix that is empty, not finite, wide, or not symmetric where it must be; parameters that are not as above.

    Example:
        >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> random_pivots(a, factorization="eigen").value.values.round(decimals=9).tolist()
        [1.0, 3.0]
    """
    require_parameters(CARD, factorization=factorization, pivots=pivots, tolerance=tolerance, iterations=iterations)
    matrix = as_floating("matrix", matrix, least_dimensions=2).detach()
    tolerance = tolerance_for(tolerance, matrix.dtype, TOLERANCE)
    n = matrix.shape[-1]
    two_sided = factorization in ("eigen", "cholesky")
    if matrix.shape[-2] < n or (two_sided and matrix.shape[-2] != n):
        raise BadInput("matrix", "square" if two_sided else "of at least as many rows as columns", describe(matrix))
    unit = binary_scale(matrix, (-2, -1))
    scaled = matrix / unit
    eps = n * torch.finfo(matrix.dtype).eps
    if two_sided and not bool(((scaled - scaled.mT).abs() <= eps).all()):
        raise BadInput("matrix", "symmetric", describe(matrix))
    least = eps * torch.linalg.matrix_norm(scaled)[..., None]
    core = scaled.clone()
    right = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand(*matrix.shape[:-2], n, n).clone()
    done = torch.zeros(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    counts = torch.zeros(matrix.shape[:-2], dtype=torch.int64, device=matrix.device)
    spent, schedule = 0, _schedule(n, pivots, generator_from(seed), matrix.device)
    while True:
        factors, residual = _factors(scaled, core, right, factorization)
        counts = torch.where(done, counts, spent)
        done = done | (residual <= tolerance)
        if bool(done.all()) or spent >= iterations:
            break
        for _ in range(min(max(n - 1, 1), iterations - spent)):
            pivot(core, right, next(schedule), factorization)
            spent += 1
            if not two_sided:
                core *= torch.linalg.vector_norm(core, dim=-2, keepdim=True) > least[..., None, :]
    sizes = factors.values * unit[..., 0]
    return conclude(
        "random_pivots",
        Factors(factors.left, sizes, factors.right),
        residual=residual,
        tolerance=tolerance,
        iterations=counts,
        advice=f"raise iterations= above {iterations}, or tolerance= to some 10 n eps if the residual has stopped falling",
        broken=torch.isinf(residual),
        why="a pivot was not positive, so the matrix is not positive definite: add a multiple of the identity, or use 'eigen'",
        check=check,
    )


def pivot(core: Tensor, right: Tensor, pairs: Int[Tensor, "p 2"], factorization: str) -> None:
    """Pivots on disjoint pairs of columns (i, j), i < j, in place.

    Args:
        core: Q, shape (..., m, n), or D of `A = R^T D R` for "eigen" and "cholesky".
        right: R, shape (..., n, n).
        pairs: the columns.
        factorization: as for `random_pivots`.

    Example:
        >>> q, r = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.eye(2)
        >>> pivot(q, r, torch.tensor([[0, 1]]), "qr")
        >>> q.tolist(), r.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]])
    """
    i, j = pairs.T
    two_sided = factorization in ("eigen", "cholesky")
    if two_sided:
        a, d, g = core[..., i, i], core[..., j, j], core[..., i, j]
    else:
        x, y = core[..., i], core[..., j]
        a, d, g = x.square().sum(-2), y.square().sum(-2), (x * y).sum(-2)
    if factorization in ("eigen", "svd"):
        # The smaller root of t^2 + 2 z t - 1 = 0: the smaller angle (Golub and Van Loan 2013, section 8.5.2).
        zeta = (d - a) / (2 * g)
        tangent = torch.copysign(1 / (zeta.abs() + torch.hypot(zeta, torch.ones_like(zeta))), zeta)
        tangent = torch.where(g == 0, 0.0, tangent)
        cosine = torch.rsqrt(1 + tangent.square())
        first, second = (cosine, -cosine * tangent), (cosine * tangent, cosine)
        rows = first, second
    else:
        share = torch.where(a == 0, 0.0, g / a)
        zero, one = torch.zeros_like(share), torch.ones_like(share)
        first, second = (one, zero), (-share, one)
        rows = (one, share), (zero, one)
    _combine(core, i, j, first, second)
    if two_sided:
        _combine(core.mT, i, j, first, second)
    _combine(right.mT, i, j, *rows)


def pivot_potential(gram: Float[Tensor, "*batch n n"]) -> Float[Tensor, " *batch"]:
    """`tr(B o B^-1) - n` of a symmetric positive definite B: zero for diagonal matrices alone, and unchanged by scaling columns.

    Example:
        >>> round(float(pivot_potential(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))), 4)
        1.125
    """
    return (gram.diagonal(dim1=-2, dim2=-1) * torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1)).sum(-1) - gram.shape[
        -1
    ]


def _combine(of: Tensor, i: Tensor, j: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> None:
    """Columns i become `first[0] x_i + first[1] x_j`, columns j likewise with `second`."""
    x, y = of[..., i], of[..., j]
    of[..., i], of[..., j] = (pair[0][..., None, :] * x + pair[1][..., None, :] * y for pair in (first, second))


def _schedule(n: int, pivots: str, generator: torch.Generator, device: torch.device) -> Iterator[Int[Tensor, "p 2"]]:
    """Pairs for one round after the other, for ever."""
    if n == 1:
        while True:
            yield torch.zeros(0, 2, dtype=torch.int64, device=device)
    if pivots == "one":
        places = torch.triu_indices(n, n, 1).T
        while True:
            yield places[torch.randint(len(places), (1,), generator=generator)].to(device)
    even = n + n % 2
    while True:
        circle = torch.randperm(even, generator=generator)  # the last of an odd number sits out
        rounds = []
        for _ in range(even - 1):
            pairs = torch.stack([circle[: even // 2], circle[even // 2 :].flip(0)], 1).sort(1)[0]
            rounds.append(pairs[pairs[:, 1] < n])
            circle = torch.cat([circle[:1], circle[1:].roll(1)])
        yield from torch.stack(rounds).to(device)


def _factors(matrix: Tensor, core: Tensor, right: Tensor, factorization: str) -> tuple[Factors, Tensor]:
    """The factors as they stand, in order, and their residual."""
    if factorization in ("eigen", "cholesky"):
        values, left = core.diagonal(dim1=-2, dim2=-1), right.mT
    else:
        values = torch.linalg.vector_norm(core, dim=-2)
        left = core / torch.where(values == 0, 1.0, values)[..., None, :]
    if factorization in ("eigen", "svd"):
        order = values.argsort(-1, descending=factorization == "svd")
        values = values.gather(-1, order)
        left = left.gather(-1, order[..., None, :].expand_as(left))
        right = right.gather(-2, order[..., None].expand_as(right))
    size = torch.linalg.matrix_norm(matrix)
    residual = torch.linalg.matrix_norm(matrix - (left * values[..., None, :]) @ right)
    residual = residual / torch.where(size == 0, 1.0, size)
    if factorization == "cholesky":
        return Factors(left, values, right), torch.where((values > 0).all(-1), residual, math.inf)
    nonzero = (values != 0).to(values.dtype) if factorization != "eigen" else torch.ones_like(values)
    departure = torch.linalg.matrix_norm(left.mT @ left - torch.diag_embed(nonzero))
    return Factors(left, values, right), torch.maximum(residual, departure)
