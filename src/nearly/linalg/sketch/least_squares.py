"""Least squares with far more rows than columns: from a sketch alone, or to any accuracy with a sketch for a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, require_parameters, tolerance_for
from nearly.linalg.derivatives import asked, first_only
from nearly.linalg.promotion import promoted
from nearly.linalg.scaling import binary_scale
from nearly.linalg.sketch.operators import Sketch, sparse_signs

if TYPE_CHECKING:
    from jaxtyping import Float

CARD = {
    "name": "sketched_least_squares",
    "kind": "least_squares",
    "rows": [302],
    "replaces": "the QR decomposition of a tall matrix",
    "residual": "max_j |a_j^* (b - A x)| / (||a_j|| ||b||), a_j the columns of A, per column of b",
    "rate": "||A (x - x*)|| falls by about sqrt(columns / rows of the sketch) per iteration, whatever the condition of A",
    "order": None,
    "differentiable": ["matrix", "right"],
    "complex": ["matrix", "right"],
    "parameters": {
        "tolerance": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
        "rows": ["optional integer", 1, None],
    },
    "skips": {},
}
NONZEROS = 4  # of a column of the sketch; with one, two columns of A that live on few rows may become one
BLOCK = 1024  # rows whose norms are taken at a time: those of 200,000 x 200 took 77 ms at once, 15 ms so
TOLERANCE = 1e-10  # by default, in double precision
CYCLES = 4  # from a true residual; more have never helped


def sketch_and_solve(
    matrix: Float[Tensor, "*batch n d"], right: Float[Tensor, "*batch n k"], sketch: Sketch
) -> Float[Tensor, "*batch d k"]:
    r"""`x = argmin ||S A x - S b||`: least squares of the sketch alone.

    It replaces least squares of A at a price: the residual norm exceeds the least by a factor of about
    `1 / sqrt(1 - d / m)` for m rows of S. For DENSE sketches (`subsampled_hadamard`, `subsampled_cosine`, `gaussian`) with
    `m = O(eps^-2 d log^3(n / delta))` rows, every coordinate is as good as if the error were spread evenly: with probability
    `1 - delta`

        max_j |x_j - x*_j| <= eps / sqrt(d) ||A x* - b|| ||A^+||.

    Sparse sketches do not have this: a row of the residual that falls together with the only row of an unknown goes all into it.

    Source: Song, Ye, Yin and Zhang 2023, A nearly-optimal bound for fast regression with l_infinity guarantee, arXiv 2302.00248.

    Args:
        matrix: A, real or complex.
        right: b, shape (*batch, n, k), or (n,).
        sketch: S, for n rows.

    Returns:
        x, differentiable.

    Raises:
        BadInput: for shapes that do not fit, or a sketch of fewer rows than A has columns.
        FactorizationFailed: where columns of the sketch depend on each other.

    Example:
        >>> from nearly.linalg.sketch import subsampled_hadamard
        >>> a = torch.eye(64, 2, dtype=torch.float64)
        >>> sketch_and_solve(a, a @ torch.tensor([1.0, 2.0]).double(), subsampled_hadamard(32, 64)).round(decimals=9).tolist()
        [1.0, 2.0]
    """
    matrix, right = _checked(matrix, right)
    if sketch.shape[0] < matrix.shape[-1]:
        raise BadInput("sketch", f"of at least {matrix.shape[-1]} rows, as A has columns", f"one of {sketch.shape}")
    columns = right.unsqueeze(-1) if right.ndim == 1 else right
    small, target = sketch(matrix), sketch(columns)
    size, unit = binary_scale(small, -2), binary_scale(target, -2)
    q, r = _triangle(small / size)
    value = torch.linalg.solve_triangular(r, q.mH @ (target / unit), upper=True) / size.mT * unit
    return value.squeeze(-1) if right.ndim == 1 else value


def sketched_least_squares(
    matrix: Float[Tensor, "*batch n d"],
    right: Float[Tensor, "*batch n k"],
    *,
    rows: int | None = None,
    tolerance: float | None = None,
    iterations: int = 200,
    seed: int | torch.Generator = 0,
    check: bool = True,
) -> Solution:
    r"""`x = argmin ||A x - b||` to any accuracy: conjugate gradients for `A^* A x = A^* b`, preconditioned by the R of `S A = Q R`.

    It replaces the QR decomposition of A, `2 n d^2` operations, by that of a sketch of a few percent of its rows and a dozen
    products with A. Since `||S A x||` is near `||A x||` for all x, the columns of `A R^-1` are nearly orthonormal, however badly
    conditioned A is. The first x is the sketch's own solution; when the recurrence is done, the iteration starts again from the
    true residual, which makes it as stable as a direct method.

    It ends where the preconditioned gradient `||R^-* A^* (b - A x)||`, nearly `||A (x - x*)||`, is below `tolerance ||b||`, or
    cannot fall because of rounding, about eps times the condition of A times the residual's norm. What is reported is the largest
    cosine between the residual and a column of A, times `||b - A x|| / ||b||`, which has no sketch in it.

    Where A is known to be well conditioned (below some 1e4), the Cholesky decomposition of `A^* A` is faster for up to a few
    hundred columns; its error grows with the square of the condition, and above 1e8 it fails.

    Derivatives, first ones, are those of `x = A^+ b`, by one more solve with the same preconditioner; not through the iteration.

    Sources: Rokhlin and Tygert 2008, doi:10.1073/pnas.0804869105; Avron, Maymounkov and Toledo 2010, Blendenpik,
    doi:10.1137/090767911; the start and the restarts by Epperly, Meier and Nakatsukasa 2024, Fast randomized least-squares solvers
    can be just as accurate and stable as classical direct solvers, arXiv 2406.03468.

    Args:
        matrix: A, n >= d, real or complex, with independent columns; columns may be of any scale.
        right: b, shape (*batch, n, k), or (n,); each column is a problem of its own.
        rows: of the sketch; by default a sixteenth of n, but between 4 d and 32 d. Where that is no fewer than n, none is made.
        tolerance: for the residual `max_j |a_j^* (b - A x)| / (||a_j|| ||b||)`; 1e-10 by default, in single precision 1e-5.
        iterations: the most per column.
        seed: number or source of randomness.
        check: raise where the tolerance is not reached.

    Returns:
        The solution; `value` has the shape (*batch, d, k) or (d,).

    Raises:
        BadInput: for shapes that do not fit, and entries that are not finite.
        FactorizationFailed: where columns of A depend on each other, to rounding.

    Example:
        >>> found = sketched_least_squares([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 2.0, 3.0])
        >>> found.value.round(decimals=12).tolist()
        [1.0, 1.0]
    """
    require_parameters(CARD, rows=rows, tolerance=tolerance, iterations=iterations)
    matrix, right = _checked(matrix, right)
    tolerance = tolerance_for(tolerance, matrix.dtype, TOLERANCE)
    n, d = matrix.shape[-2:]
    columns = right.unsqueeze(-1) if right.ndim == 1 else right
    with torch.no_grad():
        unit = binary_scale(columns, -2)
        near, b = matrix.detach(), columns.detach() / unit
        size = torch.linalg.vector_norm(b, dim=-2)
        kept = min(max(4 * d, n // 16), 32 * d) if rows is None else max(rows, d)
        sketch = sparse_signs(kept, n, nonzeros=NONZEROS, seed=seed) if kept < n else _whole
        small = sketch(near)
        scale, far = (
            binary_scale(small, -2),
            torch.finfo(small.dtype).max ** 0.25,
        )  # squares of products must stay in range
        if bool(((scale > 1 / far) & (scale < far)).all()):
            scale = torch.ones_like(scale)
        else:
            near, small = near / scale, small / scale
        q, r = _triangle(small)
        start = torch.linalg.solve_triangular(r, q.mH @ sketch(b), upper=True)
        x, taken, stuck = _refined(near, r, b, start, tolerance * size, iterations)
        value = x / scale.mT * unit
        # From the value that is returned, which may have left the range of its type.
        rest = b - near @ (value / unit * scale.mT)
        parts = [torch.linalg.vector_norm(part, dim=-2) for part in near.split(BLOCK, dim=-2)]
        lengths = torch.linalg.vector_norm(torch.stack(parts), dim=0).unsqueeze(-1)
        cosines = ((near.mH @ rest).abs() / lengths).amax(dim=-2)
        residual = cosines / torch.where(size > 0, size, 1.0)
    if asked(matrix, right):

        def inverse_gram(gradient: Tensor) -> Tensor:
            """`(A^* A)^-1` applied, to the digits there are."""
            target = torch.linalg.solve_triangular(r.mH, gradient / scale.mT, upper=False)
            unit = binary_scale(target, -2)
            goal = torch.finfo(unit.dtype).eps * torch.linalg.vector_norm(target / unit, dim=-2)
            step = _cycle(near, r, target / unit, goal, iterations)[0]
            return torch.linalg.solve_triangular(r, step, upper=True) * unit / scale.mT

        value = _LeastSquares.apply(matrix, columns, value, inverse_gram)  # type: ignore[no-untyped-call]
    if right.ndim == 1:
        value, residual, taken, stuck = (part.squeeze(-1) for part in (value, residual, taken, stuck))
    return conclude(
        "sketched_least_squares",
        value,
        residual=residual,
        tolerance=tolerance,
        iterations=taken,
        advice="raise iterations=, or rows= of the sketch, which makes each iteration gain more",
        broken=stuck,
        why="it no longer falls, because of rounding: the tolerance is below what this matrix allows; raise tolerance=, or use "
        "float64",
        check=check,
    )


def _refined(matrix: Tensor, r: Tensor, b: Tensor, x: Tensor, goal: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The solution from a start, iterations per column, and which columns cannot come nearer."""
    gradient, norm = _gradient(matrix, r, b, x)
    taken = torch.zeros(goal.shape, dtype=torch.int64, device=goal.device)
    stuck = torch.zeros_like(taken, dtype=torch.bool)
    for _ in range(CYCLES):
        live = (norm > goal) & ~stuck & (taken < most)
        if not bool(live.any()):
            break
        step, steps = _cycle(matrix, r, gradient * live.unsqueeze(-2), goal, most - int(taken[live].max()))
        taken = taken + steps
        trial = x + torch.linalg.solve_triangular(r, step, upper=True)
        new, now = _gradient(matrix, r, b, trial)
        better = live & (now < norm)
        stuck = stuck | (live & ~(now < 0.5 * norm))
        x, gradient = (torch.where(better.unsqueeze(-2), a, c) for a, c in ((trial, x), (new, gradient)))
        norm = torch.where(better, now, norm)
    return x, taken, stuck


