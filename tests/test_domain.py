"""Domains: limits of boxes, round-off at their corners, false alarms and detection of clouds, and what happens outside."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import scipy.stats
import torch

import nearly
from nearly.core.certificate import Probable
from nearly.core.domain import Anywhere, Box, Cloud, restore_domain
from nearly.core.errors import BadInput, OutOfDomain, OutsideDomainWarning

RATE = 1e-6  # chance at which a statistical check would fail a right implementation, were its seed drawn anew


def rows(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- boxes


@pytest.mark.parametrize(
    ("lower", "upper", "more", "message"),
    [
        ([0.0], [0.0], {}, "upper must be above lower"),
        ([0.0, 2.0], [1.0, 1.0], {}, "upper must be above lower in every coordinate"),
        ([0.0], [1.0, 2.0], {}, "upper must be above lower"),
        ([], [], {}, "lower must be non-empty"),
        ([math.nan], [1.0], {}, "lower must be finite"),
        ([0.0], [math.inf], {}, "upper must be finite"),
        (0.0, 1.0, {}, "lower must be 1-dimensional"),
        (["a"], [1.0], {}, "lower must be numeric"),
        ([0.0], [1.0], {"log": True}, "lower must be positive where log is set"),
        ([0.0, -1.0], [1.0, 1.0], {"log": [False, True]}, "lower must be positive where log is set"),
        ([1.0, 1.0], [2.0, 2.0], {"log": [True, False, True]}, "log must be one flag"),
        ([1.0, 1.0], [2.0, 2.0], {"log": "both"}, "log must be one flag"),
    ],
)
def test_limits_that_are_no_box_are_refused(lower: Any, upper: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Box(lower, upper, **more)


def test_a_box_is_closed_and_contains_its_draws() -> None:
    box = Box([0.0, -2.0], [1.0, 3.0])
    inside = rows([0.0, -2.0], [1.0, 3.0], [0.5, 0.0])
    assert box.contains(inside).tolist() == [True] * 3
    outside = rows([-1e-9, 0.0], [1 + 1e-9, 0.0], [0.5, 3.1], [math.nan, 0.0], [math.inf, 0.0])
    assert box.contains(outside).tolist() == [False] * 5
    drawn = box.sample(2_000, 0)
    assert bool(box.contains(drawn).all())
    for axis, (low, high) in enumerate([(0.0, 1.0), (-2.0, 3.0)]):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(drawn[:, axis].numpy(), uniform.cdf).pvalue > RATE
    with pytest.raises(BadInput, match=r"inputs must be of shape \(n, 2\)"):
        box.contains(rows([0.0, 0.0, 0.0]))
    with pytest.raises(BadInput, match=r"inputs must be of shape \(n, 2\)"):
        box.contains(torch.zeros(2))


def test_log_coordinates_are_log_uniform() -> None:
    box = Box([1e-6, 0.0, 1.0], [1e3, 1.0, 2.0], log=[True, False, False])
    drawn = box.sample(2_000, 1)
    assert scipy.stats.kstest(drawn[:, 0].numpy(), scipy.stats.loguniform(1e-6, 1e3).cdf).pvalue > RATE
    assert scipy.stats.kstest(drawn[:, 1].numpy(), scipy.stats.uniform(0, 1).cdf).pvalue > RATE
    middle = box.from_unit(rows([0.5, 0.5, 0.5]))
    assert torch.allclose(middle, rows([10**-1.5, 0.5, 1.5]), rtol=1e-12, atol=0)
    ends = box.to_symmetric(rows([1e-6, 0.0, 1.0], [1e3, 1.0, 2.0], [10**-1.5, 0.5, 1.5]))
    assert torch.allclose(ends, rows([-1.0] * 3, [1.0] * 3, [0.0] * 3), atol=1e-12)
    assert "part log-uniform" in box.describe()
    assert Box([1.0], [2.0], log=True).describe() == "the box [1, 2]^1, log-uniform"


def test_from_unit_never_leaves_the_box() -> None:
    """exp(log(x)) may lie above x by round-off; the draw is clamped."""
    generator = torch.Generator().manual_seed(0)
    lower = torch.rand(500, dtype=torch.float64, generator=generator) + 1e-3
    box = Box(lower, 3 * lower, log=True)
    ends = box.from_unit(torch.stack([torch.zeros(500), torch.ones(500)]).double())
    assert bool((ends >= box.lower).all())
    assert bool((ends <= box.upper).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("moved", [torch.float32, torch.float64])
def test_a_corner_is_a_corner_in_any_dtype(dtype: torch.dtype, moved: torch.dtype) -> None:
    """0.1 and 0.7 are no floats: rounded to another dtype they may fall outside; a thousandth further is outside."""
    lower, upper = [0.1, -0.3, 1e-7, -1e9], [0.7, -0.1, 3e-7, -7e8]
    box = Box(lower, upper).to(moved)
    corners = torch.tensor([lower, upper], dtype=dtype)
    assert box.contains(corners).tolist() == [True, True]
    beyond = torch.tensor([[0.1, -0.3, 0.999e-7, -1e9], [0.7007, -0.1, 3e-7, -7e8]], dtype=dtype)
    assert box.contains(beyond).tolist() == [False, False]


def test_domains_come_back_from_their_parts() -> None:
    cloud = Cloud.fit(normal(60, 3), false_alarm=0.1)
    for domain in (Box([0.1], [2.0], log=True), Anywhere(), Anywhere([3]), cloud):
        back = restore_domain(domain.kind, domain.settings(), dict(domain.state_dict()))
        assert back.describe() == domain.describe()
        x = normal(50, 1 if isinstance(domain, Box) else 3, seed=5)
        assert torch.equal(back.contains(x), domain.contains(x))
        example = domain.example()
        assert example is None if domain.settings() == {"shape": None} else bool(domain.contains(example).all())
    with pytest.raises(BadInput, match=r"inputs must be of shape \(n, 3\)"):
        Anywhere([3]).contains(torch.ones(4, 2))
    assert Cloud.fit(normal(60, 3, 4)).example().shape == (1, 3, 4)
    with pytest.raises(BadInput, match="domain must be one of"):
        restore_domain("ball", {}, {})


# --- outside


def surrogate() -> nearly.Surrogate:
    target = nearly.Function(lambda x: x.sum(dim=1), Box([0.0, 0.0], [1.0, 1.0]))
    return nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64))


def test_outside_raises() -> None:
    fitted = surrogate()
    with pytest.raises(
        OutOfDomain, match=r"1 of 2 inputs lie outside the box \[0, 1\]\^2, uniform; first: input 1"
    ) as told:
        fitted(rows([0.5, 0.5], [0.5, 1.5]))
    assert isinstance(told.value, ValueError)
    assert isinstance(fitted.certificate, Probable)
    assert fitted(rows([0.0, 1.0])).shape == (1, 1)
    for bad in (math.nan, math.inf):
        with pytest.raises(BadInput, match="inputs must be finite"):
            fitted(rows([0.5, bad]))
        fitted.outside = "warn"
        with pytest.raises(BadInput, match="inputs must be finite"):
            fitted(rows([0.5, bad]))
        fitted.outside = "raise"
    assert isinstance(fitted.certificate, Probable)


def test_outside_warns_on_request_and_withdraws_the_certificate() -> None:
    fitted = surrogate()
    fitted.outside = "warn"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(rows([0.5, 0.5]))  # inside: no word, and the certificate stays
    assert isinstance(fitted.certificate, Probable)
    with pytest.warns(OutsideDomainWarning, match="certificate is withdrawn") as caught:
        answers = fitted(rows([0.5, 0.5], [0.5, 1.5]))
    assert caught[0].filename == __file__
    assert bool(torch.isfinite(answers).all())
    assert fitted.certificate is None


# --- clouds


def laws() -> dict[str, Any]:
    """Sources of rows by name: smooth, heavy-tailed, discrete, on a line in many dimensions, and a few constant columns."""

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def normal_rows(n: int, seed: int) -> torch.Tensor:
        return torch.randn(n, 3, dtype=torch.float64, generator=generator(seed))

    def cauchy(n: int, seed: int) -> torch.Tensor:
        return torch.empty(n, 2, dtype=torch.float64).cauchy_(generator=generator(seed))

    def discrete(n: int, seed: int) -> torch.Tensor:
        return torch.randint(0, 3, (n, 2), generator=generator(seed)).double()

    def wide(n: int, seed: int) -> torch.Tensor:
        g = generator(seed)
        line = torch.randn(n, 1, dtype=torch.float64, generator=g) * torch.ones(40, dtype=torch.float64)
        return line + 1e-2 * torch.randn(n, 40, dtype=torch.float64, generator=g)

    def constant(n: int, seed: int) -> torch.Tensor:
        return torch.cat([normal_rows(n, seed), torch.ones(n, 2, dtype=torch.float64)], dim=1)

    return {"normal": normal_rows, "Cauchy": cauchy, "discrete": discrete, "wide": wide, "constant": constant}


@pytest.mark.parametrize("n", [8, 40, 200])
@pytest.mark.parametrize("law", laws())
def test_a_fresh_row_is_refused_at_most_at_the_stated_rate(law: str, n: int) -> None:
    """One fresh row for each of 600 clouds: independent trials, so the count of false alarms is held against the binomial."""
    draw, trials, alarms, stated = laws()[law], 600, 0, 0.0
    for seed in range(trials):
        drawn = draw(n + 1, 1_000 * n + seed)
        cloud = Cloud.fit(drawn[:n], false_alarm=0.1)
        stated = cloud.false_alarm
        alarms += not bool(cloud.contains(drawn[n:])[0])
    assert scipy.stats.binom.sf(alarms - 1, trials, stated) > RATE, f"{alarms} of {trials} at a stated {stated:.3f}"


@pytest.mark.parametrize(("n", "asked"), [(4, 0.01), (40, 0.1), (400, 0.01), (400, 0.1), (5_000, 0.01)])
def test_the_stated_rate_is_what_the_calibrating_rows_allow(n: int, asked: float) -> None:
    cloud = Cloud.fit(normal(n, 2), false_alarm=asked)
    calibrating = n - min(512, 3 * n // 4)
    assert cloud.false_alarm <= max(asked, 1 / (calibrating + 1)) + 1e-12
    assert cloud.false_alarm >= 1 / (calibrating + 1) - 1e-12
    assert f"{cloud.false_alarm:.2%}" in cloud.describe()


def test_shifted_rows_are_seen() -> None:
    cloud = Cloud.fit(normal(1_000, 3), false_alarm=0.01)
    assert cloud.contains(normal(500, 3, seed=1)).double().mean() > 0.95
    assert cloud.contains(normal(500, 3, seed=1) + 5).double().mean() < 0.05
    # A hole in the data is outside too, though every coordinate lies in its range.
    angle = 2 * math.pi * torch.rand(1_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ring = Cloud.fit(torch.stack([angle.cos(), angle.sin()], dim=1))
    assert ring.contains(rows([0.0, 0.0], [1.0, 0.0])).tolist() == [False, True]


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_rows_orthogonal_to_all_data_are_seen(noise: float) -> None:
    """Data in a plane of 50 dimensions: a step off the plane, as small as the data's own coordinates, is outside."""
    plane = torch.linalg.qr(normal(50, 50))[0]
    data = normal(400, 2, seed=1) @ plane[:2] + noise * normal(400, 50, seed=2)
    fresh = normal(200, 2, seed=3) @ plane[:2] + noise * normal(200, 50, seed=4)
    cloud = Cloud.fit(data, false_alarm=0.01)
    assert cloud.contains(fresh).double().mean() > 0.93
    assert not bool(cloud.contains(fresh + 0.5 * plane[2:3]).any())
    assert not bool(cloud.contains(0.5 * plane[2:10]).any())


def test_clouds_take_fields_other_dtypes_and_refuse_too_few_rows() -> None:
    fields = normal(80, 3, 4)
    cloud = Cloud.fit(fields)
    assert cloud.contains(fields[:5].float()).tolist() == [True] * 5
    assert cloud.to(torch.float32).contains(fields[:5]).tolist() == [True] * 5
    assert cloud.contains(fields[:5] * math.nan).tolist() == [False] * 5
    with pytest.raises(BadInput, match="inputs must be rows of 12 numbers"):
        cloud.contains(fields[:, 0])
    assert cloud.contains(fields[:0]).shape == (0,)
    with pytest.raises(BadInput, match="inputs must be at least four rows"):
        Cloud.fit(fields[:3])
    whole = Cloud.fit(torch.arange(40)[:, None])
    assert bool(whole.contains(torch.arange(40)[:, None]).all())


def test_rows_all_alike_admit_themselves_and_nothing_else() -> None:
    cloud = Cloud.fit(torch.ones(40, 3, dtype=torch.float64))
    assert cloud.contains(rows([1.0, 1.0, 1.0], [1.0, 2.0, 1.0])).tolist() == [True, False]
