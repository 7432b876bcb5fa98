"""Fixed points of maps, differentiable for what the maps depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.calculus.implicit._implicit import (
    TOLERANCE,
    Found,
    Function,
    Parameters,
    checked_problem,
    relative,
    with_derivatives,
)
from nearly.core.solution import Solution, conclude
from nearly.core.validate import require_parameters, tolerance_for
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float

CARD = {
    "name": "fixed_point",
    "kind": "fixed_point",
    "rows": [],
    "replaces": "plain iteration of a map, and differentiating through it",
    "residual": "||g(x) - x|| / max(||x||, ||initial||), 2-norm; infinite where the map is seen to drift",
    "rate": "for linear maps that of GMRES while memory lasts; for contractions by q, near the fixed point, linear with any "
    "factor above q as long as the weights stay bounded (Toth and Kelley 2015, doi:10.1137/130919398)",
    "order": None,
    "differentiable": ["parameters"],
    "parameters": {
        "tolerance": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
        "memory": ["integer", 0, None],
    },
    "skips": {},
}
FAR = 0.1  # relative distance to the fixed point, extrapolated, above which a small residual says that the map drifts
WORSE = 2.0  # a residual that grows by more than this makes a problem forget its past


def fixed_point(
    function: Function,
    initial: Float[Tensor, "*batch n"],
    parameters: Parameters = (),
    *,
    memory: int = 5,
    tolerance: float | None = None,
    iterations: int = 500,
    check: bool = True,
) -> Solution:
    r"""Solve `x = g(x, p)`, many problems at once, by Anderson's acceleration.

    With `r = g(x) - x` and the differences dX, dR of the last few points and residuals, the next point is
    `x + r - (dX + dR) c`, c the least-squares solution of `dR c = r`. A problem whose residual doubles forgets its past, and goes
    on from its best point by a plain step. A small residual may be that of a map that drifts, such as `x + 1` far from 0: where
    one more evaluation, at `x + h r / ||r||`, shows r to change so little that the fixed point would be more than a tenth of x
    away, that is told. Derivatives for p follow from `dx = (1 - g_x)^-1 g_p dp` by one linear solve with
    products alone; none flow to the initial point, nor to tensors that the function holds itself.

    Source: Walker and Ni 2011, Anderson acceleration for fixed-point iterations, doi:10.1137/10078356X; derivatives as in
    Blondel et al. 2022, Efficient and modular implicit differentiation, arXiv 2105.15183.

    Args:
        function: g, takes points of the shape of `initial` and the parameters; gives points, each from its own alone.
        initial: shape (*batch, n).
        parameters: p, one tensor or several, of any shape.
        memory: differences that are held; 0 is plain iteration.
        tolerance: for the relative residual; 1e-8 by default, in single precision 1e-4.
        iterations: the most evaluations of g after the first; two more look for a drift.
        check: raise where the tolerance is not reached.

    Returns:
        The fixed points, of the shape of `initial`; of what has not converged, the best.

    Raises:
        BadInput: for arguments that are not as above, and a function that works in place.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        >>> x = fixed_point(lambda x, p: torch.cos(p * x), torch.ones(1, dtype=torch.float64), p).value
        >>> x.backward()
        >>> round(x.item(), 6), round(p.grad.item(), 6)
        (0.739085, -0.297474)
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations, memory=memory)
    mapping, initial, tensors = checked_problem(function, initial, parameters, scalar=False)
    fixed = tuple(one.detach() for one in tensors)
    tolerance = tolerance_for(tolerance, initial.dtype, TOLERANCE)
    with torch.no_grad():
        found = _anderson(lambda point: mapping(point, *fixed), initial, memory, tolerance, iterations)
        drifts = _drifts(lambda point: mapping(point, *fixed), found.value, initial) & (found.residual <= tolerance)
    residual = torch.where(drifts, torch.inf, found.residual)
    return conclude(
        "fixed_point",
        with_derivatives(lambda x, *p: x - mapping(x, *p), found.value, tensors, residual <= tolerance),
        residual=residual,
        tolerance=tolerance,
        iterations=found.taken,
        advice="raise iterations= or memory=, or start elsewhere: there may be no fixed point",
        broken=found.broken | drifts,
        why="the map drifts, with no fixed point near although it moves points little, or is not finite beside the best point "
        "found; start elsewhere",
        check=check,
    )