def _gradient(matrix: Tensor, r: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """That of half the squared residual, preconditioned, and its norms."""
    gradient = torch.linalg.solve_triangular(r.mH, matrix.mH @ (b - matrix @ x), upper=False)
    return gradient, torch.linalg.vector_norm(gradient, dim=-2)


def _cycle(matrix: Tensor, r: Tensor, gradient: Tensor, goal: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The y with `R^-* A^* A R^-1 y = gradient`, to residuals of the norm `goal`, and steps per column."""
    y, direction, gradient = torch.zeros_like(gradient), gradient.clone(), gradient.clone()
    square = torch.linalg.vector_norm(gradient, dim=-2).square()
    live = square > goal.square()
    taken = torch.zeros(square.shape, dtype=torch.int64, device=square.device)
    for _ in range(most):
        image = matrix @ torch.linalg.solve_triangular(r, direction, upper=True)
        curvature = torch.linalg.vector_norm(image, dim=-2).square()
        live = live & (curvature > 0)
        length = torch.where(live, square / curvature, 0.0).unsqueeze(-2)
        y = y + length * direction
        gradient = gradient - length * torch.linalg.solve_triangular(r.mH, matrix.mH @ image, upper=False)
        taken += live
        before, square = square, torch.linalg.vector_norm(gradient, dim=-2).square()
        live = live & (square > goal.square())
        if not bool(live.any()):
            break
        direction = gradient + torch.where(live, square / before, 0.0).unsqueeze(-2) * direction
    return y, taken


class _LeastSquares(torch.autograd.Function):
    """`dx = (A^* A)^-1 (dA^* (b - A x) + A^* (db - dA x))`."""

    @staticmethod
    def forward(
        context: Any, matrix: Tensor, right: Tensor, value: Tensor, inverse_gram: Callable[[Tensor], Tensor]
    ) -> Tensor:
        found = value.clone()
        context.inverse_gram = inverse_gram
        context.save_for_backward(matrix, right, found)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        first_only("sketched solutions")
        matrix, right, x = context.saved_tensors
        weight = context.inverse_gram(gradients[0])
        image = matrix @ weight
        return (right - matrix @ x) @ weight.mH - image @ x.mH, image, None, None


def _whole(matrix: Tensor) -> Tensor:
    """In place of a sketch of no fewer rows."""
    return matrix


def _triangle(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The QR decomposition.

    Raises:
        FactorizationFailed: where R is singular to rounding, its columns scaled to length one.
    """
    q, r = torch.linalg.qr(matrix)
    lengths = torch.linalg.vector_norm(r.detach(), dim=-2)
    share = r.detach().diagonal(dim1=-2, dim2=-1).abs() / lengths
    cut = matrix.shape[-1] * torch.finfo(share.dtype).eps
    if not bool((share > cut).all()):
        column = int((~(share > cut)).nonzero()[0, -1])
        raise FactorizationFailed(
            f"matrix has dependent columns: column {column} is, to rounding, in the span of those before it; leave it out, or use "
            "torch.linalg.lstsq(driver='gelsd'), which takes the shortest solution"
        )
    return q, r


def _checked(matrix: Any, right: Any) -> tuple[Tensor, Tensor]:
    matrix = as_floating("matrix", matrix, complex_too=True)
    right = as_floating("right", right, least_dimensions=1, complex_too=True)
    if matrix.ndim < 2 or matrix.shape[-2] < matrix.shape[-1]:
        raise BadInput("matrix", "of shape (*batch, n, d), with n >= d", describe(matrix))
    vector = right.ndim == 1 and matrix.ndim == 2
    if (not vector and right.ndim != matrix.ndim) or right.shape[: matrix.ndim - 1] != matrix.shape[:-1]:
        asked = (*matrix.shape[:-1], "k")
        raise BadInput("right", f"of shape {asked}, as the matrix", describe(right))
    matrix, right = promoted(matrix, right)
    return matrix, right
