"""MINRES for many systems at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.validate import require_parameters
from nearly.linalg.solve._system import Cycle, Product, Recipe, inner_number, inner_product, is_one_column, solve

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.solution import Solution

CARD = {
    "name": "minres",
    "kind": "linear",
    "rows": [],
    "replaces": "a symmetric indefinite factorization and its solves",
    "residual": "||b - A x|| / ||b||, 2-norm, per column of b",
    "rate": "the least maximum on the spectrum among polynomials of degree `iterations` that are 1 at 0",
    "order": None,
    "differentiable": ["right", "matrix"],
    "complex": ["right", "matrix"],
    "parameters": {"tolerance": ["optional real", 0, None], "iterations": ["optional integer", 1, None]},
    "skips": {},
}

ROUNDED = 2 / 3  # round-off to this power counts as nothing: 4e-11 in double precision
SPARE = 0.5  # a preconditioner's norm is not that of the tolerance: go this much below it


def minres(
    matrix: Any,
    right: Float[Tensor, "*batch n k"],
    *,
    preconditioner: Any = None,
    tolerance: float | None = None,
    iterations: int | None = None,
    check: bool = True,
) -> Solution:
    r"""Solve `A x = b` for symmetric or Hermitian A, definite or not, by products with A alone.

    x minimizes the residual's norm, `||b - A x||` or with a preconditioner `||b - A x||_M`, over the Krylov space of `M A` from
    `M b`: three-term Lanczos recurrence, plane rotations. Batches, restarts from the true residual and derivatives are those of
    `conjugate_gradients`.

    Source: Paige and Saunders 1975, Solution of sparse indefinite systems of linear equations, doi:10.1137/0712047; with a
    preconditioner Elman, Silvester and Wathen 2014, Finite elements and fast iterative solvers, algorithm 4.1.

    Args:
        matrix: A, symmetric or Hermitian (which is not looked at: only the residual is); as for `conjugate_gradients`.
        right: b, shape (n,), (n, k), or (*batch, n, k); each column is a problem of its own.
        preconditioner: M, an approximate inverse of A in size, symmetric or Hermitian positive definite; likewise.
        tolerance: for `||b - A x|| / ||b||`; 1e-8 by default, in single precision 1e-4.
        iterations: the most per column; 10 n by default.
        check: raise where the tolerance is not reached.

    Returns:
        The solution; `value` has the shape of `right`, all else that without n.

    Raises:
        BadInput: for shapes that do not fit, and entries that are not finite.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> found = minres(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([3.0, 2.0]))
        >>> [round(value, 5) for value in found.value.tolist()]
        [2.0, 3.0]
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations)
    return solve(_RECIPE, matrix, right, preconditioner, tolerance=tolerance, iterations=iterations, check=check)


