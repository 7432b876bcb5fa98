"""Positive definite matrices that are to become inverses of given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearly.testing.optimizer_problems import OptimizerProblem


class Matrices(nn.Module):
    """Two positive definite matrices, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Parameter(torch.eye(4, dtype=torch.float64))
        self.small = nn.Parameter(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64))
        self.vector = nn.Parameter(torch.zeros(3, dtype=torch.float64))


def problems() -> list[OptimizerProblem]:
    """One problem: mean squares of P Q - I for two matrices, and of the distance of a vector from another."""
    draw = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    goals = draw.T @ draw / 3, torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)

    def loss(module: Any) -> Tensor:
        total = (module.vector - 0.3).square().mean()
        for matrix, goal in zip((module.wide, module.small), goals, strict=True):
            total = total + (matrix @ goal.to(matrix) - torch.eye(len(goal)).to(matrix)).square().mean()
        return total / 3

    return [OptimizerProblem("inverses", Matrices, loss)]
