"""Adaptive explicit Runge-Kutta pairs that hand out their own error and stiffness estimates, with derivatives."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nearly.calculus.steppers._entry import CountedField, Field, as_state, as_times, error_scale, scaled_error
from nearly.calculus.steppers._march import March
from nearly.calculus.steppers._tableaus import Pair
from nearly.core.solution import Solution, conclude
from nearly.core.validate import require_parameters

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CARD = {
    "name": "integrate",
    "kind": "ode",
    "rows": [361],
    "replaces": "solvers of ordinary differential equations that hide what their steps cost",
    "residual": "the largest accepted local error: root mean square over components of |error| / (scale + |state|), over all steps",
    "rate": "the error falls as steps^-5 with tsit5 and dopri5, as steps^-3 with bosh3",
    "order": 5,
    "differentiable": ["initial"],
    "complex": ["initial"],
    "limit": "steps",
    "parameters": {
        "method": ["choice", "tsit5", "dopri5", "bosh3"],
        "tolerance": ["real", 0, 1],
        "scale": ["optional real", 0, None],
        "steps": ["integer", 1, None],
    },
    "skips": {},
}
STIFF = 2.0  # step times stiffness above which a failure is laid to stiffness: the pairs' real stability limits are 2.5 to 3.5


class Trajectory(NamedTuple):
    """A numerical solution. Entries behind the time at which the integration stopped are NaN.

    Attributes:
        states: at the times asked.
        steps: lengths of the accepted steps, with their sign; constants for derivatives.
        errors: of every accepted step, its local error in the norm of the residual, without the tolerance; differentiable.
        stiffness: of every accepted step, `||f(x2) - f(x1)|| / ||x2 - x1||` over its last two stages; differentiable.
        mesh: states between the accepted steps, the initial one first; empty unless asked for.
        evaluations: of the field.
    """

    states: Float[Tensor, "times *batch n"]
    steps: Float[Tensor, " steps"]
    errors: Float[Tensor, steps * batch]
    stiffness: Float[Tensor, steps * batch]
    mesh: Float[Tensor, "points *batch n"]
    evaluations: Int[Tensor, ""]


class Step(NamedTuple):
    """One explicit Runge-Kutta step: the state after it, its stages, its local error and its stiffness."""

    state: Tensor
    stages: Tensor
    last: Tensor
    error: Float[Tensor, "*batch"]
    stiffness: Float[Tensor, "*batch"]


def integrate(
    field: Field,
    initial: Float[Tensor, "*batch n"],
    times: Float[Tensor, " times"] | Sequence[float],
    *,
    method: str = "tsit5",
    tolerance: float = 1e-6,
    scale: float | None = None,
    steps: int = 10_000,
    keep_steps: bool = False,
    check: bool = True,
) -> Solution:
    """Solve `dy/dt = f(t, y)`, `y(t_0)` given, at the times asked, with steps as long as their local error allows.

    It replaces solvers that hide what their steps cost. A neural field trained with a penalty on what this one hands out,
    `R_E = sum_j E_j |h_j|` or `R_S = sum_j S_j`, is solved in fewer steps afterwards; E_j is the local error and S_j the stiffness
    estimate of step j. All is differentiable by backpropagation through the accepted steps (the discrete adjoint), their lengths
    being constants; rejected steps leave nothing behind. States between steps are the pair's own interpolants, of order 4
    (bosh3: 3).

    A step is accepted where `sqrt(mean_i (|error_i| / (scale + max(|y_i|, |y_i'|)))^2) <= tolerance` for every trajectory of
    the batch; all share one step, so that a field sees them at one time. The next length follows by proportional-integral control.
    With one thread a step costs about 0.2 ms beside its evaluations of the field.

    Departures from the paper:

    1. E_j is not divided by the tolerance, so a penalty keeps its meaning when the tolerance changes.
    2. With bosh3, whose last two stages lie at different times, S_j holds for fields that do not depend on time.

    Source: Pal, Ma, Shah and Rackauckas 2021, Opening the blackbox: accelerating neural differential equations by regularizing
    internal solver heuristics, arXiv 2105.03918. The pairs' sources are in `_tableaus.py`.

    Args:
        field: takes a time (no dimensions) and states of the shape of `initial`; gives their derivative, of the same
            shape and dtype.
        initial: shape (*batch, n), real or complex: the states at `times[0]`.
        times: at which states are wanted, strictly increasing or decreasing; no derivatives flow into them.
        method: "tsit5" (Tsitouras 5(4)), "dopri5" (Dormand-Prince 5(4)) or "bosh3" (Bogacki-Shampine 3(2), for loose tolerances).
        tolerance: of the local error, relative to `scale + |y|`.
        scale: size below which errors count absolutely; by default each trajectory's largest initial entry, or 1 where that is 0.
        steps: at most, rejected ones included.
        keep_steps: whether to return the states between the steps too.
        check: whether to raise where the last time is not reached.

    Returns:
        A `Trajectory`; `residual` is the largest accepted local error, infinite where the last time is not reached.

    Raises:
        BadInput: for arguments that are not as above, and a field that works in place or whose value is not like its state.
        NotConverged: where steps ran out, the field is not finite, or the solution blows up; it carries the part reached.

    Example:
        >>> found = integrate(lambda t, y: -y, torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0, 1.0]), tolerance=1e-9)
        >>> round(float(found.value.states[-1]), 8), int(found.value.evaluations)
        (0.36787944, 98)
    """
    require_parameters(CARD, method=method, tolerance=tolerance, scale=scale, steps=steps)
    initial = as_state("initial", initial, complex_too=True)
    moments = as_times(times)
    counted, pair, floor = CountedField(field, initial), Pair(method, initial), error_scale(initial, scale)
    state, slope = initial, counted(moments[0], initial)
    march = March(
        lambda time, step: _try(counted, time, state, slope, step, pair, floor, tolerance),
        moments[0],
        moments[-1],
        first=first_step(counted, moments[0], initial, slope, moments[-1], pair.order, tolerance, floor),
        order=pair.order,
        most=steps,
        resolution=10 * torch.finfo(initial.dtype).eps,
    )
    states, mesh = [initial[None]], [initial]
    sizes: list[float] = []
    errors: list[Tensor] = []
    stiffness: list[Tensor] = []
    done = 1
    taken: Step
    for before, after, size, taken in march:
        due = bisect_right(moments, after) if size > 0 else bisect_right(moments, -after, key=lambda m: -m)
        if due > done:
            parts = [(moment - before) / size for moment in moments[done:due] if moment != after]
            if parts:
                states.append(_between(state, taken.stages, size, parts, pair))
            if moments[due - 1] == after:
                states.append(taken.state[None])
            done = due
        state, slope = taken.state, taken.last
        sizes.append(size)
        errors.append(taken.error)
        stiffness.append(taken.stiffness)
        if keep_steps:
            mesh.append(state)
    if done < len(moments):
        states.append(initial.new_full((len(moments) - done, *initial.shape), torch.nan))
    empty = floor.new_empty((0, *initial.shape[:-1]))
    value = Trajectory(
        states=torch.cat(states),
        steps=floor.new_tensor(sizes),
        errors=torch.stack(errors) if errors else empty,
        stiffness=torch.stack(stiffness) if stiffness else empty,
        mesh=torch.stack(mesh) if keep_steps else initial.new_empty((0, *initial.shape)),
        evaluations=torch.tensor(counted.count, device=initial.device),
    )
    residual = value.errors.detach().amax(dim=0) if march.arrived else floor.new_full(initial.shape[:-1], torch.inf)
    return conclude(
        "integrate",
        value,
        residual=residual,
        tolerance=tolerance,
        iterations=march.accepted,
        advice=_advice(march, value),
        check=check,
    )


def first_step(
    field: CountedField,
    time: float,
    state: Tensor,
    slope: Tensor,
    end: float,
    order: int,
    tolerance: float,
    scale: Tensor,
) -> float:
    """A first step by sizes of state, slope and their change (Hairer, Norsett and Wanner, volume I, section II.4)."""
    with torch.no_grad():
        span = abs(end - time)
        state, slope = state.detach(), slope.detach()

        def size(x: Tensor) -> float:
            return float(scaled_error(x, state, state, scale).max()) / tolerance

        at, moving = size(state), size(slope)
        guess = min(0.01 * at / moving if at > 1e-5 and 1e-5 < moving < float("inf") else 1e-6 * span, span)
        signed = guess if end > time else -guess
        bend = size(field(time + signed, state + signed * slope) - slope) / guess
        largest = max(moving, bend)
        second = (0.01 / largest) ** (1 / order) if largest > 1e-15 else max(1e-6 * span, 1e-3 * guess)
        chosen = min(100 * guess, second, span)
        return chosen if chosen > 0 else guess


def runge_kutta_step(
    field: CountedField, time: float, state: Tensor, slope: Tensor, step: float, pair: Pair, scale: Tensor
) -> Step:
    """One step from a state and its slope."""
    slopes, stage, before = [slope], state, state
    flat = (-1, *state.shape)
    for node, row in zip(pair.nodes[1:], pair.stages, strict=True):
        before, stage = stage, torch.add(state, _sum(row, torch.stack(slopes).view(flat)), alpha=step)
        slopes.append(field(time + node * step, stage))
    stages = torch.stack(slopes)
    error = step * _sum(pair.error, stages)
    stretch = torch.linalg.vector_norm((slopes[-1] - slopes[-2]) / scale, dim=-1)
    apart = torch.linalg.vector_norm((stage - before) / scale, dim=-1)
    stiffness = stretch / torch.where(apart > 0, apart, 1.0)
    return Step(stage, stages, slopes[-1], scaled_error(error, state, stage, scale), stiffness)


def _try(
    field: CountedField,
    time: float,
    state: Tensor,
    slope: Tensor,
    step: float,
    pair: Pair,
    scale: Tensor,
    tolerance: float,
) -> tuple[float, Step]:
    taken = runge_kutta_step(field, time, state, slope, step, pair, scale)
    return largest_error(taken.error, taken.last) / tolerance, taken


def largest_error(error: Float[Tensor, "*batch"], slope: Tensor) -> float:
    """Of all trajectories; NaN where the slope is not finite, which times 0 is none either."""
    return float(error.detach().max() + 0 * torch.linalg.vector_norm(slope.detach(), torch.inf))


def _sum(weights: Tensor, slopes: Tensor) -> Tensor:
    """`sum_j weights_j slopes_j`, in one pass over the slopes."""
    return (weights @ slopes.flatten(1)).view(slopes.shape[1:])


def _between(state: Tensor, slopes: Tensor, step: float, parts: list[float], pair: Pair) -> Tensor:
    """States after parts of a step."""
    part = torch.tensor(parts, dtype=torch.float64)[:, None]
    dense = torch.tensor(pair.dense, dtype=torch.float64)
    weights = step * part ** torch.arange(1, dense.shape[1] + 1) @ dense.T
    return state + (weights.to(slopes) @ slopes.flatten(1)).view(len(parts), *state.shape)


def _advice(march: March[Step], value: Any) -> str:
    where = f"it stopped at time {march.time:.6g}, {march.accepted} accepted and {march.taken - march.accepted} rejected steps in"
    if march.stuck:
        return f"{where}: the solution blows up there, or the field is not finite; ask for earlier times only"
    stiff = value.stiffness.detach()[-10:] * value.steps[-10:].abs().view(-1, *[1] * (value.stiffness.ndim - 1))
    if bool((stiff > STIFF).any()):
        return f"{where}: the field is stiff; use integrate_tase, or raise steps="
    return f"{where}; raise steps= or tolerance="
