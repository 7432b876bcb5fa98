"""Restarted GMRES for many systems at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.validate import require_parameters
from nearly.linalg.solve._system import Cycle, Product, Recipe, solve

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.solution import Solution

CARD = {
    "name": "gmres",
    "kind": "linear",
    "rows": [],
    "replaces": "an LU factorization and its triangular solves",
    "residual": "||b - A x|| / ||b||, 2-norm, per column of b",
    "rate": "that of the least polynomial of the restart's degree that is 1 at 0, on the field of values; the residual never grows",
    "order": None,
    "differentiable": ["right", "matrix"],
    "complex": ["right", "matrix"],
    "parameters": {
        "tolerance": ["optional real", 0, None],
        "iterations": ["optional integer", 1, None],
        "restart": ["integer", 1, None],
    },
    "skips": {},
}


def gmres(
    matrix: Any,
    right: Float[Tensor, "*batch n k"],
    *,
    preconditioner: Any = None,
    restart: int = 50,
    tolerance: float | None = None,
    iterations: int | None = None,
    check: bool = True,
) -> Solution:
    r"""Solve `A x = b` for any nonsingular A, real or complex, by products with A alone.

    x minimizes `||b - A x||` over `M K`, K the Krylov space of `A M` (the preconditioner stands on the right, so that the residual
    is that of the system itself); after `restart` steps the space is built anew from what is left. Its basis is orthogonalized
    twice by the classical Gram-Schmidt process. Batches and derivatives are those of `conjugate_gradients`; for the latter A needs
    a conjugate transpose.

    Source: Saad and Schultz 1986, GMRES: a generalized minimal residual algorithm, doi:10.1137/0907058; Saad 2003, Iterative
    methods for sparse linear systems, algorithm 9.5.

    Args:
        matrix: A; as for `conjugate_gradients`, without its symmetry.
        right: b, shape (n,), (n, k), or (*batch, n, k); each column is a problem of its own.
        preconditioner: M, an approximate inverse of A; likewise.
        restart: Krylov vectors that are held.
        tolerance: for `||b - A x|| / ||b||`; 1e-8 by default, in single precision 1e-4.
        iterations: the most per column; 10 n by default.
        check: raise where the tolerance is not reached.

    Returns:
        The solution; `value` has the shape of `right`, all else that without n.

    Raises:
        BadInput: for shapes that do not fit, and entries that are not finite.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> found = gmres(torch.tensor([[0.0, 1.0], [-2.0, 0.0]]), torch.tensor([3.0, 4.0]))
        >>> [round(value, 5) for value in found.value.tolist()]
        [-2.0, 3.0]
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations, restart=restart)

    def run(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
        return _cycle(product, precondition, rest, enough, min(most, restart, rest.shape[-2]))

    recipe = Recipe(
        name="gmres",
        run=run,
        why="the iteration broke down: the matrix is singular, or products are not finite",
        symmetric=False,
        complex_too=True,
        advice="raise iterations= or restart=, or give a preconditioner=",
        restart=restart,
    )
    return solve(recipe, matrix, right, preconditioner, tolerance=tolerance, iterations=iterations, check=check)


def _cycle(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    size = rest.norm(dim=-2)
    batch, n = size.shape, rest.shape[-2]
    basis = rest.new_zeros(*batch, most + 1, n)  # rows: columns of right-hand sides move to the front
    upper = rest.new_zeros(*batch, most, most)
    turns = torch.eye(most + 1, dtype=rest.dtype, device=rest.device).repeat(*batch, 1, 1)  # all rotations so far
    basis[..., 0, :] = rest.mT * torch.where(size > 0, 1 / size, 0.0).unsqueeze(-1)
    live = size > enough
    broken, taken = torch.zeros_like(live), torch.zeros_like(live, dtype=torch.int64)
    for j in range(most):
        ahead = product(precondition(basis[..., j, :].mT)).mT.contiguous()
        known, start = basis[..., : j + 1, :], ahead.norm(dim=-1)
        inner = torch.zeros_like(upper[..., : j + 1, 0])
        for _ in range(2):
            more = (known @ ahead.conj().unsqueeze(-1)).squeeze(-1).conj()
            ahead = ahead - (more.unsqueeze(-2) @ known).squeeze(-2)
            inner = inner + more
        length = ahead.norm(dim=-1)
        # Below rounding nothing new is left: the space is invariant, and the solution in it.
        length = torch.where(length > torch.finfo(length.dtype).eps * start, length, 0.0)
        basis[..., j + 1, :] = ahead * torch.where(length > 0, 1 / length, 0.0).unsqueeze(-1)
        column = (turns[..., : j + 1, : j + 1] @ inner.unsqueeze(-1)).squeeze(-1)
        diagonal = torch.hypot(column[..., j].abs(), length)
        good = live & (diagonal > 0) & torch.isfinite(diagonal)
        broken |= live & ~good
        # Complex: c is, s is not, and (c', s; -s, c) the rotation, ' conjugating.
        c, s = (torch.where(good, part / diagonal, unit) for part, unit in ((column[..., j], 1.0), (length, 0.0)))
        upper[..., : j + 1, j] = torch.where(good.unsqueeze(-1), column, 0.0)
        upper[..., j, j] = torch.where(good, diagonal, 1.0)
        above = turns[..., j, : j + 1].clone()
        turns[..., j, : j + 1], turns[..., j, j + 1] = c.conj().unsqueeze(-1) * above, s
        turns[..., j + 1, : j + 1], turns[..., j + 1, j + 1] = -s.unsqueeze(-1) * above, c
        taken += good
        live = good & (size * turns[..., j + 1, 0].abs() > enough)
        if not bool(live.any()):
            break
    steps = torch.arange(most, device=rest.device)
    reduced = torch.where(steps < taken.unsqueeze(-1), size.unsqueeze(-1) * turns[..., :most, 0], 0.0)
    unit = torch.diag_embed((steps >= taken.unsqueeze(-1)).to(upper.dtype) * (upper.diagonal(dim1=-2, dim2=-1) == 0))
    weights = torch.linalg.solve_triangular(upper + unit, reduced.unsqueeze(-1), upper=True)
    step = (weights.mT @ basis[..., :most, :]).squeeze(-2).mT
    return Cycle(precondition(step), taken, broken)
