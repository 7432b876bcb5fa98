"""Points of the Poincaré ball that are to come near given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearly.linalg.manifolds import PoincareBall
from nearly.optim.optimizer import Optimizer
from nearly.testing.optimizer_problems import OptimizerProblem, Run

BALL = PoincareBall()


class OnBall(Run):
    """A training whose optimizer is told the manifold."""

    def build(self, params: Any, **settings: Any) -> Optimizer:
        """The optimizer of these parameters."""
        member: Any = self.member
        return member(params, BALL, **settings)


class Points(nn.Module):
    """Six points of the ball in three dimensions, and a point of the disk."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        drawn = 0.3 * torch.randn(6, 3, dtype=torch.float64, generator=generator)
        self.several = nn.Parameter(drawn)
        self.single = nn.Parameter(torch.tensor([0.1, -0.2], dtype=torch.float64))


def problems() -> list[OptimizerProblem]:
    """One problem: mean squared distances."""
    generator = torch.Generator().manual_seed(1)
    goal = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    goal = 0.7 * goal / goal.norm(dim=1, keepdim=True)
    other = torch.tensor([0.5, 0.5], dtype=torch.float64)

    def loss(module: Any) -> Tensor:
        several = BALL.distance(module.several, goal.to(module.several)).square().mean()
        return (several + BALL.distance(module.single, other.to(module.single)).square()) / 4

    return [OptimizerProblem("points of a ball", Points, loss, OnBall)]
