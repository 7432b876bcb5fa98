"""Linearly implicit Runge-Kutta methods for stiff equations: one LU factorization per step for all stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nearly.calculus.steppers._entry import CountedField, Field, as_state, as_times, error_scale, scaled_error
from nearly.calculus.steppers._jacobian import state_jacobian
from nearly.calculus.steppers._march import March
from nearly.calculus.steppers.explicit import first_step, largest_error
from nearly.core.solution import Solution, conclude
from nearly.core.validate import check_parameter, require_parameters
from nearly.linalg.batched_lu import lu_factors

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CARD = {
    "name": "integrate_tase",
    "kind": "stiff_ode",
    "rows": [233],
    "replaces": "implicit Runge-Kutta methods, and explicit ones whose steps stiffness makes short",
    "residual": "the largest accepted local error: root mean square over components of |error| / (scale + |state|), over all steps",
    "rate": "the error falls as steps^-3, or steps^-2 with order=2",
    "order": 3,
    "differentiable": ["initial"],
    "complex": ["initial"],
    "limit": "steps",
    "parameters": {
        "order": ["choice", 2, 3],
        "tolerance": ["real", 0, 1],
        "scale": ["optional real", 0, None],
        "steps": ["integer", 1, None],
    },
    "skips": {},
}


class Coefficients(NamedTuple):
    """Of a method: pole, explicit Runge-Kutta weights, weights of the error, and for each stage its operator's polynomial."""

    pole: float
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...]
    operators: tuple[tuple[float, ...], ...]


class StiffTrajectory(NamedTuple):
    """A numerical solution. Entries behind the time at which the integration stopped are NaN.

    Attributes:
        states: at the times asked.
        steps: lengths of the accepted steps, with their sign; constants for derivatives.
        errors: of every accepted step, its local error in the norm of the residual; differentiable.
        evaluations: of the field; a Jacobian, of which there is one per step, counts as one.
    """

    states: Float[Tensor, "times *batch n"]
    steps: Float[Tensor, " steps"]
    errors: Float[Tensor, "steps ..."]
    evaluations: Int[Tensor, ""]


@cache
def tase_coefficients(order: int) -> Coefficients:
    """The coefficients of order 2 or 3, from the few numbers that are free.

    With `x = (I - a h J)^-1` the operator of stage i is `T_i = I - (I - x)^(p-1) (I + k_i x) = I + O(h^(p-1))`, a polynomial in x
    without constant term. For any matrix J the order is p where the explicit method's is and `sum_i b_i k_i = -1` (conditions of
    W-methods: all others that J adds vanish with `T_i = I + O(h^(p-1))`). All `k_i = -1` is Singly-RKTASE.
    """
    # Found by minimizing the error on y' = cy and the error coefficients of the explicit method, among methods with
    # |R| <= 1 on the imaginary axis; the last k makes R(infinity) = 0.
    nodes: tuple[float, ...]
    free: tuple[float, ...]
    weights: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    operators: tuple[tuple[float, ...], ...]
    if order == 2:
        pole, second, free = 0.2764, 0.385, (-0.6711356159868502,)
        nodes, b2 = (0.0, second), 1 / (2 * second)
        weights = (1 - b2, b2)
        stages, error = ((), (second,)), (-b2, b2)
    else:
        pole, second, third, free = 0.4925, 0.6567, 0.6483, (-0.3676219155343419, 0.6714)
        nodes = (0.0, second, third)
        b2 = (third / 2 - 1 / 3) / (second * (third - second))
        b3 = (second / 2 - 1 / 3) / (third * (second - third))
        weights = (1 - b2 - b3, b2, b3)
        inner = 1 / (6 * b3 * second)
        stages = ((), (second,), (third - inner, inner))
        embedded = 1 / (2 * second)  # of order 2, with the first two stages
        error = (weights[0] - 1 + embedded, b2 - embedded, b3)
    first = (-1 - sum(b * k for b, k in zip(weights[1:], free, strict=True))) / weights[0]
    # 1 - (1 - x)(1 + kx) = (1 - k) x + k x^2; 1 - (1 - x)^2 (1 + kx) = (2 - k) x + (2k - 1) x^2 - k x^3.
    operators = tuple((1 - k, k) if order == 2 else (2 - k, 2 * k - 1, -k) for k in (first, *free))
    return Coefficients(pole, nodes, stages, weights, error, operators)


