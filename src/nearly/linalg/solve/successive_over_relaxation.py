"""Successive over-relaxation for many systems at once, each with its own relaxation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.solution import conclude
from nearly.core.validate import as_floating, describe, require_parameters, tolerance_for
from nearly.linalg.derivatives import asked
from nearly.linalg.operator import Operator, diagonal_of, transpose
from nearly.linalg.scaling import binary_scale
from nearly.linalg.solve._checked import checked_system
from nearly.linalg.solve._system import TOLERANCE, block_width, implicit, near_one
from nearly.linalg.triangular import Product, triangular_solver

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.solution import Solution

CARD = {
    "name": "successive_over_relaxation",
    "kind": "positive_definite",
    "rows": [33],
    "replaces": "a factorization, where memory for no more than the matrix is there",
    "residual": "||b - A x|| / ||b||, 2-norm, per column of b",
    "rate": "the spectral radius of 1 - (D / w + L)^-1 A; w - 1 for the best w of a consistently ordered matrix",
    "order": None,
    "differentiable": ["right", "matrix"],
    "parameters": {
        "relaxation": ["real", 0, 2],
        "tolerance": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}


def successive_over_relaxation(
    matrix: Any,
    right: Float[Tensor, "*batch n k"],
    *,
    relaxation: float | Float[Tensor, "*batch k"] = 1.0,
    shift: float | Float[Tensor, "*batch k"] = 0.0,
    tolerance: float | None = None,
    iterations: int = 10_000,
    check: bool = True,
) -> Solution:
    r"""Solve `(A + c) x = b` by sweeps `x <- x + (D / w + L)^-1 r`, `r = b - (A + c) x`, from `x = 0`.

    D and L are the diagonal of A + c and what lies below it, w the relaxation, c a shift of the diagonal; w and c may differ from
    column to column, so that a table of iteration counts is one call. It converges for every symmetric positive definite matrix and
    0 < w < 2 (Ostrowski 1954, Reich 1949). Sparse triangles are solved level by level, all columns at once; columns that have
    converged are left out, or swept on. Derivatives are those of `conjugate_gradients`.

    Source: Young 1954, Iterative methods for solving partial difference equations of elliptic type,
    doi:10.1090/S0002-9947-1954-0059635-7; counted as by Khodak, Chow, Balcan and Talwalkar 2023, Learning to relax,
    arXiv:2310.02246, algorithm 1.

    Args:
        matrix: A: dense, shape (*batch, n, n), or sparse, shape (n, n). Its diagonal must not vanish.
        right: b, shape (n,), (n, k), or (*batch, n, k); each column is a problem of its own.
        relaxation: w, between 0 and 2: a number, or a tensor that broadcasts against the shape of b without n; in a dense batch the
            columns of one system share it.
        shift: c, likewise.
        tolerance: for `||b - (A + c) x|| / ||b||`; 1e-8 by default, in single precision 1e-4.
        iterations: the most sweeps per column.
        check: raise where the tolerance is not reached.

    Returns:
        The solution; `value` has the shape of `right`, all else that without n.

    Raises:
        BadInput: for shapes that do not fit, entries that are not finite, zeros on the diagonal, operators without entries, and a
            shift by which derivatives are asked.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> found = successive_over_relaxation([[2.0, 1.0], [1.0, 2.0]], [3.0, 3.0], relaxation=1.07)
        >>> [round(value, 6) for value in found.value.tolist()], int(found.iterations)
        ([1.0, 1.0], 9)
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations)
    if not isinstance(relaxation, Tensor):
        require_parameters(CARD, relaxation=relaxation)
    matrix, right = checked_system(matrix, right)
    tolerance = tolerance_for(tolerance, right.dtype, TOLERANCE)
    if isinstance(matrix, Operator):
        raise BadInput("matrix", "one with entries, dense or sparse", "an operator")
    w = _per_column("relaxation", relaxation, matrix, right)
    if not bool(((w > 0) & (w < 2)).all()):
        raise BadInput("relaxation", "> 0 and < 2", describe(relaxation))
    if isinstance(shift, Tensor) and asked(shift):
        raise BadInput("shift", "one that no derivative is asked by", describe(shift), "Give `shift.detach()`.")
    c = _per_column("shift", shift, matrix, right)
    columns = right.unsqueeze(-1) if right.ndim == 1 else right
    with torch.no_grad():
        value, residual, taken, broken = _solve(matrix, columns.detach(), w, c, tolerance, iterations)
    if asked(matrix, right):

        def adjoint(gradient: Tensor) -> Tensor:
            limits: dict[str, Any] = {"tolerance": tolerance, "iterations": iterations, "relaxation": w, "shift": c}
            return successive_over_relaxation(transpose(matrix), gradient, **limits).value

        value = implicit(matrix, columns, value, adjoint)
    if right.ndim == 1:
        value, residual, taken, broken = (part.squeeze(-1) for part in (value, residual, taken, broken))
    return conclude(
        "successive_over_relaxation",
        value,
        residual=residual,
        tolerance=tolerance,
        iterations=taken,
        advice="raise iterations=, change relaxation=, or use conjugate_gradients",
        broken=broken,
        why="the iteration diverges, as it may where the matrix is not symmetric positive definite; lower relaxation= or use gmres",
        check=check,
    )


