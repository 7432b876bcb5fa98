"""Step-size members against their papers' formulas, step by step, on a small regression whose least loss is 0."""

import math

import pytest
import torch

from nearly.core.errors import BadInput
from nearly.optim import AdaGradNorm, MomentumPolyak, Nesterov, Sania, StochasticModelBuilding, TripleMomentum

DRAW = torch.Generator().manual_seed(0)
ROWS = torch.randn(12, 4, dtype=torch.float64, generator=DRAW)
TRUE = torch.randn(4, dtype=torch.float64, generator=DRAW)
START = torch.randn(4, dtype=torch.float64, generator=DRAW)


def loss(x):
    return (ROWS @ (x - TRUE)).square().mean() / 2


def gradient(x):
    return ROWS.T @ (ROWS @ (x - TRUE)) / len(ROWS)


HESSIAN = ROWS.T @ ROWS / len(ROWS)


def trained(member, steps, f=loss, **settings):
    """The parameters after each step, in two tensors as the members see them."""
    parts = [torch.nn.Parameter(START[:1].clone()), torch.nn.Parameter(START[1:].clone().reshape(3, 1))]
    optimizer, found = member(parts, **settings), []

    def closure():
        return f(torch.cat([part.flatten() for part in parts]))

    for _ in range(steps):
        if optimizer.card["needs"]:
            optimizer.step(closure)
        else:
            optimizer.zero_grad()
            closure().backward()
            optimizer.step()
        found.append(torch.cat([part.detach().flatten() for part in parts]))
    return found


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("share", "most"), [(1.0, None), (0.5, None), (0.5, 0.1)])
def test_momentum_polyak_with_a_moving_sum(share, most):
    x, d, found = START.clone(), torch.zeros(4, dtype=torch.float64), []
    for _ in range(8):
        d = 0.9 * d + gradient(x)
        x = x - min(float(loss(x) / share / (d @ d)), most or math.inf) * d
        found.append(x)
    same(trained(MomentumPolyak, 8, share=share, most=most), found)


def test_momentum_polyak_with_heavy_ball():
    before, x, found = START.clone(), START.clone(), []
    for _ in range(8):
        g = gradient(x)
        rate = max(float((loss(x) + 1 + 0.9 * g @ (x - before)) / (g @ g)), 0.0)
        before, x = x, x - rate * g + 0.9 * (x - before)
        found.append(x)
    same(trained(MomentumPolyak, 8, average=False, floor=-1.0), found)


@pytest.mark.parametrize("preconditioner", ["adagrad", "adam", "newton"])
def test_sania(preconditioner):
    x, total, found = START.clone(), torch.zeros(4, dtype=torch.float64), []
    for t in range(1, 7):
        g = gradient(x)
        if preconditioner == "newton":
            direction = torch.linalg.solve(HESSIAN + 0.1 * torch.eye(4, dtype=torch.float64), g)
        elif preconditioner == "adagrad":
            total = total + g**2
            direction = g / (total + 0.1)
        else:
            total = 0.9 * total + 0.1 * g**2
            direction = g / (total / (1 - 0.9**t) + 0.1)
        ratio = float(2 * loss(x) / (g @ direction))
        x = x - (1 - math.sqrt(1 - ratio) if ratio <= 1 else 1.0) * direction
        found.append(x)
    same(trained(Sania, 6, preconditioner=preconditioner, decay=0.9, eps=0.1), found)


def test_sania_estimates_a_diagonal_hessian_exactly():
    diagonal = torch.tensor([1.0, 4.0, -0.5, 2.0], dtype=torch.float64)

    def bowl(x):
        return (diagonal * x**2).sum() / 2 + 20

    first = trained(Sania, 1, f=bowl, preconditioner="hutchinson", eps=0.0)[0]
    torch.testing.assert_close(first, START - START * diagonal.sign())


