"""Linear systems by products with their matrix alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import FactorizationFailed
from nearly.core.validate import generator_from

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.linalg.operator import Operator

CYCLES = 3  # restarts from the true residual, which the recurrences drift away from
MOST = 10_000  # products per cycle
RESTART = 50  # Krylov vectors that GMRES holds
NAMES = {"cg": "conjugate gradients", "minres": "MINRES", "gmres": "GMRES"}


def choose_solver(operator: Operator) -> str:
    """The iteration that solves a random system: "cg" for positive definite operators, "minres" for symmetric ones, or "gmres".

    Raises:
        FactorizationFailed: when it does not.
    """
    right = torch.randn(operator.shape[0], 1, dtype=torch.float64, generator=generator_from(0)).to(operator.device)
    solver = "gmres"
    if operator.symmetric:
        solver = "minres" if conjugate_gradients(operator, right, tolerance_of(operator))[1] else "cg"
    _, residual = krylov_solve(operator, right, solver)
    if not float(residual) <= tolerance_of(operator):
        raise FactorizationFailed(
            f"matrix cannot be solved with: {NAMES[solver]} left a relative residual of {float(residual):.2g} on a random "
            "right-hand side; it may be singular, or worse conditioned than an iteration without preconditioner can take"
        )
    return solver


def tolerance_of(operator: Operator) -> float:
    """The relative residual asked of a solution: two thirds of the digits."""
    return float(torch.finfo(operator.dtype).eps ** (2 / 3))


def krylov_solve(
    operator: Operator, right: Float[Tensor, "n k"], solver: str
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " k"]]:
    """Solutions of `A x = b`, computed in float64, and their true relative residuals `||b - A x|| / ||b||` in the 2-norm.

    Conjugate gradients (Hestenes and Stiefel 1952, doi:10.6028/jres.049.044) run on all right-hand sides at once; MINRES and GMRES
    are SciPy's. Each is started again from the true residual, up to three times, until that is within `tolerance_of`.

    Args:
        operator: square.
        right: right-hand sides, side by side.
        solver: one of `NAMES`.

    Returns:
        Solutions and residuals; who asks judges them.

    Example:
        >>> from nearly.linalg.operator import as_operator
        >>> solution, residual = krylov_solve(as_operator(lambda x: 2 * x, shape=(3, 3)), torch.ones(3, 1), "cg")
        >>> solution.flatten().tolist(), residual.tolist()
        ([0.5, 0.5, 0.5], [0.0])
    """
    rest = right.to(torch.float64)
    size = rest.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    x, tolerance = torch.zeros_like(rest), tolerance_of(operator)
    for _ in range(CYCLES):
        if solver == "cg":
            step = conjugate_gradients(operator, rest, tolerance * size / rest.norm(dim=0).clamp(min=1e-300))[0]
        else:
            step = torch.stack(
                [_scipy(operator, b, solver, tolerance * float(s)) for b, s in zip(rest.T, size, strict=True)], 1
            )
        x = x + step
        rest = right - operator @ x
        residual = rest.norm(dim=0) / size
        if bool((residual <= tolerance).all()) or not bool(torch.isfinite(residual).all()):
            break
    return x, residual


def conjugate_gradients(
    operator: Operator, right: Float[Tensor, "n k"], tolerance: float | Float[Tensor, " k"]
) -> tuple[Float[Tensor, "n k"], bool]:
    """Approximate solutions to a relative residual, and whether a direction of no positive curvature ended the search early."""
    x, rest, direction = torch.zeros_like(right), right, right
    square = rest.square().sum(dim=0)
    enough = square * tolerance**2
    for _ in range(MOST):
        live = square > enough
        if not bool(live.any()):
            break
        image = operator @ direction
        curvature = (direction * image).sum(dim=0)
        if not bool((curvature > 0)[live].all()):
            return x, True
        step = torch.where(live, square / curvature, 0.0)
        x, rest = x + step * direction, rest - step * image
        before, square = square, rest.square().sum(dim=0)
        direction = rest + torch.where(live, square / before, 0.0) * direction
    return x, False


def _scipy(operator: Operator, right: Tensor, solver: str, tolerance: float) -> Tensor:
    from scipy.sparse.linalg import LinearOperator, gmres, minres

    def product(vector: Any) -> Any:
        column = torch.from_numpy(vector).to(right.device)[:, None]
        return (operator @ column)[:, 0].cpu().numpy()

    matrix = LinearOperator(operator.shape, matvec=product, dtype="float64")
    b, most = right.cpu().numpy(), min(MOST, 10 * len(right))
    if solver == "minres":  # its own test is relative to the matrix's norm times the solution's: it goes to round-off
        found = minres(matrix, b, rtol=torch.finfo(operator.dtype).eps, maxiter=most)[0]
    else:
        found = gmres(matrix, b, rtol=0.0, atol=tolerance, restart=RESTART, maxiter=-(-most // RESTART))[0]
    return torch.from_numpy(found).to(right.device)
