"""Roots of systems of equations, differentiable for what the equations depend on."""

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
from nearly.linalg.batched_lu import solve_all
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float

CARD = {
    "name": "roots",
    "kind": "root",
    "rows": [],
    "replaces": "differentiating through the steps of a root finder",
    "residual": "||J^-1 f(x)|| / max(||x||, ||initial||), 2-norm, J the Jacobian: Newton's next step, relative; 0 where f is 0",
    "rate": "quadratic near a root with a regular Jacobian",
    "order": None,
    "differentiable": ["parameters"],
    "parameters": {"tolerance": ["optional real", 0, None], "iterations": ["integer", 1, None]},
    "skips": {},
}


def roots(
    function: Function,
    initial: Float[Tensor, "*batch n"],
    parameters: Parameters = (),
    *,
    tolerance: float | None = None,
    iterations: int = 100,
    check: bool = True,
) -> Solution:
    r"""Solve `f(x, p) = 0` near an initial point, many systems at once, by Newton's method with damping.

    A step is `-J^-1 f`, halved until `||f||` decreases by 1e-4 of what is promised; Jacobians are formed by n reverse modes and
    factorized. Derivatives for p follow from `dx = -J^-1 f_p dp` by one linear solve with products alone, whatever the number of
    steps was; none flow to the initial point, nor to tensors that the function holds itself.

    Convergence is judged by Newton's next step, which estimates the error and knows no scale of f. Systems of the batch do not
    touch each other. A singular Jacobian on the way, a valley without a root, and steps run out are told.

    Source: Dennis and Schnabel 1996, Numerical methods for unconstrained optimization and nonlinear equations, algorithm D6.1.3;
    derivatives as in Blondel et al. 2022, Efficient and modular implicit differentiation, arXiv 2105.15183.

    Args:
        function: f, takes points of the shape of `initial` and the parameters; gives values of the same shape, each
            system's from its own point alone. By torch operations.
        initial: shape (*batch, n).
        parameters: p, one tensor or several, of any shape.
        tolerance: for the relative length of the next step; 1e-8 by default, in single precision 1e-4.
        iterations: the most steps.
        check: raise where the tolerance is not reached.

    Returns:
        The roots, of the shape of `initial`.

    Raises:
        BadInput: for arguments that are not as above, and a function that works in place.
        NotConverged: where the tolerance is not reached; it carries the solution.

    Example:
        >>> p = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
        >>> x = roots(lambda x, p: x**2 - p, torch.ones(1, dtype=torch.float64), p).value
        >>> x.backward()
        >>> round(x.item(), 8), round(p.grad.item(), 8)
        (2.0, 0.25)
    """
    require_parameters(CARD, tolerance=tolerance, iterations=iterations)
    equation, initial, tensors = checked_problem(function, initial, parameters, scalar=False)
    fixed = tuple(one.detach() for one in tensors)
    tolerance = tolerance_for(tolerance, initial.dtype, TOLERANCE)
    with torch.no_grad():
        unit = binary_scale(equation(initial, *fixed), -1)

        def values(point: Tensor) -> Tensor:
            return equation(point, *fixed) / unit

        def merit(point: Tensor) -> Tensor:
            return values(point).norm(dim=-1)

        def local(point: Tensor) -> Local:
            left = values(point)
            step, info = solve_all(state_jacobian(values, point), -left.unsqueeze(-1))
            step = torch.where((info == 0)[..., None, None], step, torch.inf).squeeze(-1)
            step = torch.where((left == 0).all(dim=-1, keepdim=True), 0.0, step)
            size = left.norm(dim=-1)
            return Local(size, step, -size, torch.zeros_like(size))

        found = damped_newton(local, merit, initial, tolerance, iterations)
    return conclude(
        "roots",
        with_derivatives(equation, found.value, tensors, found.residual <= tolerance),
        residual=found.residual,
        tolerance=tolerance,
        iterations=found.taken,
        advice="raise iterations=, or start elsewhere: there may be no root",
        broken=found.broken,
        why="the Jacobian is singular or not finite where it stopped, or no step along Newton's direction brings the values "
        "closer to zero; start elsewhere, or raise tolerance=",
        check=check,
    )
