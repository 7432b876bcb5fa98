"""AutoKnots against a transcription with lists, its spline against SciPy's, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from nearly.core.domain import Box
from nearly.core.errors import BadInput
from nearly.core.nouns import Function
from nearly.core.supply import Supply
from nearly.functions import AutoKnots


def on(f, low: float = -1.0, high: float = 1.0, **options) -> Function:
    return Function(lambda x: f(x[:, 0]), Box([low], [high], **options))


def naive_knots(f, tolerance: float) -> list[float]:
    """One interval at a time, a flag with each left end, as the reference implementation keeps them."""
    x = np.linspace(-1, 1, 6).tolist()
    closed, looked_again = [False] * 6, False
    while True:
        spline, largest = CubicSpline(x, [f(t) for t in x]), max(abs(f(t)) for t in x)
        widths = np.diff(x)
        limit = widths.mean() + widths.std(ddof=1)
        new, flags, failed = [], [], 0
        for i in range(len(x) - 1):
            new.append(x[i])
            flags.append(closed[i])
            if closed[i]:
                continue
            m, h = (x[i] + x[i + 1]) / 2, x[i + 1] - x[i]
            simpson, integral = h * (f(x[i]) + 4 * f(m) + f(x[i + 1])) / 6, spline.integrate(x[i], x[i + 1])
            rounding = np.finfo(float).eps * largest
            good = abs(f(m) - spline(m)) <= tolerance * abs(f(m)) + rounding
            good = good and abs(simpson - integral) <= tolerance * abs(simpson) + rounding * h
            failed += not good
            flags[-1] = good
            new.append(m)
            flags.append(good)
        x, closed = [*new, x[-1]], [*flags, True]
        if failed:
            continue
        if looked_again:
            return x
        looked_again = True
        for i in range(len(x) - 1):
            closed[i] = x[i + 1] - x[i] <= limit
        if all(closed):
            return x


@pytest.mark.parametrize(
    "f",
    [
        math.exp,
        lambda t: 1 / (1 + 25 * t * t),
        lambda t: 2 + math.tanh(40 * (t - 0.2)),
        lambda t: t**5 - t**3 + 3,
        lambda t: math.cos(7 * t) + 0.1,
    ],
)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_knots_are_those_of_the_reference(f, tolerance: float) -> None:
    vector = on(lambda t: torch.tensor([f(v) for v in t.tolist()], dtype=torch.float64))
    knots = AutoKnots(tolerance=tolerance).fit(vector).model.knots
    np.testing.assert_allclose(knots, naive_knots(f, tolerance), atol=1e-15)


def test_the_integral_counts_where_the_value_alone_would_pass() -> None:
    """Ends of -2 and a middle near 1 make Simpson's integral vanish; outer values c make the spline pass near the middle."""
    t = torch.linspace(-1, 1, 6, dtype=torch.float64)

    def middle(c: float) -> float:
        return float(CubicSpline(t.numpy(), [c, c, -2, -2, c, c])(0))

    c = (1 - middle(0)) / (middle(1) - middle(0))
    y = torch.tensor([c, c, -2, -2, c, c], dtype=torch.float64)[:, None]
    values = torch.tensor([[1 + 5e-4]], dtype=torch.float64)
    missed = AutoKnots(tolerance=1e-3)._misses(t, y, torch.tensor([2]), values)
    simpson = (-4 + 4 * float(values)) / 6
    assert float(missed) == pytest.approx(5e-4 * 2 / 3 / (1e-3 * simpson), rel=1e-6)
    assert float(missed) > 1 > 5e-4 / 1e-3


def test_spline_is_scipys() -> None:
    target = on(torch.exp, 0.0, 3.0)
    surrogate = AutoKnots(tolerance=1e-5).fit(target)
    knots = (1.5 * (1 + surrogate.model.knots)).numpy()
    x = torch.linspace(0, 3, 200, dtype=torch.float64)
    expected = CubicSpline(knots, np.exp(knots))(x.numpy())
    np.testing.assert_allclose(surrogate(x[:, None])[:, 0], expected, rtol=1e-13)
    np.testing.assert_allclose(surrogate(torch.from_numpy(knots)[:, None])[:, 0], np.exp(knots), rtol=1e-14)


def test_every_evaluation_becomes_a_knot_and_their_number_is_kept() -> None:
    target = on(lambda t: 1 / (1e-4 + t**2))
    for samples in (6, 7, 50, 300):
        supply = Supply(target, 0)
        model = AutoKnots(samples=samples, tolerance=1e-12).fit(target, supply=supply).model
        assert supply.evaluations == samples == len(model.knots)
        assert (model.knots.diff() > 0).all()
    # Where they do not suffice for all intervals the worst ones, next to the peak, come first.
    knots = AutoKnots(samples=50, tolerance=1e-12).fit(target).model.knots
    narrow = knots.diff() < 0.04
    assert narrow.sum() == 18
    assert float(knots[1:][narrow].abs().max()) < 0.3


def test_zeros_jumps_and_constants_end() -> None:
    assert len(AutoKnots(tolerance=1e-3).fit(on(lambda t: t)).model.knots) == 11
    zero = Function(lambda x: 0 * x[:, 0], Box([0.0], [1.0]), metric="absolute")
    assert len(AutoKnots().fit(zero).model.knots) == 11
    flat_then_zero = AutoKnots(tolerance=1e-6).fit(on(lambda t: (t - 0.1).clamp(min=0) ** 4))
    assert len(flat_then_zero.model.knots) < 2000
    jump = AutoKnots(tolerance=1e-6).fit(on(lambda t: torch.where(t < 0.3, 1.0, 2.0).double()))
    assert len(jump.model.knots) < 2000
    assert float(jump.model.knots.diff().min()) < 1e-12


def test_several_outputs_share_knots_and_all_pass() -> None:
    both = Function(lambda x: torch.cat([x.exp(), 2 + torch.tanh(30 * x)], dim=1), Box([-1.0], [1.0]))
    surrogate = AutoKnots(tolerance=1e-6).fit(both)
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)[:, None]
    assert float(((surrogate(x) - both(x)) / both(x)).abs().max()) < 1e-6
    alone = AutoKnots(tolerance=1e-6).fit(on(torch.exp))
    assert len(surrogate.model.knots) > 2 * len(alone.model.knots)


def test_budgets_and_refusals() -> None:
    target = on(torch.exp)
    assert AutoKnots().budgets(target, 8 * (16 + 32 + 64)) == [16, 32, 64]
    assert AutoKnots().budgets(target, 8 * 16 - 1) == []
    x = torch.rand(200, 1, dtype=torch.float64)
    with pytest.raises(BadInput, match="made from data"):
        AutoKnots().fit(Function.from_data(x, x[:, 0]))
    with pytest.raises(BadInput, match="one variable"):
        AutoKnots().fit(Function(lambda x: x[:, 0], Box([0.0, 0.0], [1.0, 1.0])))
