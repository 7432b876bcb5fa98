"""Row 165: AutoKnots (Vitenti, de Simoni, Penna-Lima, Barroso, arXiv 2412.13423).

Works when, for 12 functions that include a sharp peak, Runge's, a cosine and a plateau: the relative error on 100,000 points is at
most the tolerance 1e-6 for at least 11; and on the peaked ones there are at most half as many evaluations as the smallest
adequate spline on equidistant knots needs.

The one that misses is the cosine: next to its zeros the relative error is unbounded, and the tests look at middles only. Of
1 + 100 exp(-((x - 0.3) / w)^2) the row has w = 0.04; at w = 0.05 the ratio of evaluations is 0.51, and at w = 0.01 the peak lies
between the first eleven points and is not seen at all.

Baseline: scipy's not-a-knot spline on equidistant knots (in the logarithm where the function spans decades), the number of
knots bisected for the least that keeps the tolerance on the same points.
Rejected broken variants, run below: equidistant knots, as many as AutoKnots took, on the peaked functions; and no second look
at wide intervals, where the polynomial's error is 3e-4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from nearly.core.domain import Box
from nearly.core.nouns import Function
from nearly.functions import AutoKnots, auto_knots

TOLERANCE, POINTS = 1e-6, 100_000
FUNCTIONS: dict[str, tuple[Any, float, float]] = {
    "sharp peak": (lambda x: 1 + 100 * torch.exp(-(((x - 0.3) / 0.04) ** 2)), -1.0, 1.0),
    "two peaks": (lambda x: 1 / ((x - 0.3) ** 2 + 1e-4) + 1 / ((x + 0.9) ** 2 + 2.5e-3), -1.0, 1.0),
    "chirp": (lambda x: 2 + torch.sin(1 / x), 0.05, 1.0),
    "Planck": (lambda x: x**3 / torch.expm1(x), 0.01, 20.0),
    "Runge": (lambda x: 1 / (1 + 25 * x * x), -1.0, 1.0),
    "cosine": (lambda x: torch.cos(10 * x), -1.0, 1.0),
    "raised cosine": (lambda x: 2 + torch.cos(20 * x), -1.0, 1.0),
    "plateau": (lambda x: 1 + torch.sigmoid(100 * (x - 0.5)), -1.0, 1.0),
    "mesa": (lambda x: 1 + torch.exp(-((x / 0.5) ** 20)), -1.0, 1.0),
    "exponential": (torch.exp, -1.0, 1.0),
    "polynomial": (lambda x: x**5 - 3 * x**3 + 10, -2.0, 2.0),
    "power law": (lambda x: x**-2.5, 1e-2, 1e2),
}
PEAKED = ("sharp peak", "two peaks", "chirp", "Planck")
LOGARITHMIC = ("power law",)


def target(name: str) -> Function:
    f, low, high = FUNCTIONS[name]
    return Function(lambda x: f(x[:, 0]), Box([low], [high], log=name in LOGARITHMIC), name=name)


def dense(function: Function) -> torch.Tensor:
    return function.domain.from_unit(torch.linspace(0, 1, POINTS, dtype=torch.float64)[:, None])


def relative_error(predicted: Any, truth: torch.Tensor) -> float:
    return float(((torch.as_tensor(predicted) - truth) / truth).abs().max())


def equidistant(function: Function, knots: int, truth: torch.Tensor) -> float:
    unit = np.linspace(0, 1, knots)
    values = function(function.domain.from_unit(torch.from_numpy(unit)[:, None]))[:, 0]
    return relative_error(CubicSpline(unit, values.numpy())(np.linspace(0, 1, POINTS)), truth)


def smallest_adequate(function: Function, truth: torch.Tensor) -> int:
    high = 16
    while equidistant(function, high, truth) > TOLERANCE:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if equidistant(function, middle, truth) <= TOLERANCE else (middle, high)
    return high


def test_one_tolerance_is_kept_and_peaks_need_half_the_evaluations(record: Any) -> None:
    kept, ratios, worst = [], {}, {}
    for name in FUNCTIONS:
        function = target(name)
        x = dense(function)
        truth = FUNCTIONS[name][0](x[:, 0])
        surrogate = AutoKnots(tolerance=TOLERANCE).fit(function)
        worst[name] = relative_error(surrogate(x)[:, 0], truth)
        if worst[name] <= TOLERANCE:
            kept.append(name)
        if name in PEAKED:
            knots = len(surrogate.model.knots)
            ratios[name] = knots / smallest_adequate(function, truth)
            assert equidistant(function, knots, truth) > TOLERANCE
    record(
        claim="165: functions of 12 whose relative error is within 1e-6 (largest error of those as baseline)",
        measured=len(kept),
        baseline=max(worst[name] for name in kept),
    )
    record(
        claim="165: evaluations on peaked functions, of the least equidistant number: largest of 4 (bar as baseline)",
        measured=max(ratios.values()),
        baseline=0.5,
    )
    assert len(kept) >= 11
    assert max(ratios.values()) <= 0.5


def test_without_a_second_look_a_plateau_passes_by_chance(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_knots, "DEVIATIONS", float("inf"))
    kept = 0
    for name in FUNCTIONS:
        function = target(name)
        x = dense(function)
        surrogate = AutoKnots(tolerance=TOLERANCE).fit(function)
        kept += relative_error(surrogate(x)[:, 0], FUNCTIONS[name][0](x[:, 0])) <= TOLERANCE
    record(claim="165: the same without opening wide intervals once more (bar as baseline)", measured=kept, baseline=11)
    assert kept < 11