def _cycle(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    # Names as in the book: v and z Lanczos vectors, w directions, c and s rotations, eta the residual's norm up to its sign.
    if is_one_column(rest):
        return _column(product, precondition, rest, enough, most)
    norm = rest.norm(dim=-2)
    x, w, w_before, v_before = (torch.zeros_like(rest) for _ in range(4))
    v, z = rest, precondition(rest)
    image, work = torch.empty_like(rest), torch.empty_like(rest)
    gamma = inner_product(z, v, work).sqrt()  # NaN where the preconditioner is not positive definite
    goal = gamma * enough / norm * (1.0 if z is rest else SPARE)
    eta, gamma_before = gamma, torch.ones_like(gamma)
    c, c_before, s, s_before = (torch.full_like(gamma, value) for value in (1.0, 1.0, 0.0, 0.0))
    largest, least = torch.zeros_like(gamma), torch.finfo(gamma.dtype).eps ** ROUNDED
    live = norm > enough
    broken, taken = torch.zeros_like(live), torch.zeros_like(live, dtype=torch.int64)
    for _ in range(most):
        inverse = _inverse(gamma, live).unsqueeze(-2)
        z = z * inverse
        image = product(z, out=image)
        delta = inner_product(z, image, work)  # real, where A is Hermitian
        ahead = torch.addcmul(image, v * inverse, delta.unsqueeze(-2), value=-1)
        ahead.addcmul_(v_before, (gamma / gamma_before).unsqueeze(-2), value=-1)
        z_ahead = precondition(ahead)
        gamma_ahead = inner_product(z_ahead, ahead, work).sqrt()
        corner = c * delta - c_before * s * gamma
        diagonal = torch.hypot(corner, gamma_ahead)
        largest = torch.maximum(largest, torch.hypot(delta, gamma_ahead))
        good = live & (diagonal > 0) & torch.isfinite(diagonal)
        # ||A r|| / ||r||: where it vanishes and r does not, r is in the null space as far as can be seen from here (Paige and
        # Saunders 1975, section 6); a cycle from the true residual will tell.
        ended = torch.hypot(corner, c * gamma_ahead) <= least * largest
        broken |= live & ~good
        beside, beyond = s * delta + c_before * c * gamma, s_before * gamma
        turn = _inverse(diagonal, good)
        w_ahead = torch.addcmul(z, w_before, beyond.unsqueeze(-2), value=-1)
        w_ahead = w_ahead.addcmul_(w, beside.unsqueeze(-2), value=-1).mul_(turn.unsqueeze(-2))
        c_before, s_before, c, s = c, s, corner * turn, gamma_ahead * turn
        x.addcmul_(w_ahead, torch.where(good & ~ended, c * eta, 0.0).unsqueeze(-2))
        eta = -s * eta
        taken += good
        live = good & (eta.abs() > goal) & ~ended
        if not bool(live.any()):
            break
        v_before, v, z, w_before, w = v, ahead, z_ahead, w, w_ahead
        gamma_before, gamma = torch.where(live, gamma, 1.0), gamma_ahead
    return Cycle(x, taken, broken)


def _column(product: Product, precondition: Product, rest: Tensor, enough: Tensor, most: int) -> Cycle:
    """The same for one column on a CPU, with numbers for the tensors whose operations a step would mostly consist of.

    It takes 27 us in place of 108 for 2,025 unknowns, 102 in place of 215 for 22,500.
    """
    x, w, w_before, v_before, image = (torch.zeros_like(rest) for _ in range(5))
    v, z = rest, precondition(rest)
    gamma, norm = _root(inner_number(z, v)), math.sqrt(inner_number(rest, rest))
    goal = gamma * float(enough) / norm * (1.0 if z is rest else SPARE) if norm > 0 else 0.0
    eta, gamma_before, largest, least = gamma, 1.0, 0.0, torch.finfo(rest.dtype).eps ** ROUNDED
    c, c_before, s, s_before = 1.0, 1.0, 0.0, 0.0
    taken, broken, live = 0, False, norm > float(enough)
    while live and taken < most:
        z = z / gamma if gamma > 0 else torch.zeros_like(z)
        image = product(z, out=image)
        delta = inner_number(z, image)
        ahead = torch.add(image, v, alpha=-delta / gamma if gamma > 0 else 0.0)
        ahead.add_(v_before, alpha=-gamma / gamma_before)
        z_ahead = precondition(ahead)
        gamma_ahead = _root(inner_number(z_ahead, ahead))
        corner = c * delta - c_before * s * gamma
        diagonal = math.hypot(corner, gamma_ahead)
        largest = max(largest, math.hypot(delta, gamma_ahead))
        broken = not 0 < diagonal < math.inf
        if broken:
            break
        ended = math.hypot(corner, c * gamma_ahead) <= least * largest
        w_ahead = torch.add(z, w_before, alpha=-s_before * gamma)
        w_ahead.add_(w, alpha=-(s * delta + c_before * c * gamma)).div_(diagonal)
        c_before, s_before, c, s = c, s, corner / diagonal, gamma_ahead / diagonal
        if not ended:
            x.add_(w_ahead, alpha=c * eta)
        eta, taken = -s * eta, taken + 1
        live = abs(eta) > goal and not ended
        v_before, v, z, w_before, w = v, ahead, z_ahead, w, w_ahead
        gamma_before, gamma = gamma, gamma_ahead
    return Cycle(
        x, torch.full_like(enough, taken, dtype=torch.int64), torch.full_like(enough, broken, dtype=torch.bool)
    )


def _root(square: float) -> float:
    """NaN where the preconditioner is not positive definite."""
    return math.sqrt(square) if square >= 0 else math.nan


def _inverse(value: Tensor, where: Tensor) -> Tensor:
    return torch.where(where & (value > 0), 1 / value, 0.0)


_RECIPE = Recipe(
    name="minres",
    run=_cycle,
    why="the iteration broke down: the matrix is singular and the right-hand side outside its range, the preconditioner is not "
    "positive definite, or their products are not finite",
    symmetric=True,
    complex_too=True,
)
