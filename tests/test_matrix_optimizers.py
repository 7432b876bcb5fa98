"""Muon and its kin, Adafactor and FRUGAL take the steps that their papers, or torch, define."""

import pytest
import torch
from torch import nn

from nearly.optim import Adafactor, AdaMuon, AuON, Frugal, Muon, TrustRegion, held_bytes

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4)]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def trained(make, steps=4, shapes=SHAPES, dtype=torch.float64):
    """Parameters after some steps with gradients that depend on them."""
    parameters = [nn.Parameter(normal(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]
    optimizer = make(parameters)
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = normal(*parameter.shape, seed=100 * step + i, dtype=dtype) + 0.1 * parameter.detach()
        optimizer.step()
    return parameters


def naive(update, steps=4, shapes=SHAPES):
    """The same by a function `update(parameter, gradient, state, number)` for one parameter at a time."""
    parameters = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    states = [{} for _ in parameters]
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            gradient = normal(*parameter.shape, seed=100 * step + i) + 0.1 * parameter
            parameters[i] = update(parameter, gradient, states[i], step + 1)
    return parameters


def close(first, second, tolerance=1e-9):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def polar(matrix):
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left * (values > 1e-9)) @ right  # signs may be singular


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_takes_the_steps_of_torch(adjust, nesterov):
    settings = {"lr": 0.03, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": adjust}
    shapes = [(64, 48), (48, 64), (32, 32)]
    ours = trained(lambda p: Muon(p, schedule="muon", **settings), shapes=shapes, dtype=torch.float32)
    theirs = trained(lambda p: torch.optim.Muon(p, **settings), shapes=shapes, dtype=torch.float32)
    close(ours, theirs, 1e-5)


def test_exact_muon_is_the_polar_factor_of_momentum():
    def update(p, g, state, number):
        m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        return (1 - 0.03 * 0.1) * p - 0.03 * max(1.0, len(p) / p.shape[1]) ** 0.5 * polar(0.1 * g + 0.9 * m)

    ours = trained(lambda p: Muon(p, lr=0.03, weight_decay=0.1, momentum=0.9, schedule="svd"))
    close(ours, naive(update))


@pytest.mark.parametrize("norm", ["spectral", "l2", "linf"])
def test_steps_of_a_length_in_a_norm(norm):

    def update(p, g, state, number):
        m = state["m"] = 0.8 * state.get("m", 0.0) + 0.2 * g
        direction = {"spectral": polar, "linf": torch.sign, "l2": lambda one: one / one.norm()}[norm](m)
        return (1 - 0.1 * 0.2) * p - 0.1 * direction

    shapes = SHAPES[:1] if norm == "l2" else SHAPES
    ours = trained(lambda p: TrustRegion(p, lr=0.1, momentum=0.8, weight_decay=0.2, norm=norm), shapes=shapes)
    close(ours, naive(update, shapes=shapes))


def test_the_l2_norm_is_that_of_all_parameters():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    optimizer = TrustRegion(parameters, lr=0.5, norm="l2")
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.cat([one.detach().flatten() for one in parameters]).norm().item() == pytest.approx(0.5)


def test_adamuon_is_as_defined():
    def update(p, g, state, number):
        m = state["m"] = 0.9 * state.get("m", 0.0) + g
        o = polar(m.sign())
        v = state["v"] = 0.9 * state.get("v", 0.0) + 0.1 * o**2
        found = o / (v.sqrt() + 1e-8)
        return (1 - 0.01 * 0.1) * p - 0.01 * 0.2 * p.numel() ** 0.5 / found.norm() * found

    close(trained(lambda p: AdaMuon(p, lr=0.01, momentum=0.9, schedule="svd")), naive(update), 1e-7)


def test_auon_is_as_defined_and_bounded():
    def update(p, g, state, number):
        m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        m = 0.1 * g + 0.9 * m
        x = m / m.norm()
        found = x / (1.5 * x).cosh().square().mean().sqrt()
        assert torch.linalg.matrix_norm(found, 2) < 1
        return (1 - 0.1 * 0.2) * p - 0.1 * found

    close(trained(lambda p: AuON(p, lr=0.1, weight_decay=0.2, momentum=0.9)), naive(update))


def test_hybrid_auon_orthogonalizes_by_one_step():
    parameter = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    optimizer = AuON([parameter], lr=1.0, hybrid=True)
    parameter.grad = torch.diag(torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))
    optimizer.step()
    values = torch.linalg.svdvals(parameter.detach())
    x = parameter.grad / parameter.grad.norm()
    one = torch.linalg.svdvals(3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x)
    torch.testing.assert_close(values / values.norm(), one / one.norm())


def test_adafactor_takes_the_steps_of_torch():
    shapes = [*SHAPES, (7,), (1,)]
    for rate in (1e-2, 2.0):
        ours = trained(lambda p, rate=rate: Adafactor(p, lr=rate, weight_decay=0.01), shapes=shapes)
        theirs = trained(
            lambda p, rate=rate: torch.optim.Adafactor(p, lr=rate, weight_decay=0.01, foreach=False), shapes=shapes
        )
        close(ours, theirs)


def test_adafactor_keeps_rows_and_columns():
    parameter = nn.Parameter(torch.ones(300, 200))
    optimizer = Adafactor([parameter])
    parameter.grad = torch.ones(300, 200)
    optimizer.step()
    assert held_bytes(optimizer) == 4 * (300 + 200)


def test_factored_moments_are_exact_for_squares_of_rank_one():
    rows, columns = normal(6).abs(), normal(4, seed=1).abs()
    gradients = [normal(1, seed=2 + i).item() * (rows[:, None] * columns).sqrt() for i in range(5)]
    signs = [normal(6, 4, seed=20 + i).sign() for i in range(5)]
    parameter = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = Adafactor([parameter], lr=1e-9, floor=1e9, clip=1e9)  # steps of u itself
    mean = torch.zeros(6, 4, dtype=torch.float64)
    for t, (gradient, sign) in enumerate(zip(gradients, signs, strict=True), 1):
        before = parameter.detach().clone()
        parameter.grad = sign * gradient
        optimizer.step()
        mean.lerp_(parameter.grad**2, t**-0.8)
        torch.testing.assert_close(before - parameter.detach(), parameter.grad / mean.sqrt())


def test_frugal_is_adam_on_its_rows_and_signs_elsewhere():
    parameter, twin = (nn.Parameter(torch.zeros(8, 3)) for _ in range(2))
    optimizer = Frugal([parameter], lr=0.1, parts=4, every=3)
    adam = None
    seen = []
    for step in range(9):
        gradient = normal(8, 3, seed=step, dtype=torch.float32)
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
        first = optimizer.state[parameter]["first"]
        rows = slice(first, first + 2)
        if step % 3 == 0:
            seen.append(first)
            adam = torch.optim.Adam([twin], lr=0.1)
        twin.data = before.clone()
        twin.grad = gradient
        adam.step()
        moved = parameter.detach() - before
        torch.testing.assert_close(moved[rows], (twin.detach() - before)[rows], rtol=1e-4, atol=1e-6)
        others = torch.ones(8, dtype=torch.bool)
        others[rows] = False
        torch.testing.assert_close(moved[others], -0.1 * gradient[others].sign())
    assert len(set(seen)) > 1
    assert held_bytes(optimizer) == 2 * 4 * 2 * 3


def test_frugal_on_rows_that_cannot_be_cut_keeps_one_more():
    parameter = nn.Parameter(torch.zeros(5, 2))
    optimizer = Frugal([parameter], parts=4)
    parameter.grad = torch.ones(5, 2)
    optimizer.step()
    assert held_bytes(optimizer) == 2 * 4 * 2 * 2
