"""Row 230: the dynamics of acceleration (Parimi, Mehra, Wagh, Yerudkar, Singh, arXiv 2509.18346).

Works when, on quadratics with condition 1e2 to 1e4: the ODE's decay rate is at least 0.9 sqrt(mu), and its discretization
reproduces Nesterov's iterates to 1e-10; on Lessard's piecewise quadratic loss heavy ball cycles while triple momentum reaches
1e-8.

The ODE, with s = 1 / L: x'' + (2 sqrt(mu) + sqrt(s) f''(x)) x' + (1 + sqrt(mu s)) f'(x) = 0, here solved exactly for each
eigenvalue (50 of them) up to time 40 / sqrt(mu); the discretization is the implicit one in velocity, of step sqrt(s), from the
velocity of a first gradient step. Lessard's loss (arXiv 1408.3595, section 4.6) has f' = 25 x below 1, x + 24 up to 2, 25 x -
24 above, so mu = 1 and L = 25; heavy ball has the constants that are best for quadratics, rate 1/9 and momentum 4/9, and starts
at 3.3.

Rejected broken variants, run below: the ODE without the Hessian's damping discretizes to other iterates; triple momentum with beta
and gamma exchanged diverges.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nearly.optim import Nesterov, TripleMomentum
from nearly.optim.first_order.triple_momentum import _Triple


def spectrum(condition: float) -> Tensor:
    return torch.logspace(-math.log10(condition), 0, 50, dtype=torch.float64)


def decay(condition: float) -> float:
    """Of the ODE's solution over a long time, over sqrt(mu)."""
    values, mu = spectrum(condition), 1 / condition
    system = torch.zeros(50, 2, 2, dtype=torch.float64)
    system[:, 0, 1] = 1
    system[:, 1, 0] = -(1 + math.sqrt(mu)) * values
    system[:, 1, 1] = -(2 * math.sqrt(mu) + values)
    time = 40 / math.sqrt(mu)
    last = torch.linalg.matrix_exp(time * system)[:, 0, 0]
    return -math.log(float(last.norm()) / math.sqrt(50)) / time / math.sqrt(mu)


def discretized(condition: float, steps: int, damping: bool = True) -> Tensor:
    values, root = spectrum(condition), 1 / math.sqrt(condition)
    x = torch.ones(50, dtype=torch.float64)
    before, found = values * x, []
    velocity = -(values * x) * 2 / (1 + root)
    for _ in range(steps):
        x = x + velocity
        found.append(x)
        gradient = values * x
        push = (1 + root) / (1 - root) * gradient + damping * (gradient - before)
        velocity = (velocity - push) / (1 + 2 * root / (1 - root))
        before = gradient
    return torch.stack(found)


def nesterov(condition: float, steps: int) -> Tensor:
    values = spectrum(condition)
    x = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    optimizer, found = Nesterov([x], lr=1.0, strong_convexity=1 / condition), []
    for _ in range(steps):
        x.grad = values * x.detach()
        optimizer.step()
        found.append(x.detach().clone())
    return torch.stack(found)


def piecewise(make: Any, steps: int) -> list[float]:
    """Distances to the minimizer, 0, of Lessard's loss."""
    x = torch.nn.Parameter(torch.tensor([3.3], dtype=torch.float64))
    optimizer, found = make([x]), []
    for _ in range(steps):
        at = float(x.detach())
        x.grad = torch.tensor([25 * at if at < 1 else at + 24 if at < 2 else 25 * at - 24], dtype=torch.float64)
        optimizer.step()
        found.append(abs(float(x.detach())))
    return found


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
def test_dynamics(condition: float, record: Any) -> None:
    rate = decay(condition)
    record(claim=f"230: decay of the ODE over sqrt(mu), condition {condition:g} (bar)", measured=rate, baseline=0.9)
    assert rate >= 0.9
    true = nesterov(condition, 300)
    gap, broken = (float((discretized(condition, 300, damping) - true).abs().max()) for damping in (True, False))
    record(
        claim=f"230: discretized ODE against Nesterov's iterates, condition {condition:g} (no Hessian damping)",
        measured=gap,
        baseline=broken,
    )
    assert gap <= 1e-10 < broken


def test_piecewise_quadratic(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = piecewise(lambda p: TripleMomentum(p, lr=1 / 25, strong_convexity=1.0), 100)[-1]
    ball = piecewise(lambda p: torch.optim.SGD(p, lr=1 / 9, momentum=4 / 9), 3000)
    accelerated = piecewise(lambda p: Nesterov(p, lr=1 / 25, strong_convexity=1.0), 100)[-1]
    record(
        claim="230: distance on the piecewise quadratic after 100 steps (Nesterov, heavy ball after 3,000)",
        measured=ours,
        baseline=f"{accelerated:.3g}, {max(ball[-3:]):.3g}",
    )
    assert ours <= 1e-8
    assert max(ball[-3:]) >= 0.1
    assert all(abs(ball[i] - ball[i - 3]) <= 1e-12 for i in (-1, -2, -3))

    def swapped(self: Any, updates: list[Tensor], step: Any) -> list[Tensor]:
        r, mean = self.rate, step.state("momentum")
        decay, look = r**2 / ((1 + r) * (2 - r)), r**2 / (2 - r)
        found = torch._foreach_mul(mean, -(1 + r) * look)
        torch._foreach_mul_(mean, decay)
        torch._foreach_add_(mean, updates)
        return list(torch._foreach_add(found, mean, alpha=(1 + r) * (1 + look)))

    monkeypatch.setattr(_Triple, "__call__", swapped)
    broken = piecewise(lambda p: TripleMomentum(p, lr=1 / 25, strong_convexity=1.0), 100)[-1]
    record(claim="230: the same with beta and gamma exchanged (bar)", measured=broken, baseline=1e-8)
    assert not broken <= 1e-8
