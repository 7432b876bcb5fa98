"""Burgers and Allen-Cahn on a period: order in time, exact solutions, what is conserved, and the random initial conditions."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from nearly.core.errors import BadInput, SolverFailed
from nearly.problems import allen_cahn, burgers
from nearly.problems._periodic import Equation, Stepper, gaussian_field


def _cole_hopf(initial, viscosity, time, fine=4096):
    """Burgers' solution for initial conditions without a mean: `u = -2 nu (log phi)_x` with phi from the heat equation."""
    n, points = initial.shape
    modes = torch.fft.rfft(initial, norm="forward")[:, : points // 2]
    k = 2j * math.pi * torch.arange(points // 2)
    potential = torch.fft.irfft(torch.cat([torch.zeros(n, 1), modes[:, 1:] / k[1:]], dim=1), n=fine, norm="forward")
    phi = torch.fft.rfft(torch.exp((potential.amin(dim=1, keepdim=True) - potential) / (2 * viscosity)))
    k = 2j * math.pi * torch.arange(fine // 2 + 1, dtype=torch.float64)
    phi = phi * (viscosity * time * k**2).exp()
    u = -2 * viscosity * torch.fft.irfft(k * phi, n=fine) / torch.fft.irfft(phi, n=fine)
    return u[:, :: fine // points]


@pytest.mark.parametrize(("viscosity", "tolerance"), [(0.1, 2e-6), (0.01, 2e-6)])
def test_burgers_agrees_with_the_cole_hopf_formula(viscosity, tolerance):
    target = burgers(viscosity=viscosity)
    initial = target.sample(32, 0)
    errors = target.error(_cole_hopf(initial, viscosity, 1.0), target(initial))
    assert errors.max() < tolerance
    assert errors.median() < tolerance / 5


def test_both_equations_are_galilean_or_symmetric_as_they_should_be():
    target = burgers(128, times=4, steps=80, time=1.0)
    initial = target.sample(3, 1)
    plain, moved = target(initial), target(initial + 0.25)  # u + c, seen from a frame that moves by 1/4 in all
    assert plain.shape == (3, 4, 128)
    torch.testing.assert_close(moved[:, -1], plain[:, -1].roll(32, dims=-1) + 0.25, atol=2e-6, rtol=0.0)
    torch.testing.assert_close(moved.mean(dim=-1), (initial.mean(dim=-1) + 0.25)[:, None].expand(3, 4))
    torch.testing.assert_close(burgers(128, time=0.25, steps=20)(initial), plain[:, 0], atol=1e-14, rtol=0.0)
    phases = allen_cahn(128)
    torch.testing.assert_close(phases(-initial), -phases(initial), atol=1e-12, rtol=0.0)


def test_allen_cahn_of_a_constant_is_the_logistic_equation():
    start, rate = torch.tensor([0.1, -0.3, 1.5], dtype=torch.float64), 5.0
    square = 1 / (1 + (1 / start**2 - 1) * math.exp(-2 * rate * 0.3))
    got = allen_cahn(8, reaction=rate, time=0.3).solver(start[:, None].expand(3, 8))
    torch.testing.assert_close(got, (start.sign() * square.sqrt())[:, None].expand(3, 8), atol=1e-9, rtol=0.0)


def test_an_allen_cahn_wall_keeps_its_shape():
    x = -1 + 2 * torch.arange(512, dtype=torch.float64) / 512
    width = math.sqrt(2 * 1e-3 / 5.0)  # two walls half a period apart: each is tanh(x / width)
    walls = torch.tanh((x + 0.5) / width) * torch.tanh((0.5 - x) / width)
    got = allen_cahn(512, diffusion=1e-3).solver(walls)
    torch.testing.assert_close(got, walls, atol=1e-8, rtol=0.0)


@pytest.mark.parametrize("build", [partial(burgers, viscosity=0.02), allen_cahn])
def test_fourth_order_in_time(build):
    x = torch.arange(64, dtype=torch.float64) / 64
    initial = 0.5 * torch.sin(2 * math.pi * x) + 0.2 * torch.cos(4 * math.pi * x)
    exact = build(64, steps=1280).solver(initial)
    errors = [float((build(64, steps=steps).solver(initial) - exact).norm()) for steps in (40, 80, 160)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(3.8 < order < 4.2 for order in orders), orders


@pytest.mark.parametrize("degree", [2, 3])
def test_products_fold_onto_no_mode(degree):
    equation = Equation(1.0, lambda k: -k, lambda u, to_modes, k: to_modes(u**degree), degree)
    stepper = Stepper(equation, 16, 0.1)
    modes = torch.randn(8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    modes[0] = 0.5  # real, as the mean is
    fine = stepper.to_modes(stepper.to_values(modes, 128) ** degree)  # 128 points have all of the product's modes
    torch.testing.assert_close(stepper.change(modes), fine)


@pytest.mark.parametrize("build", [burgers, allen_cahn])
def test_coarser_solvers_are_coarser_and_close(build):
    target = build(256, times=3, steps=201)
    initial = target.sample(20, 2)
    exact = target(initial)
    errors = [float(target.error(exact, one.solver(initial)).median()) for one in target.coarse]
    assert [one.unknowns for one in target.coarse] == [128, 64, 32]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1] < 0.2
    for one in target.coarse:  # row by row, as the baselines ask
        torch.testing.assert_close(one.solver(initial[3]), one.solver(initial)[3], atol=1e-12, rtol=0.0)


def test_initial_conditions_have_the_stated_covariance():
    fields = gaussian_field(40_000, 32, torch.Generator().manual_seed(0))
    k = torch.arange(1, 16, dtype=torch.float64)
    variance = 2 * (25 / ((2 * math.pi * k) ** 2 + 25)) ** 2
    x = torch.arange(32, dtype=torch.float64) / 32
    expected = (variance[:, None] * torch.cos(2 * math.pi * k[:, None] * x)).sum(dim=0)
    found = (fields[:, :1] * fields).mean(dim=0)
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected[0]), rtol=0.0)
    assert fields.mean(dim=1).abs().max() < 1e-14
    target = burgers(32)
    assert torch.equal(target.sample(3, 5), target.sample(3, 5))


def test_wrong_numbers_are_refused_and_a_blow_up_is_said():
    for bad, named in (
        ({"points": 6}, "points"),
        ({"points": 33}, "points must be even"),
        ({"viscosity": 0.0}, "viscosity"),
        ({"time": float("nan")}, "time"),
        ({"times": 3, "steps": 200}, r"steps must be a multiple of times \(3\)"),
    ):
        with pytest.raises(BadInput, match=named):
            burgers(**bad)
    with pytest.raises(BadInput, match="diffusion"):
        allen_cahn(diffusion=-1.0)
    with pytest.raises(BadInput, match="reaction"):
        allen_cahn(reaction=0.0)
    with pytest.raises(BadInput, match=r"initial condition must be of shape \(..., 64\)"):
        burgers(64).solver(torch.zeros(2, 63))
    with pytest.raises(SolverFailed, match="NaN or infinite"):
        burgers(256, viscosity=0.001, steps=2)(20 * burgers().sample(1, 0))
