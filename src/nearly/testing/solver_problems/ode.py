"""Initial value problems for adaptive explicit Runge-Kutta pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.calculus.steppers._tableaus import TABLEAUS
from nearly.testing.solver_problems import SolverProblem

START = torch.tensor([[1.0, 0.0], [0.3, -2.0], [-4.0, 1.0]], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)


def problems() -> list[SolverProblem]:
    """A linear oscillator, in a batch, and a nonlinear one backwards in time; Riccati equations in the complex plane."""
    return [
        SolverProblem(
            name="three decaying rotations",
            arguments={"field": rotation, "initial": START, "times": TIMES},
            residual=local_error,
            batched=("initial",),
            impossible={
                "a solution that blows up": {"field": lambda t, y: y.square() + 1},
                "a field that is not finite": {"field": lambda t, y: torch.where(t > 1, torch.nan, 1.0) * y},
            },
            degrees={"initial": 1},
            meaning=batch_first,
        ),
        SolverProblem(
            name="van der Pol's oscillator, backwards",
            arguments={"field": van_der_pol, "initial": torch.tensor([2.0, 0.0], dtype=torch.float64), "times": -TIMES},
            residual=local_error,
            meaning=batch_first,
            order=measured_order,
        ),
        SolverProblem(
            name="three complex Riccati equations",
            arguments={"field": riccati, "initial": torch.complex(START, START.flip(0)) / 2, "times": TIMES},
            residual=local_error,
            batched=("initial",),
            impossible={"a solution that blows up": {"field": lambda t, y: (y - 0.5j) ** 2 + 1}},
            meaning=batch_first,
        ),
    ]


def batch_first(value: Any) -> Tensor:
    """The states, the dimension of the times behind those of the batch."""
    return value.states.movedim(0, -2)


def rotation(t: Tensor, y: Tensor) -> Tensor:
    """The field of y' = (-0.1 + 2i) y, as two real components."""
    return torch.stack([-0.1 * y[..., 0] - 2 * y[..., 1], 2 * y[..., 0] - 0.1 * y[..., 1]], dim=-1)


def rotated(initial: Tensor, time: float) -> Tensor:
    """The solution."""
    cosine, sine = math.cos(2 * time), math.sin(2 * time)
    turned = torch.stack(
        [cosine * initial[..., 0] - sine * initial[..., 1], sine * initial[..., 0] + cosine * initial[..., 1]], -1
    )
    return math.exp(-0.1 * time) * turned


def riccati(t: Tensor, y: Tensor) -> Tensor:
    """The field of u' = i u - v^2 / 8, v' = (-0.2 - i) v + u / 2 + cos t."""
    u, v = y.unbind(-1)
    return torch.stack([1j * u - v**2 / 8, (-0.2 - 1j) * v + u / 2 + torch.cos(t)], dim=-1)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """The field of y'' = 2 (1 - y^2) y' - y."""
    return torch.stack([y[..., 1], 2 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], dim=-1)


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    """The field of y'' = -sin y + 0.3 cos t."""
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) + 0.3 * torch.cos(t)], dim=-1)


def local_error(value: Any, arguments: Mapping[str, Any]) -> Tensor:
    """The steps of a trajectory taken once more, stage by stage; the largest error of any in the norm of `integrate`."""
    state, pair = arguments["initial"], TABLEAUS["tsit5"]
    scale = state.abs().amax(dim=-1, keepdim=True)
    worst = torch.zeros(state.shape[:-1], dtype=torch.float64)
    time = float(arguments["times"][0])
    for step in value.steps.tolist():
        slopes = [arguments["field"](torch.tensor(time, dtype=torch.float64), state)]
        for node, row in zip(pair.nodes[1:], pair.stages, strict=True):
            stage = state + sum(step * weight * slope for weight, slope in zip(row, slopes, strict=True))
            slopes.append(arguments["field"](torch.tensor(time + node * step, dtype=torch.float64), stage))
        error = sum(step * weight * slope for weight, slope in zip(pair.error, slopes, strict=True))
        weighted = error / (scale + torch.maximum(state.abs(), stage.abs()))
        worst = torch.maximum(worst, weighted.abs().square().mean(dim=-1).sqrt())
        state, time = stage, time + step
    return worst if bool(torch.isfinite(value.states).all()) else torch.full_like(worst, torch.inf)


def measured_order(solver: Callable[..., Any]) -> float:
    """The slope of the error over the number of steps."""
    start, times = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 20.0], dtype=torch.float64)
    truth = solver(pendulum, start, times, tolerance=1e-13).value.states[-1]
    found = [solver(pendulum, start, times, tolerance=10.0**-k) for k in (5, 6, 7, 8, 9, 10)]
    return measured_slope(
        [float(one.iterations) for one in found],
        [math.log(float((one.value.states[-1] - truth).norm())) for one in found],
    )


def measured_slope(counts: list[float], logarithms: list[float]) -> float:
    """By how much an error's logarithm falls over the logarithm of a count, by least squares."""
    x, y = torch.tensor(counts, dtype=torch.float64).log(), torch.tensor(logarithms, dtype=torch.float64)
    return float(-((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