def tase_step(
    field: Field,
    time: float,
    state: Float[Tensor, "*batch n"],
    step: float,
    *,
    order: int = 3,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """One step of `integrate_tase`: a Jacobian, a factorization, and `order^2` solves with it.

    Args:
        field: takes a time (no dimensions) and states; gives their derivative.
        time: at the start of the step.
        state: there.
        step: its length, of any sign.
        order: 2 or 3.

    Returns:
        The state after the step, and the difference to the embedded method of one order less.

    Raises:
        BadInput: for arguments that are not as above.

    Example:
        >>> after, _ = tase_step(lambda t, y: -1e9 * y, 0.0, torch.ones(1, dtype=torch.float64), 1.0)
        >>> bool(after.abs() < 1e-6)
        True
    """
    check_parameter("order", order, CARD["parameters"]["order"])  # type: ignore[index]
    state = as_state("state", state, complex_too=True)
    counted = CountedField(field, state)
    method = tase_coefficients(order)
    return _step(counted, time, state, counted(time, state), step, method, _sums(method, state))


def integrate_tase(
    field: Field,
    initial: Float[Tensor, "*batch n"],
    times: Float[Tensor, " times"] | Sequence[float],
    *,
    order: int = 3,
    tolerance: float = 1e-6,
    scale: float | None = None,
    steps: int = 10_000,
    check: bool = True,
) -> Solution:
    """Solve a stiff `dy/dt = f(t, y)` without iterations: the stages of an explicit method, each damped by an operator of its own.

    It replaces implicit methods, which solve nonlinear systems. With the Jacobian J of the field at the step's start,

        K_i = T_i f(t + c_i h, y + h sum_j a_ij K_j),    y' = y + h sum_i b_i K_i,    T_i = sum_j beta_ij (I - a h J)^-j,

    so a step takes one LU factorization, p stages and p^2 solves at order p. Both methods are A-stable with R(infinity) = 0
    (|R| <= 1 was scanned at 2e5 points of the imaginary axis); the order does not need J to be exact, so it holds for fields that
    depend on time too. Very stiff nonlinear systems reduce the observed order 3 to about 2. On y' = cy the leading error
    coefficient is -1e-5 at order 2 and -2e-3 at order 3; those of Singly-RKTASE with its smallest stable poles are -1 and 1.7.
    Steps end at the times asked; their lengths are controlled as those of `integrate`. A step costs n reverse-mode derivatives of
    the field, all at once, an evaluation for its change in time, and 2/3 n^3 operations: for n up to a few hundred.

    Departure from the paper: its printed coefficients were not at hand. These come from its own construction, the order conditions
    of W-methods with a stability scan; see `tase_coefficients`. Where f depends on time, J has a column for it, by a difference.

    Source: Calvo, Montijano and Randez 2024, Modified Singly-Runge-Kutta-TASE methods for the numerical solution of stiff
    differential equations, arXiv 2407.01785; Singly-RKTASE: Calvo, Fu, Montijano and Randez 2023, doi:10.1007/s10915-023-02232-3.

    Args:
        field: takes a time (no dimensions) and states of the shape of `initial`, each of which it acts on alone; gives their
            derivative, by operations that torch can differentiate.
        initial: shape (*batch, n), real or complex (with a field that is holomorphic, for J to be its Jacobian).
        times: at which states are wanted, strictly increasing or decreasing; no derivatives flow into them.
        order: 2 or 3.
        tolerance: of the local error, relative to `scale + |y|`.
        scale: size below which errors count absolutely; by default each trajectory's largest initial entry, or 1 where that is 0.
        steps: at most, rejected ones included.
        check: whether to raise where the last time is not reached.

    Returns:
        A `StiffTrajectory`; `residual` is the largest accepted local error, infinite where the last time is not reached.

    Raises:
        BadInput: for arguments that are not as above, and a field that works in place or whose value is not like its state.
        NotConverged: where steps ran out, the field is not finite, or the solution blows up; it carries the part reached.

    Example:
        >>> field = lambda t, y: -1e6 * (y - torch.cos(t))
        >>> found = integrate_tase(field, torch.tensor([1.0]), [0.0, 1.0], tolerance=1e-4)
        >>> int(found.iterations) < 200, round(float(found.value.states[-1]), 2)
        (True, 0.54)
    """
    require_parameters(CARD, order=order, tolerance=tolerance, scale=scale, steps=steps)
    initial = as_state("initial", initial, complex_too=True)
    moments = as_times(times)
    counted, method, floor = CountedField(field, initial), tase_coefficients(order), error_scale(initial, scale)
    sums = _sums(method, initial)
    state, slope = initial, counted(moments[0], initial)
    size = first_step(counted, moments[0], initial, slope, moments[-1], order, tolerance, floor)

    def attempt(time: float, step: float) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
        after, difference = _step(counted, time, state, slope, step, method, sums)
        error = scaled_error(difference, state, after, floor)
        steeper = counted(time + step, after)
        return largest_error(error, steeper) / tolerance, (after, steeper, error)

    states = [initial]
    sizes: list[float] = []
    errors: list[Tensor] = []
    spent = accepted = 0
    for begin, end in pairwise(moments):
        march = March(
            attempt,
            begin,
            end,
            first=size,
            order=order,
            most=steps - spent,
            resolution=10 * torch.finfo(initial.dtype).eps,
        )
        taken: tuple[Tensor, Tensor, Tensor]
        for _, _, step, taken in march:
            state, slope = taken[0], taken[1]
            sizes.append(step)
            errors.append(taken[2])
        spent, accepted, size = spent + march.taken, accepted + march.accepted, march.size
        if not march.arrived:
            break
        states.append(state)
    missing = len(moments) - len(states)
    value = StiffTrajectory(
        states=torch.stack([*states, *[torch.full_like(initial, torch.nan)] * missing]),
        steps=floor.new_tensor(sizes),
        errors=torch.stack(errors) if errors else floor.new_empty((0, *initial.shape[:-1])),
        evaluations=torch.tensor(counted.count, device=initial.device),
    )
    residual = value.errors.detach().amax(dim=0) if not missing else floor.new_full(initial.shape[:-1], torch.inf)
    where = f"it stopped at time {march.time:.6g}, {accepted} accepted and {spent - accepted} rejected steps in"
    blown = ": the solution blows up there, or the field is not finite; ask for earlier times only"
    return conclude(
        "integrate_tase",
        value,
        residual=residual,
        tolerance=tolerance,
        iterations=accepted,
        advice=where + (blown if march.stuck else "; raise steps= or tolerance="),
        check=check,
    )


def _sums(method: Coefficients, like: Tensor) -> Float[Tensor, "2 stages"]:
    """Weights of the stages in the new state and in its error, where the states are."""
    return like.new_tensor([method.weights, method.error])


def _step(
    field: CountedField, time: float, state: Tensor, slope: Tensor, step: float, method: Coefficients, sums: Tensor
) -> tuple[Tensor, Tensor]:
    jacobian = state_jacobian(lambda y: field(time, y), state)
    # The time is one more component, of derivative 1, whose column of the Jacobian need not be exact: a difference is enough.
    apart = math.copysign(max(1e-3 * abs(step), torch.finfo(state.dtype).eps ** 0.5 * abs(time)), step)
    drift = (method.pole * step / apart) * (field(time + apart, state) - slope)
    identity = torch.eye(state.shape[-1], dtype=state.dtype, device=state.device)
    factors, pivots, _ = lu_factors(identity - method.pole * step * jacobian)
    damped: list[Tensor] = []
    for node, row, operator in zip(method.nodes, method.stages, method.operators, strict=True):
        if row:
            moved = sum((a * k for a, k in zip(row[1:], damped[1:], strict=True)), row[0] * damped[0])
            slope = field(time + node * step, state + step * moved)
        value, clock = torch.zeros_like(slope), 0.0
        for coefficient in reversed(operator):  # Horner's rule in (I - a h J)^-1
            clock += coefficient
            right = value + coefficient * slope + clock * drift
            value = torch.linalg.lu_solve(factors, pivots, right[..., None])[..., 0]
        damped.append(value)
    stacked = torch.stack(damped)
    weights, error = step * sums
    return (
        state + torch.tensordot(weights, stacked, dims=1),
        torch.tensordot(error, stacked, dims=1),
    )
