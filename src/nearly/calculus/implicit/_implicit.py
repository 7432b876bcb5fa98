"""Solutions of equations with their derivatives for parameters, by the implicit function theorem; entry and damped Newton steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus._evaluations import Pure
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe
from nearly.linalg.derivatives import asked, first_only
from nearly.linalg.operator import Operator
from nearly.linalg.solve import gmres

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Function = Callable[..., Tensor]
Parameters = Tensor | Sequence[Tensor]

DECREASE = (
    1e-4  # of the merit, of what its slope promises (Nocedal and Wright 2006, Numerical optimization, section 3.1)
)
TOLERANCE = 1e-8  # by default, in double precision
HALVINGS = 30  # of a step; shorter ones change nothing in single precision, and little in double


def checked_problem(
    function: Any, initial: Any, parameters: Any, *, scalar: bool
) -> tuple[Function, Tensor, tuple[Tensor, ...]]:
    """The function, checked at each call, the initial points, detached, and the parameters.

    Args:
        function: takes points and parameters.
        initial: shape (*batch, n).
        parameters: a tensor or several.
        scalar: whether the function gives a number per point rather than a vector.

    Returns:
        They.

    Raises:
        BadInput: for what is none of these.
    """
    if not callable(function):
        raise BadInput("function", "callable", describe(function))
    initial = as_floating("initial", initial, least_dimensions=1).detach()
    given = parameters if isinstance(parameters, tuple | list) else (parameters,)
    tensors = tuple(as_floating("parameters", one) for one in given)
    shape = initial.shape[:-1] if scalar else initial.shape
    function = Pure("function", function)

    def checked(point: Tensor, *values: Tensor) -> Tensor:
        found = function(point, *values)
        if not isinstance(found, Tensor) or found.shape != shape or found.dtype != initial.dtype:
            raise BadInput("function", f"one that gives {initial.dtype} of shape {tuple(shape)}", describe(found))
        return found

    return checked, initial, tensors


def with_derivatives(
    equation: Function,
    value: Float[Tensor, "*batch n"],
    parameters: tuple[Tensor, ...],
    converged: Bool[Tensor, "*batch"],
) -> Tensor:
    """The solution x of `r(x, p) = 0` with `dx = -r_x^-1 r_p dp`; without where some have not converged.

    Backpropagation solves `r_x' y = g` matrix-free by GMRES, all problems of the batch at once, and hands out `-r_p' y`. It raises
    NotConverged where r_x is singular, and BadInput where second derivatives are asked for.

    Args:
        equation: r, of every point alone.
        value: x, detached.
        parameters: p.
        converged: per problem.

    Returns:
        x.
    """
    if not bool(converged.all()) or not asked(*parameters):
        return value
    return _Implicit.apply(equation, value, *parameters)  # type: ignore[no-untyped-call]


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, equation: Function, value: Tensor, *parameters: Tensor) -> Tensor:
        found = value.clone()
        context.equation = equation
        context.save_for_backward(found, *parameters)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first_only("implicit solutions")
        value, *parameters = (one.detach().requires_grad_() for one in context.saved_tensors)
        with torch.enable_grad():
            left = context.equation(value, *parameters)
        batch, n = value.shape[:-1], value.shape[-1]

        def pull(columns: Tensor) -> Tensor:
            rows = columns.T.reshape(*batch, n)
            (found,) = torch.autograd.grad(
                left, value, rows, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            return found.reshape(-1, n).T

        # One column per problem: the iteration keeps columns apart, so each may have a matrix of its own.
        operator = Operator((n, n), pull, None, value.dtype, value.device)
        tolerance = float(torch.finfo(value.dtype).eps ** (2 / 3))
        solved = gmres(operator, gradients[0].reshape(-1, n).T, tolerance=tolerance).value
        found = torch.autograd.grad(left, parameters, -solved.T.reshape(*batch, n), allow_unused=True)
        return None, None, *found


@dataclass(frozen=True)
class Local:
    """What is known of a problem at a point.

    Attributes:
        merit: what a step must decrease.
        step: the full one.
        slope: of the merit along it.
        defect: infinite where the point is none that is looked for, whatever the step; 0 elsewhere.
    """

    merit: Float[Tensor, "*batch"]
    step: Float[Tensor, "*batch n"]
    slope: Float[Tensor, "*batch"]
    defect: Float[Tensor, "*batch"]


@dataclass(frozen=True)
class Found:
    """Where an iteration ended: the point, its residual, steps taken, and which problems cannot go on."""

    value: Float[Tensor, "*batch n"]
    residual: Float[Tensor, "*batch"]
    taken: Int[Tensor, "*batch"]
    broken: Bool[Tensor, "*batch"]


def relative(change: Float[Tensor, "*batch n"], *points: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The 2-norm of a change over the largest of some points; 0 for no change, infinite for one that is not finite."""
    size = torch.stack([one.abs().amax(dim=-1) for one in points]).amax(dim=0).unsqueeze(-1)
    unit = torch.where(size > 0, size, 1.0)  # norms of what is divided by it neither overflow nor vanish
    largest = torch.stack([(one / unit).norm(dim=-1) for one in points]).amax(dim=0)
    ratio = (change / unit).norm(dim=-1) / torch.where(size.squeeze(-1) > 0, largest, 0.0)
    ratio = torch.where((change == 0).all(dim=-1), 0.0, ratio)
    return torch.where(ratio.isnan(), torch.inf, ratio)


def damped_newton(
    local: Callable[[Tensor], Local],
    merit: Callable[[Tensor], Tensor],
    initial: Tensor,
    tolerance: float,
    iterations: int,
) -> Found:
    """Steps, halved until the merit decreases enough, until the full one is short beside the point.

    Args:
        local: the step at points.
        merit: what must decrease.
        initial: points.
        tolerance: for the length of the full step over the larger of the point and the initial one.
        iterations: the most steps.

    Returns:
        The last points.
    """
    point, here = initial, local(initial)
    residual = relative(here.step, point, initial) + here.defect
    taken = torch.zeros(residual.shape, dtype=torch.int64, device=point.device)
    broken = torch.zeros_like(taken, dtype=torch.bool)
    eps = torch.finfo(point.dtype).eps
    for _ in range(iterations):
        live = ~(residual <= tolerance) & ~broken
        if not bool(live.any()):
            break
        broken = broken | (live & ~torch.isfinite(here.step).all(dim=-1))
        live = live & ~broken
        step = torch.where(live.unsqueeze(-1), here.step, 0.0)
        length = torch.ones_like(here.merit)
        for _ in range(HALVINGS):
            ahead = point + length.unsqueeze(-1) * step
            allowed = here.merit + DECREASE * length * here.slope + 10 * eps * here.merit.abs()
            good = merit(ahead) <= allowed  # false for NaN
            if bool((good | ~live).all()):
                break
            length = torch.where(good, length, length / 2)
        moved = live & good & (ahead != point).any(dim=-1)
        point = torch.where(moved.unsqueeze(-1), ahead, point)
        broken = broken | (live & ~moved)
        taken = taken + moved
        here = local(point)
        residual = relative(here.step, point, initial) + here.defect
    return Found(point, residual, taken, broken & ~(residual <= tolerance))