def _anderson(
    mapping: Callable[[Tensor], Tensor], initial: Tensor, memory: int, tolerance: float, iterations: int
) -> Found:
    point, image = initial, mapping(initial)
    rest = image - point
    best, best_rest, residual = point, rest, relative(rest, point, initial)
    before = residual
    moves = initial.new_zeros(*initial.shape, memory)
    changes = torch.zeros_like(moves)
    taken = torch.zeros(residual.shape, dtype=torch.int64, device=initial.device)
    broken = ~torch.isfinite(rest).all(dim=-1)
    for turn in range(iterations):
        live = ~(residual <= tolerance) & ~broken
        if not bool(live.any()):
            break
        ahead = torch.where(live.unsqueeze(-1), point + rest - _past(moves, changes, rest), point)
        image = mapping(ahead)
        left = image - ahead
        size = relative(left, ahead, initial)
        taken = taken + live
        lost = live & ~(size <= WORSE * before)
        # From the best point on, by a plain step; where that is what was just tried, the map leads nowhere finite.
        broken = broken | (
            lost & ~torch.isfinite(size) & (changes == 0).flatten(-2).all(dim=-1) & (point == best).all(dim=-1)
        )
        if memory:
            place, kept = turn % memory, ~lost[..., None, None]
            moves[..., place], changes[..., place] = ahead - point, left - rest
            moves, changes = torch.where(kept, moves, 0.0), torch.where(kept, changes, 0.0)
        better = live & (size < residual)
        best, best_rest = (torch.where(better.unsqueeze(-1), a, b) for a, b in ((ahead, best), (left, best_rest)))
        residual = torch.where(better, size, residual)
        stay = (lost | ~live).unsqueeze(-1)
        point, rest = torch.where(stay, best, ahead), torch.where(stay, best_rest, left)
        before = torch.where(lost, torch.inf, size)
    return Found(best, residual, taken, broken & ~(residual <= tolerance))


def _drifts(mapping: Callable[[Tensor], Tensor], point: Tensor, initial: Tensor) -> Bool[Tensor, "*batch"]:
    """Whether residuals hardly change from a point to one that is a little further along its residual."""
    rest = mapping(point) - point
    size = torch.maximum(point.abs().amax(dim=-1, keepdim=True), initial.abs().amax(dim=-1, keepdim=True))
    size = torch.where(size > 0, size, 1.0)
    length = (rest / size).norm(dim=-1, keepdim=True)
    apart = torch.finfo(point.dtype).eps ** 0.25  # rounding hides changes below eps, so slopes below eps^(3/4)
    ahead = point + torch.where(length > 0, apart / length, 0.0) * rest
    change = ((mapping(ahead) - ahead - rest) / size).norm(dim=-1)
    return length.squeeze(-1) * apart > FAR * change


def _past(moves: Tensor, changes: Tensor, rest: Tensor) -> Tensor:
    """`(dX + dR) c` with the least `||r - dR c||`, columns brought to size one; directions below rounding are left out."""
    if moves.shape[-1] == 0:
        return torch.zeros_like(rest)
    # Where residuals hardly change over a move, `1 - g_x` is singular to rounding, and the move says nothing.
    root = torch.finfo(rest.dtype).eps ** 0.5
    changes = torch.where(
        changes.abs().amax(-2, keepdim=True) > root * moves.abs().amax(-2, keepdim=True), changes, 0.0
    )
    unit = binary_scale(changes, -2)
    moves = torch.where((changes != 0).any(dim=-2, keepdim=True), moves, 0.0)
    weights = torch.linalg.pinv(changes / unit, rtol=root) @ rest.unsqueeze(-1)
    return (((moves + changes) / unit) @ weights).squeeze(-1)
