"""Stiff initial value problems for linearly implicit Runge-Kutta methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.calculus.steppers.tase import tase_coefficients
from nearly.testing.solver_problems import SolverProblem
from nearly.testing.solver_problems.ode import batch_first, measured_slope

TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
STARTS = torch.tensor([[1.0, 0.5], [-2.0, 3.0]], dtype=torch.float64)


def problems() -> list[SolverProblem]:
    """A linear system with rates 1 and 1000, in a batch, a nonlinear one driven in time, and a complex one of either rate."""
    return [
        SolverProblem(
            name="two systems with rates 1 and 1000",
            arguments={"field": two_rates, "initial": STARTS, "times": TIMES},
            residual=local_error,
            tolerance=1e-5,
            batched=("initial",),
            impossible={
                "a solution that blows up": {"field": lambda t, y: 4 * y.square() + 4},
                "a field that is not finite": {"field": lambda t, y: torch.where(t > 0.5, torch.nan, 1.0) * y},
            },
            degrees={"initial": 1},
            meaning=batch_first,
        ),
        SolverProblem(
            name="a driven van der Pol oscillator",
            arguments={"field": driven, "initial": torch.tensor([2.0, 0.0], dtype=torch.float64), "times": TIMES},
            residual=local_error,
            tolerance=1e-5,
            meaning=batch_first,
            order=measured_order,
        ),
        SolverProblem(
            name="two complex equations with rates 1 and 1000",
            arguments={"field": slaved, "initial": torch.complex(STARTS, STARTS.flip(0)) / 2, "times": TIMES},
            residual=local_error,
            tolerance=1e-5,
            batched=("initial",),
            meaning=batch_first,
        ),
    ]


def two_rates(t: Tensor, y: Tensor) -> Tensor:
    """The field of y' = A y, A with eigenvalues -1 and -1000 and eigenvectors (1, 1) and (1, -1)."""
    return torch.stack([-500.5 * y[..., 0] + 499.5 * y[..., 1], 499.5 * y[..., 0] - 500.5 * y[..., 1]], dim=-1)


def slaved(t: Tensor, y: Tensor) -> Tensor:
    """The field of u' = i u + v / 4, v' = 1000 (u^2 / 4 - v)."""
    u, v = y.unbind(-1)
    return torch.stack([1j * u + v / 4, 1000 * (u**2 / 4 - v)], dim=-1)


def driven(t: Tensor, y: Tensor) -> Tensor:
    """The field of y'' = 2 (1 - y^2) y' - y + sin t."""
    return torch.stack([y[..., 1], 2 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0] + torch.sin(t)], dim=-1)


def local_error(value: Any, arguments: Mapping[str, Any]) -> Tensor:
    """The steps taken once more, each trajectory alone and with inverses; the largest error of any in the norm of the solver."""
    initial = arguments["initial"]
    rows = [_alone(value.steps.tolist(), row, arguments) for row in initial.reshape(-1, initial.shape[-1])]
    worst = torch.tensor(rows, dtype=torch.float64).reshape(initial.shape[:-1])
    return worst if bool(torch.isfinite(value.states).all()) else torch.full_like(worst, torch.inf)


def _alone(steps: list[float], state: Tensor, arguments: Mapping[str, Any]) -> float:
    made, field = tase_coefficients(3), arguments["field"]
    scale, worst, time = state.abs().max(), 0.0, float(arguments["times"][0])
    for step in steps:
        clock = torch.tensor(time, dtype=torch.float64)
        eye = torch.eye(len(state), dtype=state.dtype)
        inverse = torch.linalg.inv(eye - made.pole * step * _jacobian(field, clock, state))
        apart = max(1e-3 * abs(step), 2.0**-26 * abs(time)) * (1 if step > 0 else -1)
        drift = made.pole * step * (field(clock + apart, state) - field(clock, state)) / apart
        damped: list[Tensor] = []
        for node, row, operator in zip(made.nodes, made.stages, made.operators, strict=True):
            stage = state + step * sum((a * k for a, k in zip(row, damped, strict=True)), torch.zeros_like(state))
            slope = field(clock + node * step, stage)
            value, power = torch.zeros_like(slope), slope
            for coefficient in operator:
                power = inverse @ (power + drift)  # of the time's component, which stays 1
                value = value + coefficient * power
            damped.append(value)
        after = state + step * sum(b * k for b, k in zip(made.weights, damped, strict=True))
        error = step * sum(b * k for b, k in zip(made.error, damped, strict=True))
        weighted = error / (scale + torch.maximum(state.abs(), after.abs()))
        worst, state, time = max(worst, float(weighted.abs().square().mean().sqrt())), after, time + step
    return worst


def _jacobian(field: Callable[[Tensor, Tensor], Tensor], time: Tensor, state: Tensor) -> Tensor:
    """Of a real or holomorphic field, row by row: what torch calls a gradient is the conjugate."""
    given = state.detach().requires_grad_()
    slopes = field(time, given)
    return torch.stack([torch.autograd.grad(one.real, given, retain_graph=True)[0].conj() for one in slopes])


def measured_order(solver: Callable[..., Any]) -> float:
    """The slope of the error over the number of steps."""
    start, times = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.5], dtype=torch.float64)
    truth = solver(driven, start, times, tolerance=1e-10, steps=100_000).value.states[-1]
    found = [solver(driven, start, times, tolerance=10.0**-k) for k in (5, 5.5, 6, 6.5, 7)]
    return measured_slope(
        [float(one.iterations) for one in found],
        [math.log(float((one.value.states[-1] - truth).norm())) for one in found],
    )
