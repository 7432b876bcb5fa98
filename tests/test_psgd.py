"""PSGD against its formulas with the factor written out as a matrix, and where products vanish."""

import pytest
import torch

from nearly.optim import PSGD

DRAW = torch.Generator().manual_seed(0)
HALF = torch.randn(7, 7, dtype=torch.float64, generator=DRAW)
HESSIAN = HALF @ HALF.T + 0.1 * torch.eye(7, dtype=torch.float64)
START = torch.randn(7, dtype=torch.float64, generator=DRAW)


def quartic(x):
    return x @ HESSIAN @ x / 2 + x.pow(4).sum() / 4


def curvature(x):
    return HESSIAN + 3 * torch.diag(x * x)


def trained(steps, loss=quartic, **settings):
    pieces = [torch.nn.Parameter(START[:1].clone()), torch.nn.Parameter(START[1:].clone().reshape(2, 3))]
    optimizer, found = PSGD(pieces, **settings), []
    for _ in range(steps):
        optimizer.step(lambda: loss(torch.cat([piece.flatten() for piece in pieces])))
        found.append(torch.cat([piece.detach().flatten() for piece in pieces]))
    return torch.stack(found), optimizer


def draws(number, rank):
    """As `Step.generator` makes them for the seed 0 and the first group."""
    generator = torch.Generator().manual_seed(number)
    vector = torch.randn(7, generator=generator).double()
    return vector, torch.randn(2, 7, rank, generator=generator).double() if rank else None


def first_scale(h):
    return h.pow(4).mean() ** -0.125


@pytest.mark.parametrize(("rank", "every", "clip"), [(2, 1, None), (3, 2, 0.05), (9, 1, None)])
def test_low_rank_steps(rank, every, clip):
    x, mean, rate, found = START.clone(), torch.zeros(7, dtype=torch.float64), 0.3, []
    eye = torch.eye(7, dtype=torch.float64)
    for number in range(1, 221):
        if (number - 1) % every == 0:
            v, spread = draws(number, rank)
            h = curvature(x) @ v
            count = (number - 1) // every
            if count == 0:
                d = first_scale(h) * torch.ones(7, dtype=torch.float64)
                one, other = spread / (7 * (rank + 10)) ** 0.5
            if count % 100 == 99:
                ratio = (one.norm() / other.norm()) ** 0.5
                one, other = one / ratio, other * ratio
            q = (eye + one @ other.T) @ torch.diag(d)
            p = q.T @ q
            a, b = q @ h, torch.linalg.solve(q.T, v)
            slope = p @ h * h - v * torch.linalg.solve(p, v)
            most = max(
                ((p @ h)[i] ** 2 + v[i] ** 2) ** 0.5 * (h[i] ** 2 + torch.linalg.solve(p, v)[i] ** 2) ** 0.5
                for i in range(7)
            )
            d = d - rate / most * slope * d
            bracket = torch.outer(a, a) - torch.outer(b, b)
            core = eye + one @ other.T
            if count % 2 == 0:
                most = a.norm() * (other @ other.T @ a).norm() + b.norm() * (other @ other.T @ b).norm()
                one = one - rate / most * bracket @ other @ (torch.eye(rank).double() + other.T @ one)
            else:
                most = a.norm() * (one @ one.T @ a).norm() + b.norm() * (one @ one.T @ b).norm()
                other = other - rate / most * core.T @ bracket @ one
        q = (eye + one @ other.T) @ torch.diag(d)
        mean = 0.5 * mean + 0.5 * (HESSIAN @ x + x**3)
        step = q.T @ q @ mean
        if clip is not None:
            step = step * min(1.0, clip / float(step.norm()))
        x = x - 0.1 * step
        found.append(x)
    ours, _ = trained(220, lr=0.1, rank=rank, every=every, clip=clip, momentum=0.5)
    torch.testing.assert_close(ours, torch.stack(found), rtol=1e-6, atol=1e-9)


def test_both_factors_stay_of_one_size():
    _, optimizer = trained(100, rank=2, lr=0.1, fit_rate=0.9)
    shared = optimizer.state[optimizer.param_groups[0]["params"][0]]["shared"]
    assert 0.9 < float(shared["one"].norm() / shared["other"].norm()) < 1.1


def test_xmat_steps():
    x, rate, found = START.clone(), 0.3, []
    for number in range(1, 31):
        v, _ = draws(number, 0)
        h = curvature(x) @ v
        if number == 1:
            q = first_scale(h) * torch.eye(7, dtype=torch.float64)
        a, b = q @ h, torch.linalg.solve(q.T, v)
        bracket = torch.outer(a, a) - torch.outer(b, b)
        cross = (torch.eye(7) + torch.eye(7).flip(0) > 0).double()
        q = q - rate / (a * a + b * b).max() * (bracket * cross) @ q
        x = x - 0.1 * q.T @ q @ (HESSIAN @ x + x**3)
        found.append(x)
    ours, _ = trained(30, preconditioner="xmat", lr=0.1, momentum=0.0)
    torch.testing.assert_close(ours, torch.stack(found), rtol=1e-8, atol=1e-11)


def test_a_hessian_of_the_group_is_inverted():
    cross = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 3.0, 4.0, 0.5]))
    cross = (cross + torch.diag(torch.tensor([1.0, 2.0, -1.0, 0.0, -1.0, 2.0, 1.0])).flip(0)).double()
    _, optimizer = trained(2000, lambda x: x @ cross @ x / 2, preconditioner="xmat", lr=0.0, momentum=0.0)
    shared = optimizer.state[optimizer.param_groups[0]["params"][0]]["shared"]
    q = torch.diag(shared["scale"]) + torch.diag(shared["one"]).flip(1)
    torch.testing.assert_close(q.T @ q @ cross, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preconditioner", ["low_rank", "xmat"])
def test_parameters_that_the_loss_does_not_depend_on(preconditioner):
    x = torch.nn.Parameter(torch.ones(6))
    optimizer = PSGD([x], preconditioner=preconditioner, rank=2, lr=0.01)
    for _ in range(1000):
        optimizer.step(lambda: (x[:3] - 2).square().sum() + 0.0 * x.sum())
    scale = optimizer.state[x]["shared"]["scale"]
    assert bool(torch.isfinite(scale).all())
    assert float(scale.max()) < 100
    torch.testing.assert_close(x[:3].detach(), torch.full((3,), 2.0), rtol=0, atol=0.01)
    assert float(x.detach().abs().max()) < 10


def test_without_curvature_steps_are_those_of_momentum():
    x = torch.nn.Parameter(torch.ones(3))
    optimizer = PSGD([x], lr=0.5, momentum=0.0)
    optimizer.step(lambda: x.sum())
    assert x.tolist() == [0.5, 0.5, 0.5]
