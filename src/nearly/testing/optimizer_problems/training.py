"""A linear regression, a classifier, and parameters of odd shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nearly.testing.optimizer_problems import OptimizerProblem, like


class OddShapes(nn.Module):
    """A linear layer beside a scalar, vectors, matrices and a convolution's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        shapes = ((), (1,), (5,), (1, 1), (6, 2), (4, 3, 2, 1))
        self.others = nn.ParameterList([torch.zeros(shape) for shape in shapes])


def problems() -> list[OptimizerProblem]:
    """Three problems whose losses start near one."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    rows, weights = normal(64, 6) * torch.tensor([2.0, 1.5, 1.0, 1.0, 0.7, 0.5], dtype=torch.float64), normal(6, 4)
    targets = rows @ weights + 1.0
    scale = targets.var()
    points = normal(90, 5)
    classes = (points[:, 0] * points[:, 1] > 0).long() + (points[:, 2] > 0.5).long()
    few = normal(8, 3)

    def regression(module: nn.Module) -> Tensor:
        return (module(like(rows, module)) - like(targets, module)).square().mean() / like(scale, module)

    def classifier(module: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(module(like(points, module)), like(classes, module))

    def odd(module: Any) -> Tensor:
        loss = (module.layer(like(few, module)) - 1).square().mean()
        for i, parameter in enumerate(module.others):
            loss = loss + (parameter - 0.3 * (-1) ** i).square().mean()
        return loss

    return [
        OptimizerProblem("regression", started(lambda: nn.Linear(6, 4)), regression),
        OptimizerProblem(
            "classifier", started(lambda: nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))), classifier
        ),
        OptimizerProblem("odd shapes", started(OddShapes), odd),
    ]


def started(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The module with parameters drawn from a seed of its own."""

    def start() -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # torch's own initialization draws from the global state
            module = make().double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
                drawn = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.copy_(spread * drawn)
        return module

    return start
