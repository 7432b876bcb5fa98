"""Linear systems for iterations that need a positive definite matrix."""

from __future__ import annotations

from dataclasses import replace

import torch

from nearly.testing.solver_problems import SolverProblem, linear


def problems() -> list[SolverProblem]:
    """Those of `linear`, with indefinite matrices among what is impossible."""
    return [_with_indefinite(problem) if problem.batched else problem for problem in linear.problems()]


def _with_indefinite(problem: SolverProblem) -> SolverProblem:
    shifted = problem.arguments["matrix"] - 5.25 * torch.eye(20, dtype=torch.float64)
    return replace(problem, impossible={**problem.impossible, "indefinite matrices": {"matrix": shifted}})
