"""Conjugate gradients for many systems at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.validate import require_parameters
from nearly.linalg.solve._block_conjugate_gradients import block_cycle
from nearly.linalg.solve._cholesky_preconditioner import cholesky_preconditioner
from nearly.linalg.solve._system import Cycle, Product, Recipe, inner_number, inner_product, is_one_column, solve

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.solution import Solution

CARD = {
    "name": "conjugate_gradients",
    "kind": "positive_definite",
    "rows": [],
    "replaces": "a Cholesky factorization and its triangular solves",
    "residual": "||b - A x|| / ||b||, 2-norm, per column of b",
    "rate": "2 ((sqrt(k) - 1) / (sqrt(k) + 1))^iterations in the energy norm, k the condition number of M A",
    "order": None,
    "differentiable": ["right", "matrix"],
    "complex": ["right", "matrix"],
    "parameters": {
        "tolerance": ["optional real", 0, None],
        "iterations": ["optional integer", 1, None],
        "block": ["optional choice", True, False],
    },
    "skips": {},
}


def conjugate_gradients(
    matrix: Any,
    right: Float[Tensor, "*batch n k"],
    *,
    preconditioner: Any = None,
    tolerance: float | None = None,
    iterations: int | None = None,
    block: bool | None = None,
    check: bool = True,
) -> Solution:
    r"""Solve `A x = b` for symmetric or Hermitian positive definite A, by products with A alone.

    From `r = b - A x`, `z = M r`, `d = z`:

        x <- x + a d,  r <- r - a A d,  a = r'z / d'A d;   d <- M r + (r_new' M r_new / r'z) d,

    where ' transposes and conjugates.

    All columns of all systems advance together, each until it has converged. When the recurrence is done the true residual is
    computed, and the iteration starts again from it where it is too large. Rounding may keep it from ever being reached; this is
    told, as are directions without positive curvature, which prove that A (or M) is not positive definite.

    Dense matrices of 16 to 2,048 unknowns have their own Cholesky factors in single precision for M where nothing else is asked
    for: some steps are then enough to solve in double precision, whatever the scale of the unknowns and for conditions up to 1e7,
    and fewer than without beyond (n = 200, condition 1e8: 14; without, none of 2,000 was enough). `_cholesky_preconditioner.py`
    has the formula and its source. What they leave, the iteration goes on with by itself.

    As a `block` the k columns of a system share one Krylov space, in which each has the least error in the energy norm: whatever
    the condition, a small multiple of n / k steps is enough (n = 1,000, condition 1e6, 64 columns: 48 steps in place of 8,156).
    A step then takes some 12 n k^2 operations beside its products. `_block_conjugate_gradients.py` has the recurrence and its
    sources. What it leaves, columns by themselves go on with.

    Derivatives, backward ones, follow from `dx = A^-1 (db - dA x)` by one more solve, which raises where it does not converge; they
    do not go through the iteration, nor to the preconditioner.

    Source: Hestenes and Stiefel 1952, Methods of conjugate gradients for solving linear systems, doi:10.6028/jres.049.044, and
    for the preconditioned form and the rate Saad 2003, Iterative methods for sparse linear systems, algorithm 9.1 and
    equation (6.128).

    Args:
        matrix: A, symmetric or Hermitian positive definite (its symmetry is not looked at: only the residual is): dense, shape
            (*batch, n, n); or of shape (n, n): a sparse tensor, a SciPy sparse matrix or `LinearOperator`, anything with `shape`
            and `@`, or a callable on tensors of shape (n, k). float32, float64, complex64 or complex128, as is b; the solution is
            complex where one of them is.
        right: b, shape (n,), (n, k), or (*batch, n, k); each column is a problem of its own.
        preconditioner: M, an approximate inverse of A, symmetric or Hermitian positive definite, real where A and b are: a
            callable on residuals of the shape of `right` with its columns, or anything with `@`. Without, see above.
        tolerance: for `||b - A x|| / ||b||`; 1e-8 by default, in single precision 1e-4.
        iterations: the most per column; 10 n by default.
        block: whether columns share, or each goes alone; then without factors. By default four or more share where the matrix is
            dense, n >= 64, and a preconditioner is given or n too large for factors. Worth it too for operators whose products are
            dear.
        check: raise where the tolerance is not reached.

    Returns:
        The solution; `value` has the shape of `right`, all else that without n.

    Raises:
        BadInput: for shapes that do not fit, and entries that are not finite.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> found = conjugate_gradients([[2.0, 1.0], [1.0, 2.0]], [3.0, 3.0])
        >>> found.value.tolist(), int(found.iterations)
        ([1.0, 1.0], 1)
    """
    limits: dict[str, Any] = {"tolerance": tolerance, "iterations": iterations, "block": block}
    require_parameters(CARD, **limits)
    return solve(_RECIPE, matrix, right, preconditioner, check=check, **limits)


def _cycle(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    if is_one_column(rest):
        return _column(product, precondition, rest, enough, most)
    rest, x = rest.clone(), torch.zeros_like(rest)
    image, work = torch.empty_like(rest), torch.empty_like(rest)
    plain = precondition(rest) is rest  # without a preconditioner the two inner products are one
    square = inner_product(rest, rest, work)
    direction = precondition(rest).clone()
    inner = square if plain else inner_product(rest, direction, work)
    goal = enough.square()
    live, broken = square > goal, torch.zeros_like(square, dtype=torch.bool)
    taken = torch.zeros_like(square, dtype=torch.int64)
    for _ in range(most):
        image = product(direction, out=image)
        curvature = inner_product(direction, image, work)  # real, where A is Hermitian
        good = live & (curvature > 0) & (inner > 0) & torch.isfinite(curvature)
        broken |= live & ~good
        length = torch.where(good, inner / curvature, 0.0).unsqueeze(-2)
        x.addcmul_(direction, length)
        rest.addcmul_(image, length, value=-1)
        taken += good
        square = inner_product(rest, rest, work)
        live = good & (square > goal)
        if not bool(live.any()):
            break
        better = precondition(rest)
        before, inner = inner, square if plain else inner_product(rest, better, work)
        gain = torch.where(live, inner / before, 0.0).unsqueeze(-2).to(direction.dtype)
        torch.addcmul(better, direction, gain, out=direction)
    return Cycle(x, taken, broken)


def _column(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    """The same for one column on a CPU, with numbers for the tensors whose operations a step would mostly consist of.

    It takes 20 us in place of 52 for 2,025 unknowns, 74 in place of 139 for 22,500.
    """
    rest, x = rest.clone(), torch.zeros_like(rest)
    better, image = precondition(rest), torch.empty_like(rest)
    plain, direction = better is rest, better.clone()
    square = inner_number(rest, rest)
    inner = square if plain else inner_number(rest, better)
    goal, taken, broken = float(enough) ** 2, 0, False
    while taken < most and square > goal:
        image = product(direction, out=image)
        curvature = inner_number(direction, image)
        broken = not (0 < curvature < math.inf and inner > 0)
        if broken:
            break
        x.add_(direction, alpha=inner / curvature)
        rest.add_(image, alpha=-inner / curvature)
        taken, square = taken + 1, inner_number(rest, rest)
        better = precondition(rest)
        before, inner = inner, square if plain else inner_number(rest, better)
        direction.mul_(inner / before).add_(better)
    return Cycle(
        x, torch.full_like(enough, taken, dtype=torch.int64), torch.full_like(enough, broken, dtype=torch.bool)
    )


_RECIPE = Recipe(
    name="conjugate_gradients",
    run=_cycle,
    why="a direction of no positive curvature was met: the matrix (or the preconditioner) is not positive definite, or is "
    "singular and the right-hand side outside its range, or its products are not finite; use minres or gmres",
    symmetric=True,
    complex_too=True,
    block=block_cycle,
    factors=cholesky_preconditioner,
)
