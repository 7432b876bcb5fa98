"""The classifier of `training`, for members that hardly change the lengths of parameters."""

from __future__ import annotations

from nearly.testing.optimizer_problems import OptimizerProblem, training


def problems() -> list[OptimizerProblem]:
    """One problem."""
    return [problem for problem in training.problems() if problem.name == "classifier"]
