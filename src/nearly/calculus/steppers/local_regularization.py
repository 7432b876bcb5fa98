"""A penalty on what a field costs to integrate, from one step of the solver, whoever solved it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus.steppers._entry import CountedField, Field, as_state, as_times, error_scale
from nearly.calculus.steppers._march import step_factor
from nearly.calculus.steppers._tableaus import TABLEAUS, Pair
from nearly.calculus.steppers.explicit import first_step, integrate, runge_kutta_step
from nearly.core.errors import BadInput
from nearly.core.validate import check_parameter, describe, generator_from, require_float

if TYPE_CHECKING:
    from jaxtyping import Float

PARAMETERS: dict[str, list[Any]] = {
    "method": ["choice", *TABLEAUS],
    "sampling": ["choice", "unbiased", "biased"],
    "estimate": ["choice", "error", "stiffness"],
}


def local_regularization(
    field: Field,
    times: Float[Tensor, " times"] | Sequence[float],
    states: Float[Tensor, "times *batch n"],
    *,
    method: str = "tsit5",
    sampling: str = "unbiased",
    estimate: str = "error",
    tolerance: float = 1e-6,
    seed: int | torch.Generator = 0,
) -> Float[Tensor, ""]:
    """The local error of one step at a random time, as a penalty that makes a neural field cheap to integrate.

    It replaces the sum of local errors over all steps, which only a solver that can be differentiated through its steps hands out.
    From a point `(t, y)` of the trajectory one step is taken, of the length h that the tolerance allows there, and

        penalty = |h| E(t, y) / tolerance,    or    |h| S(t, y),

    where E is the scaled local error of `integrate` and S its stiffness estimate, averaged over the batch. Derivatives flow into
    what the field closes over through that step alone: point and step are constants, so any solver and any adjoint may have
    made the trajectory. It costs two steps, one of them without derivatives, and two evaluations; "unbiased",
    on a fine trajectory, a third without derivatives.

    With "unbiased" sampling the time is uniform between the first and the last, and its state comes, without derivatives, by
    integrating from the given point before it: give a fine trajectory, or the random time among the points. With "biased" sampling
    one of the given points but the last is drawn; on a solver's own steps (`keep_steps=True`) these lie where the field is hard.

    Departure from the paper: its step has the length with which a solver would start, whose error lies far below the tolerance, so
    that the penalty is in the noise of the loss; here that step is tried first, and its error says how long the step shall be.

    Source: Pal, Edelman and Rackauckas 2023, Locally regularized neural differential equations: some black boxes were meant to
    remain closed!, arXiv 2303.02262.

    Args:
        field: takes a time (no dimensions) and states; gives their derivative.
        times: of the points, strictly increasing or decreasing.
        states: shape (times, *batch, n), at these times.
        method: as of `integrate`.
        sampling: "unbiased" or "biased".
        estimate: "error" or "stiffness".
        tolerance: that the field will be integrated to.
        seed: of the random time.

    Returns:
        The penalty, not negative.

    Raises:
        BadInput: for arguments that are not as above.
        NotConverged: with "unbiased" sampling, where the state at the random time cannot be computed.

    Example:
        >>> rate = torch.tensor(3.0, requires_grad=True)
        >>> penalty = local_regularization(lambda t, y: -rate * y, [0.0, 1.0], torch.tensor([[1.0], [0.05]]), tolerance=1e-3)
        >>> bool(torch.autograd.grad(penalty, rate)[0] > 0)
        True
    """
    for name, value in (("method", method), ("sampling", sampling), ("estimate", estimate)):
        check_parameter(name, value, PARAMETERS[name])
    tolerance = require_float("tolerance", tolerance, above=0, below=1)
    moments, points = as_times(times), as_state("states", states, complex_too=True).detach()
    if points.ndim < 2 or len(points) != len(moments):
        raise BadInput("states", f"of shape ({len(moments)}, *batch, n), a state for every time", describe(points))
    draw = float(torch.rand((), dtype=torch.float64, generator=generator_from(seed)))
    pair, scale, counted = Pair(method, points[0]), error_scale(points[0], None), CountedField(field, points[0])
    if sampling == "biased":
        at = int(draw * (len(moments) - 1))
        time, state = moments[at], points[at]
    else:
        time = moments[0] + draw * (moments[-1] - moments[0])
        sign = 1 if moments[-1] > moments[0] else -1
        at = max(i for i, moment in enumerate(moments) if sign * moment <= sign * time)
        begin, state = moments[at], points[at]
        with torch.no_grad():
            once = runge_kutta_step(counted, begin, state, counted(begin, state), time - begin, pair, scale)
            if bool((once.error <= tolerance).all()):  # as it is on a solver's own steps
                state = once.state
            else:
                state = integrate(field, state, [begin, time], method=method, tolerance=tolerance).value.states[-1]
    slope = counted(time, state)
    step = first_step(counted, time, state, slope, moments[-1], pair.order, tolerance, scale)
    signed = step if moments[-1] > time else -step
    with torch.no_grad():
        tried = float(runge_kutta_step(counted, time, state, slope, signed, pair, scale).error.max()) / tolerance
    signed *= step_factor(tried, pair.order)
    if abs(signed) > abs(moments[-1] - time):
        signed = moments[-1] - time
    taken = runge_kutta_step(counted, time, state, slope, signed, pair, scale)
    return abs(signed) * (taken.error / tolerance if estimate == "error" else taken.stiffness).mean()