def test_sania_asks_for_curvature_where_the_preconditioner_needs_it():
    x = torch.nn.Parameter(START.clone())
    optimizer = Sania([x], preconditioner="newton")

    def closure():
        value = loss(x)
        value.backward()
        return value

    with pytest.raises(BadInput, match=r"does not call backward\(\), as Sania asks for Hessian-vector products"):
        optimizer.step(closure)


def test_model_building_is_the_papers_step():
    lr, shrink, found, x = 1.5, 0.9, [], START.clone()
    took = []
    for _ in range(6):
        g, s = gradient(x), -lr * gradient(x)
        there = gradient(x + s)
        took.append(bool(loss(x + s) > loss(x) - 0.1 * lr * g @ g))
        if not took[-1]:
            x = x + s
        else:
            step = torch.empty_like(x)
            for part in (slice(0, 1), slice(1, 4)):
                gp, sp, y = g[part], s[part], there[part] - g[part]
                ys, ss, yy, yg, sg = y @ sp, sp @ sp, y @ y, y @ gp, sp @ gp
                sigma = 0.5 * (ss.sqrt() * (yy.sqrt() + gp.norm() / shrink) - ys)
                theta = (ys + 2 * sigma) ** 2 - ss * yy
                cg = -ss / (2 * sigma)
                cs = cg / theta * (-(ys + 2 * sigma) * yg + yy * sg)
                cy = cg / theta * (-(ys + 2 * sigma) * sg + ss * yg)
                step[part] = cg * gp + cs * sp + cy * y
                assert step[part].norm() <= shrink * sp.norm() * (1 + 1e-12)
            x = x + step
        found.append(x)
    assert any(took)
    same(trained(StochasticModelBuilding, 6, lr=lr, shrink=shrink, window=None), found)


def test_model_building_changes_its_rate_after_each_window():
    x = torch.nn.Parameter(START.clone())
    optimizer = StochasticModelBuilding([x], lr=1e-3, window=2)
    for _ in range(5):
        optimizer.step(lambda: loss(x))
    assert optimizer.state[x]["shared"]["factor"] == pytest.approx(0.9**-2)
    steep = StochasticModelBuilding([x], lr=1e3, window=1)
    steep.step(lambda: loss(x))
    assert steep.state[x]["shared"]["factor"] == pytest.approx(0.9)


def test_adagrad_norm():
    x, total, found = START.clone(), 0.25, []
    for _ in range(6):
        g = gradient(x)
        total += float(g @ g)
        x = x - 2.0 * g / math.sqrt(total)
        found.append(x)
    same(trained(AdaGradNorm, 6, lr=2.0, start=0.5), found)


@pytest.mark.parametrize("mu", [0.0, 0.2])
def test_nesterov(mu):
    w = y = START.clone()
    found = []
    for k in range(1, 9):
        before, w = w, y - 0.3 * gradient(y)
        momentum = (1 - math.sqrt(0.3 * mu)) / (1 + math.sqrt(0.3 * mu)) if mu else (k - 1) / (k + 2)
        y = w + momentum * (w - before)
        found.append(y)
    same(trained(Nesterov, 8, lr=0.3, strong_convexity=mu), found)


def test_triple_momentum():
    smooth, mu = 4.0, 0.2
    rho = 1 - math.sqrt(mu / smooth)
    alpha, beta, gamma = (1 + rho) / smooth, rho**2 / (2 - rho), rho**2 / ((1 + rho) * (2 - rho))
    before = now = y = START.clone()
    found = []
    for _ in range(8):
        before, now = now, now + beta * (now - before) - alpha * gradient(y)
        y = now + gamma * (now - before)
        found.append(y)
    same(trained(TripleMomentum, 8, lr=1 / smooth, strong_convexity=mu), found)


@pytest.mark.parametrize("member", [Nesterov, TripleMomentum])
def test_strong_convexity_above_smoothness_is_plain_descent(member):
    ours = trained(member, 3, lr=0.3, strong_convexity=10.0)
    x, found = START.clone(), []
    for _ in range(3):
        x = x - 0.3 * gradient(x)
        found.append(x)
    same(ours, found)
