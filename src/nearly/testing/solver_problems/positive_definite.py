"""Linear systems for iterations that need a positive definite matrix."""

from __future__ import annotations

from dataclasses import replace

import torch

from nearly.testing.solver_problems import SolverProblem, linear


def problems() -> list[SolverProblem]:
    """Those of `linear`, with indefinite matrices among what is impossible, and one with many right-hand sides."""
    those = [_with_indefinite(problem) if problem.batched else problem for problem in linear.problems()]
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=generator))[0]
    matrix = (basis * torch.logspace(-1, 1, 64, dtype=torch.float64)) @ basis.mT
    many = SolverProblem(
        name="ten right-hand sides, two of them one",
        arguments={
            "matrix": (matrix + matrix.mT) / 2,
            "right": torch.randn(64, 9, dtype=torch.float64, generator=generator)[:, [0, *range(9)]],
        },
        residual=linear.relative_residual,
        tolerance=1e-10,
        degrees=linear.DEGREES,
    )
    return [*those, many]


def _with_indefinite(problem: SolverProblem) -> SolverProblem:
    shifted = problem.arguments["matrix"] - 5.25 * torch.eye(20, dtype=torch.float64)
    return replace(problem, impossible={**problem.impossible, "indefinite matrices": {"matrix": shifted}})
