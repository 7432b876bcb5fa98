"""Linear systems with positive definite matrices, symmetric or Hermitian, which every iteration for linear systems solves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem

DEGREES = {"right": 1.0, "matrix": -1.0}


def problems() -> list[SolverProblem]:
    """Three systems with a condition number of 20, real and complex; one whose unknowns differ by a factor of 30."""
    beside = torch.full((11,), -0.9, dtype=torch.float64)
    line = 2.0 * torch.eye(12, dtype=torch.float64) + torch.diag(beside, 1) + torch.diag(beside, -1)
    scale = 10.0 ** torch.linspace(-0.75, 0.75, 12, dtype=torch.float64)
    badly_scaled = SolverProblem(
        name="a badly scaled system",
        arguments={"matrix": scale[:, None] * line * scale, "right": 1e6 * scale},
        residual=relative_residual,
        tolerance=1e-11,  # the condition number of 2,500 stands between residual and error
        degrees=DEGREES,
    )
    return [
        _three("three well-conditioned systems", torch.float64),
        badly_scaled,
        _three("three well-conditioned complex systems", torch.complex128),
    ]


def _three(name: str, dtype: torch.dtype) -> SolverProblem:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 20, 20, dtype=dtype, generator=generator))[0]
    matrix = (basis * torch.linspace(0.5, 10.0, 20, dtype=torch.float64)) @ basis.mH
    matrix = (matrix + matrix.mH) / 2
    singular = matrix.clone()
    singular[1] = torch.diag(torch.arange(20, dtype=torch.float64))
    return SolverProblem(
        name=name,
        arguments={"matrix": matrix, "right": torch.randn(3, 20, 2, dtype=dtype, generator=generator)},
        residual=relative_residual,
        batched=("matrix", "right"),
        impossible={
            "one is singular, its right-hand side outside its range": {"matrix": singular},
            "matrices of zeros": {"matrix": torch.zeros_like(matrix)},
        },
        degrees=DEGREES,
    )


def relative_residual(value: Any, arguments: Mapping[str, Any]) -> Tensor:
    """`||b - A x|| / ||b||` per column, in the 2-norm."""
    matrix, right = arguments["matrix"], arguments["right"]
    side = -2 if right.ndim > 1 else 0
    return (right - matrix @ value.to(right)).norm(dim=side) / right.norm(dim=side)
