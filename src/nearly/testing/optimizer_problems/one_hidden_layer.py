"""Regressions by networks of one hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearly.testing.optimizer_problems import OptimizerProblem, like
from nearly.testing.optimizer_problems.training import started


def problems() -> list[OptimizerProblem]:
    """Several outputs, and one of a network without biases."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(80, 4, dtype=torch.float64, generator=draw)
    several = torch.stack([(rows[:, 0] * rows[:, 1]).tanh(), rows[:, 2].sin() + 0.5 * rows[:, 3]], 1)
    one = (rows[:, :1] - rows[:, 1:2]).tanh() + rows[:, 2:3]

    def several_outputs(module: nn.Module) -> Tensor:
        return (module(like(rows, module)) - like(several, module)).square().mean()

    def one_output(module: nn.Module) -> Tensor:
        return (module(like(rows, module)) - like(one, module)).square().sum() / 100

    return [
        OptimizerProblem(
            "several outputs",
            started(lambda: nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 2))),
            several_outputs,
        ),
        OptimizerProblem(
            "one output",
            started(lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.Sigmoid(), nn.Linear(6, 1, bias=False))),
            one_output,
        ),
    ]
