"""Least squares with more equations than unknowns, some with a large residual at the solution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem

DEGREES = {"right": 1.0, "matrix": -1.0}


def problems() -> list[SolverProblem]:
    """Three systems of noisy equations, real and complex; one consistent system with badly scaled columns, two near each other."""
    graded = _random(200, 8) * 10.0 ** torch.linspace(-3, 3, 8, dtype=torch.float64)
    graded[:, 1] = graded[:, 0] + 0.1 * graded[:, 1] / graded[:, 1].norm() * graded[:, 0].norm()
    return [
        _noisy("three noisy systems", torch.float64),
        SolverProblem(
            name="a consistent system with badly scaled columns",
            arguments={"matrix": graded, "right": (graded / graded.norm(dim=0)).sum(dim=1)},
            residual=_largest_cosine,
            tolerance=1e-12,  # lengths of the columns differ by 1e6
            degrees=DEGREES,
        ),
        _noisy("three noisy complex systems", torch.complex128),
    ]


def _noisy(name: str, dtype: torch.dtype) -> SolverProblem:
    matrix = _random(3, 300, 20, dtype=dtype)
    right = matrix @ _random(3, 20, 2, dtype=dtype, seed=1) + _random(3, 300, 2, dtype=dtype, seed=2)
    dependent = matrix.clone()
    dependent[1, :, 5] = dependent[1, :, 0] - 2 * dependent[1, :, 3]
    return SolverProblem(
        name=name,
        arguments={"matrix": matrix, "right": right},
        residual=_largest_cosine,
        batched=("matrix", "right"),
        impossible={
            "one with dependent columns": {"matrix": dependent},
            "matrices of zeros": {"matrix": torch.zeros_like(matrix)},
        },
        degrees=DEGREES,
    )


def _random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _largest_cosine(value: Any, arguments: Mapping[str, Any]) -> Tensor:
    matrix, right = arguments["matrix"], arguments["right"]
    side = -2 if right.ndim > 1 else 0
    lengths = matrix.norm(dim=-2)
    along = (matrix.mH @ (right - matrix @ value.to(right))).abs()
    return (along / (lengths[..., None] if right.ndim > 1 else lengths)).amax(dim=side) / right.norm(dim=side)
