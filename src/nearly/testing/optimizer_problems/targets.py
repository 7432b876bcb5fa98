"""A regression and a classifier whose closures return the model's outputs and the loss as a function of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nearly.testing.optimizer_problems import OptimizerProblem, Run, like
from nearly.testing.optimizer_problems.training import started


class WithTargets(Run):
    """A training whose closure returns outputs and their loss; what disturbs the loss disturbs the outputs."""

    def __init__(self, *problem: Any, rows: Tensor, fit: Callable[[Tensor], Tensor], **changes: Any) -> None:
        self.rows, self.fit = rows, fit
        super().__init__(*problem, **changes)

    def closure(self) -> Any:
        """Both."""
        outputs = self.disturb(self.module(like(self.rows, self.module)))
        return outputs, lambda found: self.sign * self.fit(found)


def problems() -> list[OptimizerProblem]:
    """Two problems whose losses start near one."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(80, 6, dtype=torch.float64, generator=draw)
    wanted = torch.randn(80, 3, dtype=torch.float64, generator=draw) * 0.1 + rows[:, :3]
    classes = (rows[:, 0] * rows[:, 1] > 0).long() + (rows[:, 2] > 0.5).long()

    def problem(name: str, make: Callable[[], nn.Module], fit: Callable[[Tensor], Tensor]) -> OptimizerProblem:
        return OptimizerProblem(
            name,
            started(make),
            lambda module: fit(module(like(rows, module))),
            partial(WithTargets, rows=rows, fit=fit),
        )

    return [
        problem("regression", lambda: nn.Linear(6, 3), lambda z: (z - wanted.to(z)).square().mean()),
        problem(
            "classifier",
            lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)),
            lambda z: nn.functional.cross_entropy(z, classes.to(z.device)),
        ),
    ]
