"""Implicit steps of order 3 and 4 on any mesh: the two-step backward differentiation formula, corrected afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nearly.calculus.steppers._entry import CountedField, Field, as_state, as_times, error_scale, scaled_error
from nearly.calculus.steppers._jacobian import state_jacobian
from nearly.core.solution import Solution, conclude
from nearly.core.validate import require_parameters
from nearly.linalg.batched_lu import lu_factors

if TYPE_CHECKING:
    from jaxtyping import Float

CARD = {
    "name": "deferred_correction",
    "kind": "ode_on_mesh",
    "rows": [272],
    "replaces": "backward differentiation formulas of order 3 and 4, which are unstable for oscillations",
    "residual": "of the last sweep's implicit equations, over their weight of the new state: root mean square over components of "
    "|residual| / (scale + |state|), the largest over all steps",
    "rate": "the error falls as steps^-order on a family of meshes; each step's equations are solved by Newton's method",
    "order": 4,
    "differentiable": ["initial"],
    "parameters": {
        "order": ["choice", 2, 3, 4],
        "tolerance": ["real", 0, 1],
        "scale": ["optional real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}


class Corrected(NamedTuple):
    """A numerical solution.

    Attributes:
        states: at the times of the mesh; NaN from the first step on that was not solved.
        correction: what the last sweep changed: an estimate of the error of the sweep before it, which is one order lower.
    """

    states: Float[Tensor, "times *batch n"]
    correction: Float[Tensor, "times *batch n"]


def deferred_correction(
    field: Field,
    initial: Float[Tensor, "*batch n"],
    times: Float[Tensor, " times"] | Sequence[float],
    *,
    order: int = 4,
    tolerance: float = 1e-9,
    scale: float | None = None,
    iterations: int = 20,
    check: bool = True,
) -> Solution:
    """Solve `dy/dt = f(t, y)` with one implicit step between any two of the times given, stably on any such mesh.

    It replaces backward differentiation formulas of order 3 and 4, which are not A-stable, and proven stable only where steps grow
    by less than 1.53 and 1.28 times. The formula of order 2, `D y_n = f(t_n, y_n)` with

        D y_n = (1 + 2r)/(h_n (1 + r)) (y_n - y_(n-1)) - r^2/(h_n (1 + r)) (y_(n-1) - y_(n-2)),    r = h_n / h_(n-1),

    is solved over the whole mesh (its first step by backward Euler), then once more for every further order p with the truncation
    error that D has for the solution whose derivative is interpolated from the last sweep's slopes g at p times:

        D y_n = f(t_n, y_n) + (D G_n - g_n),    G' = the polynomial of degree p - 1 through g at t_n, t_(n-1), ...

    Each sweep has the stability of the formula of order 2. Its errors, not smooth on a random mesh, enter the correction through
    divided differences of g times `h_n (h_n + h_(n-1))`, and so still lose one order per sweep only; the backward Euler start, of
    order 1, does so at one step and costs nothing in the end. Where a step has too few times before it (the first ones), the
    polynomial uses later ones, which the last sweep knows.

    Departure from the papers, of which only the abstracts were at hand: the correction above is derived from what they say it must
    do. One rule serves all steps and orders. With p = 3 it is `-h_n (h_n + h_(n-1)) / 3` times the second divided difference of g.

    Source: Yue, Liao and Liu 2024, Mesh-robust stability and convergence of variable-step deferred correction methods based on the
    BDF2 formula, arXiv 2402.06129; Bourgault and Garon 2022, doi:10.1007/s10543-022-00931-1.

    Args:
        field: takes a time (no dimensions) and states of the shape of `initial`, each of which it acts on alone; gives their
            derivative, by operations that torch can differentiate.
        initial: shape (*batch, n), real: the states at `times[0]`.
        times: the mesh, strictly increasing or decreasing, of more times than the order; no derivatives flow into them.
        order: 2 (no correction), 3 or 4.
        tolerance: to which Newton's method solves each step, relative to `scale + |y|`; well below the error that the mesh allows.
        scale: size below which errors count absolutely; by default each trajectory's largest initial entry, or 1 where that is 0.
        iterations: of Newton's method per step and sweep, at most.
        check: whether to raise where a step is not solved.

    Returns:
        A `Corrected`; `iterations` counts Newton's, over all sweeps.

    Raises:
        BadInput: for arguments that are not as above, and a field that works in place or whose value is not like its state.
        NotConverged: where Newton's method did not reach the tolerance.

    Example:
        >>> mesh = torch.linspace(0, 1, 33, dtype=torch.float64)
        >>> found = deferred_correction(lambda t, y: -y, torch.ones(1, dtype=torch.float64), mesh)
        >>> bool((found.value.states[-1] - torch.exp(-mesh[-1])).abs() < 1e-7)
        True
    """
    require_parameters(CARD, order=order, tolerance=tolerance, scale=scale, iterations=iterations)
    initial = as_state("initial", initial)
    mesh = as_times(times, least=order + 1)
    counted, floor = CountedField(field, initial), error_scale(initial, scale)
    states = previous = torch.zeros_like(initial).expand(len(mesh), *initial.shape)
    sources: Sequence[Tensor] = ()
    residual = floor.new_zeros(initial.shape[:-1])
    spent, failed = 0, ""
    for sweep in range(2, order + 1):
        guess = states if sweep > 2 else None
        if sweep > 2:
            slopes = torch.stack([counted(time, state) for time, state in zip(mesh, states, strict=True)])
            sources = _sources(mesh, slopes, sweep)
        previous = states
        states, residual, taken = _sweep(counted, initial, mesh, sources, guess, floor, tolerance, iterations)
        spent += taken
        if not bool((residual <= tolerance).all()):
            reached = mesh[int(torch.isfinite(states.flatten(1)).all(dim=1).sum()) - 1]
            failed = (
                f"the sweep of order {sweep} ended at time {reached:.6g} with a residual of {float(residual.max()):.3g}"
            )
            residual = torch.full_like(residual, torch.inf)
            break
    return conclude(
        "deferred_correction",
        Corrected(states, states - previous),
        residual=residual,
        tolerance=tolerance,
        iterations=spent,
        advice=f"{failed}; give a finer mesh or raise iterations= or tolerance= (NaN: the field is not finite)",
        check=check,
    )


def _sweep(
    field: CountedField,
    initial: Tensor,
    mesh: list[float],
    sources: Sequence[Tensor],
    guess: Tensor | None,
    scale: Tensor,
    tolerance: float,
    iterations: int,
) -> tuple[Tensor, Tensor, int]:
    """One solution over the mesh, its largest residual and the Newton iterations it took; NaN behind a step that failed."""
    states, worst, spent = [initial], scale.new_zeros(initial.shape[:-1]), 0
    for n in range(1, len(mesh)):
        lead, lag = _weights(mesh, n)
        known = lead * states[-1] + (lag * (states[-1] - states[-2]) if lag else 0.0)
        if sources:
            known = known + sources[n - 1]
        if guess is not None:
            state = guess[n] + (states[-1] - guess[n - 1])
        else:
            ahead = (mesh[n] - mesh[n - 1]) / (mesh[n - 1] - mesh[n - 2]) if n > 1 else 0.0
            state = states[-1] + min(ahead, 1.0) * (states[-1] - states[-2]) if n > 1 else initial
        state, residual, taken = _newton(field, mesh[n], state, known, lead, scale, tolerance, iterations)
        worst, spent = torch.maximum(worst, residual), spent + taken
        if not bool((residual <= tolerance).all()):
            states += [torch.full_like(initial, torch.nan)] * (len(mesh) - n)
            break
        states.append(state)
    return torch.stack(states), worst, spent


def _newton(
    field: CountedField,
    time: float,
    state: Tensor,
    known: Tensor,
    lead: float,
    scale: Tensor,
    tolerance: float,
    iterations: int,
) -> tuple[Tensor, Tensor, int]:
    """Solve `lead y - f(t, y) = known`; at least one iteration, through which the derivatives flow."""
    identity = torch.eye(state.shape[-1], dtype=state.dtype, device=state.device)
    residual = scale.new_full(state.shape[:-1], torch.inf)
    taken = 0
    while taken < iterations:
        taken += 1
        defect = lead * state - field(time, state) - known
        matrix = lead * identity - state_jacobian(lambda y: field(time, y), state)
        factors, pivots, _ = lu_factors(matrix)
        state = state - torch.linalg.lu_solve(factors, pivots, defect[..., None])[..., 0]
        left = (lead * state - field(time, state) - known).detach() / lead
        residual = scaled_error(left, state.detach(), state.detach(), scale)
        if bool((residual <= tolerance).all()) or bool(residual.isnan().any()):
            break
    return state, residual, taken


def _weights(mesh: list[float], n: int) -> tuple[float, float]:
    """Of the formula: `D y_n = lead (y_n - y_(n-1)) - lag (y_(n-1) - y_(n-2))`."""
    step = mesh[n] - mesh[n - 1]
    if n == 1:
        return 1 / step, 0.0
    ratio = step / (mesh[n - 1] - mesh[n - 2])
    return (1 + 2 * ratio) / (step * (1 + ratio)), ratio**2 / (step * (1 + ratio))


def _sources(mesh: list[float], slopes: Tensor, points: int) -> Sequence[Tensor]:
    """For every step, `D G_n - g_n` with G' through the slopes at so many times, ending at t_n where there are enough before."""
    times, steps = torch.tensor(mesh, dtype=torch.float64), range(1, len(mesh))
    step = times.diff()[:, None]
    weights = torch.tensor([_weights(mesh, n) for n in steps], dtype=times.dtype)
    lead, lag = (weights * step).T.unsqueeze(-1)
    chosen = torch.tensor([[max(n, points - 1) - points + 1 + k for k in range(points)] for n in steps])
    # What D takes of x^k, with x = (t - t_n) / h_n, is D of its integral x^(k+1) / (k+1).
    powers = torch.arange(1, points + 1, dtype=torch.float64)
    left = torch.tensor(-1.0, dtype=torch.float64) ** powers
    before = (times.roll(2)[1:, None] - times[1:, None]) / step  # of the first step none, which has no lag
    moments = (-lead * left - lag * (left - before**powers)) / powers
    moments[:, 0] -= 1  # g_n itself; D is exact for a constant slope, so this is 0 up to rounding
    nodes = (times[chosen] - times[1:, None]) / step
    weights = torch.linalg.solve(nodes[:, None] ** (powers - 1)[:, None], moments[..., None]).mT
    window = slopes[chosen.to(slopes.device)].flatten(2)
    return (weights.to(slopes) @ window).reshape(len(steps), *slopes.shape[1:]).unbind()