def _per_column(name: str, value: Any, matrix: Tensor, right: Tensor) -> Tensor:
    """Of shape (*batch, k), or (*batch, 1) where all columns of a system share it.

    Raises:
        BadInput: unless it broadcasts so.
    """
    given = as_floating(name, value).detach().to(right.device, right.dtype)
    batch = right.shape[:-2] if right.ndim > 1 else ()
    shape = (*batch, right.shape[-1] if right.ndim > 1 else 1)
    try:
        given.expand(shape)
    except RuntimeError:
        raise BadInput(name, f"a number, or of a shape that broadcasts to {shape}", describe(given)) from None
    given = given.expand(*batch, given.shape[-1] if given.ndim else 1)
    if batch and given.shape[-1] > 1:
        raise BadInput(name, f"of shape {(*batch, 1)}, one per matrix of the dense batch", describe(given))
    return given


def _solve(
    matrix: Tensor, columns: Tensor, w: Tensor, c: Tensor, tolerance: float, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, relative residual, sweeps, and which columns diverged.

    Raises:
        BadInput: for zeros on the diagonal.
    """
    near, scale = near_one(matrix)
    assert isinstance(near, Tensor)  # operators have been refused
    if near.ndim == 2 and near.layout == torch.strided and max(w.shape[-1], c.shape[-1]) > 1:
        near = near.to_sparse_csr()
    unit = binary_scale(columns, -2)
    right, shift = columns / unit, c.unsqueeze(-2) / scale
    diagonal = diagonal_of(near).unsqueeze(-1) + shift
    if not bool((diagonal != 0).all()):
        raise BadInput("matrix", "without zeros on its diagonal", f"{int((diagonal == 0).sum())} of them")
    diagonal = diagonal / w.unsqueeze(-2)
    solver, narrow = triangular_solver(near), near.layout != torch.strided
    width = block_width(len(right)) if narrow else right.shape[-1]
    if narrow:
        diagonal, shift = (part.expand(-1, right.shape[-1]) for part in (diagonal, shift))
    parts = (part.split(width, dim=-1) for part in (right, diagonal, shift))
    found = [_sweep(near, solver, part, tolerance, most, narrow=narrow) for part in zip(*parts, strict=True)]
    x, taken, broken = (torch.cat(part, dim=-1) for part in zip(*found, strict=True))
    value = x * unit / scale
    # From the value that is returned: large and small ones may have left the range of their type.
    back = value * scale / unit
    size = right.norm(dim=-2)
    norm = (right - near @ back - shift * back).norm(dim=-2)
    return value, norm / size.clamp(min=torch.finfo(size.dtype).tiny), taken, broken


def _sweep(
    near: Tensor,
    solver: Callable[[Tensor], Product],
    system: tuple[Tensor, Tensor, Tensor],
    tolerance: float,
    most: int,
    *,
    narrow: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solutions, sweeps until they were good enough, and which columns diverged, of right-hand sides, diagonal and shift.

    All columns go on until none needs to; with `narrow`, those that are done are left out whenever they are half of all.
    """
    right, diagonal, shift = system
    size = right.norm(dim=-2)
    values = torch.zeros_like(right)
    taken = torch.zeros(size.shape, dtype=torch.int64, device=right.device)
    broken = torch.zeros_like(taken, dtype=torch.bool)
    here, x, rest, solve = (
        torch.arange(right.shape[-1], device=right.device),
        torch.zeros_like(right),
        right,
        solver(diagonal),
    )
    live = size > tolerance * size
    for _ in range(most):
        left = int(live.sum())
        if not left:
            break
        if narrow and 2 * left <= live.numel():
            values[:, here] = x
            here = here[live]
            right, diagonal, shift, x, rest, size = (
                part[..., live] for part in (right, diagonal, shift, x, rest, size)
            )
            solve, live = solver(diagonal), live[live]
        x = x + solve(rest)
        rest = (right - near @ x).addcmul_(shift, x, value=-1)
        norm = rest.norm(dim=-2)
        taken[..., here] += live
        diverged = live & ~(norm <= size / torch.finfo(size.dtype).eps)  # beyond it no digit is left
        broken[..., here] |= diverged
        live = live & (norm > tolerance * size) & ~diverged
    values[..., here] = x
    return values, taken, broken
