"""Iterations that are wrong on purpose, one defect each, so that every check of the contract can be seen to reject something.

All are one correct iteration for linear systems, `x <- x + 0.9 A^-1 (b - A x)`, whose residual falls tenfold at each step, with one
line changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.solution import CONVERGED, Solution, conclude
from nearly.core.validate import as_floating, require_parameters
from nearly.linalg.promotion import promoted
from nearly.testing._iterations import Iteration
from nearly.testing.solver_problems import SolverProblem

CARD: dict[str, Any] = {
    "name": "refinement",
    "kind": "linear",
    "rows": [],
    "replaces": "a correct solver, to show what the contract rejects",
    "residual": "||b - A x|| / ||b||, 2-norm per right-hand side",
    "rate": "a tenth of the residual is left by each step",
    "order": 1,
    "differentiable": ["right", "matrix"],
    "complex": ["right", "matrix"],
    "parameters": {"tolerance": ["real", 0, None], "iterations": ["integer", 1, None]},
    "skips": {},
}

# The check that must reject each defect, and words of the rejection.
DEFECTS = {
    "incomplete card": ("card_complete", "lacks 'rate'"),
    "unchecked parameters": ("bad_parameters", "not refused by name"),
    "takes NaN": ("bad_inputs", "not refused by name"),
    "takes complex": ("bad_inputs", "with complex entries is accepted"),
    "recurred residual": ("residual_true", "the residual reported"),
    "residual of real parts": ("residual_true", "complex systems: the residual reported"),
    "silent": ("failure_told", "the status says it did"),
    "fixed tolerance": ("tolerance_obeyed", "the tolerance changes nothing"),
    "wrong alone": ("batch_alone", "alone, problem 0 is"),
    "in place": ("leaves_no_trace", "in place"),
    "double only": ("dtypes", "float32 in"),
    "counts on the host": ("follows_device", "on another device it fails"),
    "clamps": ("scaled", "off, and called converged"),
    "detached twice": ("gradients", "finite differences"),
    "holomorphic": ("gradients", "complex systems: the derivative along"),
    "slow": ("order_declared", "declared as 2"),
}


@dataclass(frozen=True)
class BrokenIteration:
    """A broken member.

    Attributes:
        member: the iteration with its card.
        breaks: name of the check that must reject it; all others must pass.
        says: words that the rejection must contain.
        defect: what is wrong with it.
    """

    member: Iteration
    breaks: str
    says: str
    defect: str

    def __str__(self) -> str:
        return self.defect


def broken_solvers() -> list[BrokenIteration]:
    """All broken members.

    Example:
        >>> len(broken_solvers())
        16
    """
    found = []
    for defect, (breaks, says) in DEFECTS.items():
        card = CARD | ({"order": 2} if defect == "slow" else {})
        if defect == "incomplete card":
            del card["rate"]
        if defect == "takes complex":
            del card["complex"]
        found.append(BrokenIteration(Iteration(refinement_with(defect), card), breaks, says, defect))
    return found


def refinement_with(defect: str) -> Callable[..., Solution]:
    """The iteration with a defect; right for any other word."""

    def refinement(
        matrix: Tensor, right: Tensor, *, tolerance: float = 1e-8, iterations: int = 100, check: bool = True
    ) -> Solution:
        if defect != "unchecked parameters":
            require_parameters(CARD, tolerance=tolerance, iterations=iterations)
        a, b = promoted(*_checked(matrix, right, finite=defect != "takes NaN"))
        if defect == "in place":
            with torch.no_grad():
                right.mul_(1 + 2.0**-50)
        if defect == "clamps":
            b = b * (1e30 / b.abs()).clamp(max=1.0)
        if defect == "double only":
            a, b = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (a, b))
        vector = b.ndim == 1
        b = b[..., None] if vector else b
        scale = b.detach().abs().amax(dim=-2, keepdim=True)
        b = b / torch.where(scale > 0, scale, 1.0)
        size = b.detach().norm(dim=-2).clamp(min=1.0)
        asked = 1e-8 if defect == "fixed tolerance" and tolerance < 1e-3 else tolerance
        try:
            factors = torch.linalg.lu_factor(a)
        except RuntimeError as error:
            raise FactorizationFailed(f"matrix is singular: {error}") from error
        place = torch.device("cpu") if defect == "counts on the host" else b.device
        x, steps, counts = torch.zeros_like(b), 0, torch.zeros(size.shape, dtype=torch.int64, device=place)
        rest = b
        residual = rest.detach().norm(dim=-2) / size
        while steps < iterations and not bool((residual <= asked).all()):
            live = residual > asked
            counts = counts + live
            x = x + torch.where(live[..., None, :], 0.9 * torch.linalg.lu_solve(*factors, rest), 0.0)
            rest, steps = b - a @ x, steps + 1
            residual = rest.detach().norm(dim=-2) / size
        x = x * scale
        if defect == "wrong alone" and x.ndim == 2:
            x = 1.001 * x
        if defect == "recurred residual":
            residual = residual * 0.5
        if defect == "residual of real parts":
            residual = rest.detach().real.norm(dim=-2) / size
        if defect == "detached twice":
            x = x.detach() + 2 * (x - x.detach())
        if defect == "holomorphic":
            x = _WithoutConjugates.apply(x)  # type: ignore[no-untyped-call]
        x, residual, counts = (t[..., 0] if vector else t for t in (x, residual, counts))
        if defect == "silent":
            return Solution(x, residual <= tolerance, counts, residual, CONVERGED)
        return conclude(
            "refinement",
            x,
            residual=residual,
            tolerance=tolerance,
            iterations=counts,
            advice="raise iterations=",
            check=check,
        )

    return refinement


def refinement_problems() -> list[SolverProblem]:
    """Three systems, with two right-hand sides each, and three complex ones."""
    return [_three("three systems", torch.float64), _three("three complex systems", torch.complex128)]


def _three(name: str, dtype: torch.dtype) -> SolverProblem:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, dtype=dtype, generator=generator)
    matrix = root @ root.mH + 6 * torch.eye(6, dtype=torch.float64)
    right = torch.randn(3, 6, 2, dtype=dtype, generator=generator)
    singular = torch.zeros(3, 6, 6, dtype=torch.float64)
    singular[:, 0, 0] = 1.0

    def residual(value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        a, b = arguments["matrix"], arguments["right"]
        return (b - a @ value.to(b)).norm(dim=-2) / b.norm(dim=-2)

    def digits_per_step(solver: Callable[..., Solution]) -> float:
        left = [solver(matrix, right, tolerance=1e-12, iterations=steps, check=False) for steps in (2, 4)]
        return float((left[0].residual / left[1].residual).log10().mean()) / 2

    return SolverProblem(
        name,
        {"matrix": matrix, "right": right},
        residual,
        batched=("matrix", "right"),
        impossible={"a singular matrix": {"matrix": singular}},
        degrees={"right": 1, "matrix": -1},
        order=digits_per_step,
    )


class _WithoutConjugates(torch.autograd.Function):
    """The identity, with derivatives conjugated."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].conj()


def _checked(matrix: Tensor, right: Tensor, *, finite: bool) -> tuple[Tensor, Tensor]:
    if finite:
        return (
            as_floating("matrix", matrix, least_dimensions=2, complex_too=True),
            as_floating("right", right, least_dimensions=1, complex_too=True),
        )
    for name, value in (("matrix", matrix), ("right", right)):
        if not isinstance(value, Tensor) or not value.numel():
            raise BadInput(name, "a tensor with entries", value)
    return matrix, right
