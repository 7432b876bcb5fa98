"""The telescoping sweep tries the grids of the paper's algorithm, and follows an optimum that drifts as one over the width."""

import itertools
import math

import pytest

from nearly.core.errors import BadInput
from nearly.optim.scaling import telescope


def bowl(**optima):
    """A loss whose best settings are `optimum * exp(drift / width)`; it keeps what was asked."""
    asked = []

    def train(width, settings):
        asked.append((width, dict(settings)))
        return 1 + sum(
            (math.log(settings[name] / optimum) - drift / width) ** 2 for name, (optimum, drift) in optima.items()
        )

    return train, asked


def test_grids_are_those_of_the_algorithm():
    train, asked = bowl(lr=(0.05, 0.0), weight_decay=(0.3, 0.0))
    found = telescope(train, [16, 32, 64, 128], {"lr": (0.01, 1.0), "weight_decay": (0.001, 10.0)}, points=8)
    assert [(sweep.width, len(sweep.losses)) for sweep in found.sweeps] == [(16, 64), (32, 25), (64, 9), (128, 1)]
    spacings = {"lr": math.log(100) / 7, "weight_decay": math.log(10_000) / 7}
    center = {"lr": 0.1, "weight_decay": 0.1}
    expected = []
    for width, count in ((16, 8), (32, 5), (64, 3), (128, 1)):
        axes = [
            [center[name] * math.exp(spacing * 16 / width * (i - (count - 1) / 2)) for i in range(count)]
            for name, spacing in spacings.items()
        ]
        level = [dict(zip(spacings, values, strict=True)) for values in itertools.product(*axes)]
        expected += [(width, settings) for settings in level]
        center = min(level, key=lambda settings: train(width, settings))
    tried = asked[:99]
    assert [width for width, _ in tried] == [width for width, _ in expected]
    for (_, settings), (_, other) in zip(tried, expected, strict=True):
        assert settings == pytest.approx(other)
    assert found.best == pytest.approx(center)
    assert found.loss == pytest.approx(train(128, center))


@pytest.mark.parametrize(
    ("count", "points", "widths", "expected"),
    [
        (1, 8, [64, 128, 256, 512], {64: 8, 128: 3, 512: 1}),
        (1, 8, [64, 128], {64: 8, 128: 1}),
        (1, 8, [64, 80, 100, 512], {64: 8, 80: 7, 100: 5, 512: 1}),
        (3, 8, [16, 32, 64, 128], {16: 512, 32: 343, 64: 125, 128: 1}),
        (3, 12, [16, 128, 256], {16: 1728, 128: 27, 256: 1}),
        (2, 12, [16, 64, 256], {16: 144, 64: 9, 256: 1}),
        (3, 16, [1, 64, 128], {1: 4096, 128: 1}),  # 16 / 16, and in floating point a little more
    ],
)
def test_numbers_of_trainings(count, points, widths, expected):
    names = [f"h{i}" for i in range(count)]
    train, asked = bowl(**dict.fromkeys(names, (0.1, 0.0)))
    telescope(train, widths, dict.fromkeys(names, (0.01, 1.0)), points=points)
    assert {width: sum(one == width for one, _ in asked) for width in widths if width in expected} == expected
    assert len(asked) == sum(expected.values())


def test_a_drifting_optimum_is_followed_where_the_narrow_one_is_off():
    optima = {"lr": (0.1, 6.0), "eps": (0.02, -5.0)}
    train, _ = bowl(**optima)
    widths = [16, 32, 64, 128, 256]
    found = telescope(train, widths, {"lr": (0.01, 10.0), "eps": (0.001, 1.0)}, points=16)
    narrow = train(256, found.sweeps[0].best)
    assert found.loss - 1 < 0.1 * (narrow - 1)
    for name, (optimum, drift) in optima.items():
        # The last sweep is at width 128: half its spacing off, at most, and the drift from there.
        off = abs(math.log(found.best[name] / optimum) - drift / 256)
        assert off <= math.log(1000) / 15 / 8 / 2 + abs(drift) / 256 + 1e-9


def test_trainings_that_diverge_are_passed_over():
    train, _ = bowl(lr=(0.05, 0.0))
    for bad in (math.nan, math.inf, -math.inf):
        found = telescope(
            lambda width, settings: bad if settings["lr"] > 0.1 else train(width, settings),  # noqa: B023
            [16, 32, 64],
            {"lr": (0.01, 1.0)},
        )
        assert math.isfinite(found.loss)
        assert found.best["lr"] < 0.1
        assert max(found.sweeps[0].losses) == math.inf
    with pytest.raises(BadInput, match="train"):
        telescope(lambda width, settings: math.nan, [16, 32], {"lr": (0.01, 1.0)})


def test_settings_are_the_trainings_own():
    def train(width, settings):
        return settings.pop("lr")

    assert telescope(train, [16, 32], {"lr": (0.01, 1.0)}).best == pytest.approx({"lr": 0.01})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("widths", {"widths": [64]}),
        ("widths", {"widths": [128, 64]}),
        ("widths", {"widths": [64, 64]}),
        ("widths", {"widths": [0, 64]}),
        ("widths", {"widths": [32.5, 64]}),
        ("ranges", {"ranges": {}}),
        ("ranges", {"ranges": {"lr": (0.0, 1.0)}}),
        ("ranges", {"ranges": {"lr": (1.0, 0.1)}}),
        ("ranges", {"ranges": {"lr": (0.1, math.nan)}}),
        ("points", {"points": 1}),
    ],
)
def test_bad_arguments_are_refused_before_any_training(name, changes):
    train, asked = bowl(lr=(0.1, 0.0))
    given = {"widths": [32, 64], "ranges": {"lr": (0.01, 1.0)}, **changes}
    with pytest.raises(BadInput, match=name):
        telescope(train, **given)
    assert not asked
