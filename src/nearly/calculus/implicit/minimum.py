"""Isolated local minima of smooth functions, differentiable for what the functions depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.calculus.implicit._implicit import (
    TOLERANCE,
    Function,
    Local,
    Parameters,
    checked_problem,
    damped_newton,
    with_derivatives,
)
from nearly.calculus.steppers._jacobian import state_jacobian
from nearly.core.solution import Solution, conclude
from nearly.core.validate import require_parameters, tolerance_for

if TYPE_CHECKING:
    from jaxtyping import Float

CARD = {
    "name": "minimum",
    "kind": "minimum",
    "rows": [],
    "replaces": "differentiating through the steps of an optimizer",
    "residual": "|| |H|^-1 g || / max(||x||, ||initial||), 2-norm, g the gradient, H the Hessian: Newton's next step, relative; "
    "infinite where H is not positive definite to rounding",
    "rate": "quadratic near a minimum with a positive definite Hessian",
    "order": None,
    "differentiable": ["parameters"],
    "parameters": {"tolerance": ["optional real", 0, None], "iterations": ["integer", 1, None]},
    "skips": {},
}


def minimum(
    function: Function,
    initial: Float[Tensor, "*batch n"],
    parameters: Parameters = (),
    *,
    tolerance: float | None = None,
    iterations: int = 200,
    check: bool = True,
) -> Solution:
    r"""Find local minimizers of `f(x, p)` over x, many problems at once, by Newton's method with `|H|`.

    A step is `-|H|^-1 g`, H with the absolute values of its eigenvalues, so that it always descends; it is halved until f falls by
    1e-4 of what is promised. Hessians are formed by n reverse modes. Derivatives for p follow from `dx = -H^-1 g_p dp` by one
    linear solve with products alone; none flow to the initial point, nor to tensors that the function holds itself.

    Saddle points, flat directions (a singular Hessian: the minimizer is not alone), functions without a minimum and steps run out
    are told. The minimum found is a local one.

    Source: Nocedal and Wright 2006, Numerical optimization, sections 3.4 and 3.5; derivatives as in Blondel et al. 2022, arXiv
    2105.15183.

    Args:
        function: f, takes points of the shape of `initial` and the parameters; gives a number per point, shape (*batch,), each
            from its own point alone. By torch operations, twice differentiable.
        initial: shape (*batch, n).
        parameters: p, one tensor or several, of any shape.
        tolerance: for the relative length of the next step; 1e-8 by default, in single precision 1e-4.
        iterations: the most steps.
        check: raise where the tolerance is not reached.

    Returns:
        The minimizers, of the shape of `initial`.

    Raises:
        BadInput: for arguments that are not as above, and a function that works in place.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> p = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        >>> x = minimum(lambda x, p: ((x - p**2) ** 2).sum(-1), torch.zeros(1, dtype=torch.float64), p).value
        >>> x.backward()
        >>> round(x.item(), 8), round(p.grad.item(), 8)
        (9.0, 6.0)
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations)
    objective, initial, tensors = checked_problem(function, initial, parameters, scalar=True)
    fixed = tuple(one.detach() for one in tensors)
    tolerance = tolerance_for(tolerance, initial.dtype, TOLERANCE)
    slope = torch.func.grad(lambda point: objective(point, *fixed).sum())

    def local(point: Tensor) -> Local:
        gradient = slope(point)
        hessian = state_jacobian(slope, point)
        fine = torch.isfinite(hessian).flatten(-2).all(dim=-1) & torch.isfinite(gradient).all(dim=-1)
        eye = torch.eye(point.shape[-1], dtype=point.dtype, device=point.device)
        curves, basis = torch.linalg.eigh(torch.where(fine[..., None, None], hessian, eye))
        least = torch.finfo(point.dtype).eps * point.shape[-1] * curves.abs().amax(dim=-1, keepdim=True)
        turned = (basis.mT @ gradient.unsqueeze(-1)).squeeze(-1)
        scaled = torch.where(turned == 0, 0.0, turned / torch.maximum(curves.abs(), least))
        step = torch.where(fine.unsqueeze(-1), -(basis @ scaled.unsqueeze(-1)).squeeze(-1), torch.inf)
        proper = (curves > least).all(dim=-1)
        defect = torch.where(proper, 0.0, torch.full_like(curves[..., 0], torch.inf))
        return Local(objective(point, *fixed), step, torch.linalg.vecdot(gradient, step), defect)

    with torch.no_grad():
        found = damped_newton(local, lambda point: objective(point, *fixed), initial, tolerance, iterations)
    return conclude(
        "minimum",
        with_derivatives(_gradient_of(objective), found.value, tensors, found.residual <= tolerance),
        residual=found.residual,
        tolerance=tolerance,
        iterations=found.taken,
        advice="raise iterations=, or start elsewhere: there may be no isolated minimum",
        broken=found.broken,
        why="no step decreases the function where it stopped, which is a saddle point, one of many minima side by side (a singular "
        "Hessian), or where derivatives are not finite; start elsewhere, or raise tolerance=",
        check=check,
    )


def _gradient_of(objective: Function) -> Function:
    def equation(point: Tensor, *parameters: Tensor) -> Tensor:
        return torch.autograd.grad(objective(point, *parameters).sum(), point, create_graph=True)[0]

    return equation
