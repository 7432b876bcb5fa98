"""The formulas that stand in for simulations, against values known otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from nearly.core.errors import BadInput
from nearly.problems.borehole import borehole
from nearly.problems.robot_arm import robot_arm
from nearly.problems.rosenbrock import rosenbrock
from nearly.problems.wing_weight import wing_weight


def at(target, *point: float) -> float:
    return float(target(torch.tensor([point], dtype=torch.float64)))


def test_borehole_equals_the_printed_formula() -> None:
    rw, r, tu, hu, tl, hl, length, kw = 0.1, 2_000.0, 80_000.0, 1_050.0, 90.0, 750.0, 1_400.0, 10_950.0
    log = math.log(r / rw)
    flow = 2 * math.pi * tu * (hu - hl) / (log * (1 + 2 * length * tu / (log * rw**2 * kw) + tu / tl))
    assert at(borehole(), rw, r, tu, hu, tl, hl, length, kw) == pytest.approx(flow, rel=1e-14)
    assert float(borehole()(borehole().domain.sample(1000, 0)).min()) > 5
    assert float(borehole()(borehole().domain.sample(1000, 0)).max()) < 310


def test_wing_of_the_cessna_weighs_what_the_book_says() -> None:
    # Forrester, Sobester and Keane 2008, table 1.1: the baseline of a Cessna C172 Skyhawk, and its 11.1 lb of paint.
    assert at(wing_weight(), 174, 252, 7.52, 0, 34, 0.672, 0.12, 3.8, 2000, 0.064) == pytest.approx(245, abs=0.1)
    bare = at(wing_weight(), 174, 252, 7.52, 0, 34, 0.672, 0.12, 3.8, 2000, 0.0)
    assert bare == pytest.approx(234, abs=0.5)
    swept = at(wing_weight(), 174, 252, 7.52, 10, 34, 0.672, 0.12, 3.8, 2000, 0.0)
    assert swept / bare == pytest.approx(math.cos(math.radians(10)) ** (0.3 - 1.2), rel=1e-12)


def test_robot_arm_reaches_what_geometry_says() -> None:
    assert at(robot_arm(), 1.0, 0.4, 0.5, math.pi) == pytest.approx(0.5)
    assert at(robot_arm(), 0.6, 2.0, 0.8, math.pi / 2) == pytest.approx(1.0)
    assert at(robot_arm(links=3), 1, 0.1, 1, 2 * math.pi / 3, 1, 2 * math.pi / 3) == pytest.approx(0, abs=1e-15)
    assert robot_arm(links=4).domain.dimension == 8


def test_rosenbrock_is_least_at_ones() -> None:
    ones = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
    rosenbrock().f(ones).sum().backward()
    assert ones.grad is not None
    assert float(ones.grad.abs().max()) == 0
    assert at(rosenbrock(2), -1.2, 1.0) == pytest.approx(24.2)


@pytest.mark.parametrize("bad", [0, 1.5, None, True])
def test_sizes_are_checked(bad) -> None:
    with pytest.raises(BadInput, match="links"):
        robot_arm(links=bad)
    with pytest.raises(BadInput, match="dimension"):
        rosenbrock(dimension=bad)
