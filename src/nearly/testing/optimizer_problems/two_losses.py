"""The trainings of `training`, with the mean square of all parameters as auxiliary loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nearly.testing.optimizer_problems import OptimizerProblem, Run, training


class WithAuxiliary(Run):
    """A training whose closure returns two losses."""

    def closure(self) -> Any:
        """Both."""
        main = self.sign * self.disturb(self.problem.loss(self.module))
        return main, 1e-3 * self.sign * sum(parameter.square().mean() for parameter in self.parameters)


def problems() -> list[OptimizerProblem]:
    """As many."""
    return [replace(problem, run=WithAuxiliary) for problem in training.problems()]
