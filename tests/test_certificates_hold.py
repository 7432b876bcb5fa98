"""The promise itself: 200 certified fits over all nouns, each faced with 2,000 further fresh inputs."""

import statistics

import pytest
from benchmarks.certificates import QUANTILE, Outcome, study


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return study(20)


def test_levels_are_exceeded_no_more_often_than_certified(outcomes):
    # At 99% confidence about 1% of fits may be broken; 4 of 200 leaves room for the luck of these seeds.
    assert len(outcomes) == 200
    assert sum(o.exceeded > 1 - QUANTILE for o in outcomes) <= 4


def test_levels_are_not_vacuous(outcomes):
    for name in {o.case for o in outcomes}:
        assert 0.5 <= statistics.median(o.sharpness for o in outcomes if o.case == name) <= 2, name


def test_bounds_hold_and_are_sharp(outcomes):
    bounded = [o for o in outcomes if o.least_ratio is not None]
    assert len(bounded) == 40
    assert min(o.least_ratio for o in bounded) >= 1
    assert statistics.median(o.median_ratio for o in bounded) <= 10
