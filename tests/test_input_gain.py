"""Optimal input gains against the paper's equations, written out row by row, and what is refused."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import OptimalInputGain
from nearly.optim.newton._one_hidden_layer import least_solution

DRAW = torch.Generator().manual_seed(0)
ROWS = torch.randn(30, 3, dtype=torch.float64, generator=DRAW) @ torch.randn(3, 3, dtype=torch.float64, generator=DRAW)
TARGETS = torch.stack([ROWS[:, 0].sin() * ROWS[:, 1], ROWS[:, 2].tanh()], 1)


def network(hidden=5, activation=None):
    model = nn.Sequential(nn.Linear(3, hidden), activation or nn.Tanh(), nn.Linear(hidden, 2)).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw))
    return model


def trained(steps, model=None, reduction="mean", **settings):
    model = model or network()
    optimizer = OptimalInputGain(model.parameters(), module=model, **settings)
    sums = nn.MSELoss(reduction=reduction)
    losses = [float(optimizer.step(lambda: sums(model(ROWS), TARGETS)).detach()) for _ in range(steps)]
    return model, losses


def with_ones(x):
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def naive(steps, direction, gains):
    model = network()
    w = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach()
    x = with_ones(ROWS)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    a = torch.diag(values**-0.5) @ vectors.T if direction == "hidden_weight" else torch.eye(4, dtype=torch.float64)
    for _ in range(steps):
        o = with_ones((x @ w.T).tanh())
        v = torch.linalg.lstsq(o, TARGETS).solution.T
        e = TARGETS - o @ v.T
        bend = 1 - o[:, :-1] ** 2
        g = sum(torch.outer(bend[p] * (v[:, :-1].T @ e[p]), x[p]) for p in range(30)) @ a.T
        square, slope = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for p in range(30):
            for i in range(2):
                j = torch.stack(
                    [(a @ x[p])[m] * sum(v[i, k] * bend[p, k] * g[k, m] for k in range(5)) for m in range(4)]
                )
                square, slope = square + torch.outer(j, j), slope + j * e[p, i]
        r = torch.linalg.solve(square, slope) if gains else (slope.sum() / square.sum()).expand(4)
        w = w + g @ torch.diag(r) @ a
    o = with_ones((x @ w.T).tanh())
    return w, torch.linalg.lstsq(o, TARGETS).solution.T


@pytest.mark.parametrize("direction", ["hidden_weight", "backpropagation"])
@pytest.mark.parametrize("gains", [True, False])
def test_steps(direction, gains):
    model, _ = trained(3, direction=direction, gains=gains)
    w, v = naive(3, direction, gains)
    for layer, theirs in ((model[0], w), (model[2], v)):
        ours = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_scale_of_the_loss_does_not_matter():
    first, second = trained(4)[0], trained(4, reduction="sum")[0]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_no_step_raises_the_loss():
    _, losses = trained(40, network(12), lr=1.0)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(losses))
    assert losses[-1] < losses[1] / 2


def test_moves_that_raise_the_errors_are_halved():
    class Steep(nn.Module):
        def forward(self, x):
            return (8 * x).sin()

    _, losses = trained(25, network(2, Steep()))
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(losses))
    _, free = trained(25, network(2, Steep()), halvings=0)
    assert losses[-1] < free[-1]


def test_singular_equations_have_the_least_solution():
    half = torch.randn(6, 3, dtype=torch.float64, generator=DRAW)
    right = half @ torch.randn(3, 2, dtype=torch.float64, generator=DRAW)
    found = least_solution(half @ half.T, right)
    torch.testing.assert_close(found, torch.linalg.pinv(half @ half.T) @ right, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)),
    ],
)
def test_other_modules_are_refused(module):
    with pytest.raises(BadInput, match="activation without parameters"):
        OptimalInputGain(module.parameters(), module=module)


def test_other_losses_are_refused():
    model = network()
    optimizer = OptimalInputGain(model.parameters(), module=model)
    with pytest.raises(BadInput, match="sum of squared errors"):
        optimizer.step(lambda: nn.functional.cross_entropy(model(ROWS), TARGETS.argmax(1)))


def test_copies_go_on():
    model = network()
    optimizer = OptimalInputGain(model.parameters(), module=model)
    assert copy.deepcopy(optimizer).recipe(optimizer.param_groups[0])
