"""A regression and a classifier whose closures return the model's outputs and the loss as a function of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nearly.testing.optimizer_problems import OptimizerProblem, Run


class WithTargets(Run):
    """A training whose closure returns outputs and their loss; what disturbs the loss disturbs the outputs."""

    def __init__(self, *problem: Any, rows: Tensor, fit: Callable[[Tensor], Tensor], **changes: Any) -> None:
        self.rows, self.fit = rows, fit
        super().__init__(*problem, **changes)

    def closure(self) -> Any:
        """Both."""
        outputs = self.disturb(self.module(self.rows.to(self.parameters[0].dtype)))
        return outputs, lambda found: self.sign * self.fit(found)


def problems() -> list[OptimizerProblem]:
    """Two problems whose losses start near one."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(80, 6, dtype=torch.float64, generator=draw)
    wanted = torch.randn(80, 3, dtype=torch.float64, generator=draw) * 0.1 + rows[:, :3]
    classes = (rows[:, 0] * rows[:, 1] > 0).long() + (rows[:, 2] > 0.5).long()

    def started(make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # torch's own initialization draws from the global state
            module = make().double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.copy_(drawn * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1))
        return module

    def problem(name: str, make: Callable[[], nn.Module], fit: Callable[[Tensor], Tensor]) -> OptimizerProblem:
        return OptimizerProblem(
            name,
            lambda: started(make),
            lambda module: fit(module(rows.to(next(module.parameters()).dtype))),
            partial(WithTargets, rows=rows, fit=fit),
        )

    return [
        problem("regression", lambda: nn.Linear(6, 3), lambda z: (z - wanted.to(z.dtype)).square().mean()),
        problem(
            "classifier",
            lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)),
            lambda z: nn.functional.cross_entropy(z, classes),
        ),
    ]
