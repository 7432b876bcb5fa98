"""Certificates keep what they state: levels against exact laws, coverage after a choice, and false certificates caught."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import scipy.stats
import torch

import nearly
from nearly.core.certificate import (
    Estimate,
    Probable,
    bound_from,
    certificate_from_manifest,
    certificate_to_manifest,
    least_samples,
    level_place,
)
from nearly.core.certify import measure
from nearly.core.errors import BadInput, CertificateViolated, TooFewSamples
from nearly.core.method import Method
from nearly.core.surrogate import Model

if TYPE_CHECKING:
    pass

RATE = 1e-6  # chance at which a statistical check would fail a right implementation, were its seed drawn anew


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def probable(errors: torch.Tensor, quantile: float = 0.9, confidence: float = 0.9, **more: Any) -> Probable:
    return Probable.from_errors(
        errors, quantile=quantile, confidence=confidence, unit="absolute", source="a test", **more
    )


# --- the level


@pytest.mark.parametrize(("n", "quantile", "confidence"), [(59, 0.95, 0.95), (40, 0.8, 0.9)])
def test_level_has_its_beta_law(n: int, quantile: float, confidence: float) -> None:
    """F(e_(k)) follows Beta(k, n + 1 - k): 20,000 certificates on exponential errors, by Kolmogorov and Smirnov."""
    place = level_place(n, quantile, confidence)
    errors = -torch.log1p(-draw(20_000, n))
    levels = torch.tensor([probable(row, quantile, confidence).error for row in errors], dtype=torch.float64)
    covered = (1 - torch.exp(-levels)).numpy()
    assert scipy.stats.kstest(covered, scipy.stats.beta(place, n + 1 - place).cdf).pvalue > RATE
    # The law of the neighboring places is told apart, so the check can fail.
    for wrong in {place - 1, min(n, place + 1)} - {place}:
        assert scipy.stats.kstest(covered, scipy.stats.beta(wrong, n + 1 - wrong).cdf).pvalue < RATE


def test_place_is_the_least_that_covers_exactly() -> None:
    """Against a linear search with scipy.stats, and the coverage P(Beta(k, n + 1 - k) >= q) against the confidence."""
    tried = 0
    for quantile in (0.5, 0.8, 0.9, 0.95, 0.99):
        for confidence in (0.5, 0.9, 0.95, 0.995):
            least = math.ceil(math.log(1 - confidence) / math.log(quantile) - 1e-9)
            for n in {least, least + 1, 2 * least, 3 * least + 7, 1000}:
                if n < least:
                    continue
                naive = next(k for k in range(1, n + 1) if scipy.stats.binom.cdf(k - 1, n, quantile) >= confidence)
                assert level_place(n, quantile, confidence) == naive
                coverage = scipy.stats.beta.sf(quantile, naive, n + 1 - naive)
                assert coverage >= confidence - 1e-12
                assert naive == 1 or scipy.stats.beta.sf(quantile, naive - 1, n + 2 - naive) < confidence
                tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    ("quantile", "confidence", "least"), [(0.95, 0.95, 59), (0.95, 0.99, 90), (0.9, 0.9, 22), (0.5, 0.5, 1)]
)
def test_one_too_few_is_refused_and_the_least_is_named(quantile: float, confidence: float, least: int) -> None:
    assert least_samples(quantile, confidence) == least
    assert level_place(least, quantile, confidence) == least
    assert probable(draw(least), quantile, confidence).error == float(draw(least).max())
    with pytest.raises(TooFewSamples, match=f"at least {least} .*got {least - 1}.*Give {least}") as caught:
        probable(draw(least - 1), quantile, confidence)
    assert caught.value.least == least
    assert isinstance(caught.value, ValueError)


def test_the_least_number_is_exact_where_logarithms_round() -> None:
    for digits in range(1, 8):
        for power in range(1, 40):
            quantile = 1 - 10.0**-digits
            confidence = 1 - quantile**power
            if 0 < confidence < 1:
                least = least_samples(quantile, confidence)
                assert quantile**least <= 1 - confidence < (quantile ** (least - 1) if least > 1 else math.inf)


def test_levels_move_the_right_way() -> None:
    """Left-out samples k / n fall with n towards 1 - q; a higher quantile or confidence never lowers the level."""
    errors = draw(400, seed=3)
    slack = [level_place(n, 0.9, 0.95) / n - 0.9 for n in (29, 100, 1_000, 10_000, 100_000)]
    assert all(a > b > 0 for a, b in pairwise(slack))
    assert slack[-1] < 2e-3
    by_quantile = [probable(errors, q, 0.95).error for q in (0.5, 0.8, 0.9, 0.95, 0.99)]
    by_confidence = [probable(errors, 0.9, c).error for c in (0.5, 0.9, 0.99, 0.999)]
    assert by_quantile == sorted(set(by_quantile))
    assert by_confidence == sorted(set(by_confidence))
    places = [level_place(n, 0.9, 0.95) for n in range(29, 300)]
    assert all(0 <= b - a <= 1 for a, b in pairwise(places))


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf, "0.9", None, True])
def test_quantile_and_confidence_are_probabilities(bad: Any) -> None:
    with pytest.raises(BadInput, match="quantile must be"):
        level_place(100, bad, 0.9)
    with pytest.raises(BadInput, match="confidence must be"):
        level_place(100, 0.9, bad)


@pytest.mark.parametrize("levels", [2, 5])
def test_ties_keep_coverage(levels: int) -> None:
    """Errors on a few values: P(F(e_(k)) >= q) is at least the confidence, tested at level 1e-6 over 3,000 draws."""
    n, quantile, confidence, trials = 45, 0.9, 0.9, 3_000
    errors = torch.floor(levels * draw(trials, n, seed=levels)) / levels
    # F of the discrete law at its values j / levels is (j + 1) / levels.
    covered = sum(probable(row, quantile, confidence).error + 1 / levels >= quantile - 1e-12 for row in errors)
    assert scipy.stats.binom.cdf(covered, trials, confidence) > RATE
    # One atom just below the quantile is the hardest case: the level must pass it as often as stated.
    heavy = (draw(trials, n, seed=7) > quantile - 1e-3).to(torch.float64)
    passed = sum(probable(row, quantile, confidence).error == 1.0 for row in heavy)
    assert scipy.stats.binom.cdf(passed, trials, confidence) > RATE
    assert passed < trials


def test_errors_that_are_no_number_count_as_infinite() -> None:
    errors = torch.linspace(0, 1, 100, dtype=torch.float64)
    clean = probable(errors)
    place = level_place(100, 0.9, 0.9)
    one = errors.clone()
    one[0] = math.nan  # the smallest becomes the largest, so every place moves up by one
    assert probable(one).error == float(errors[place])
    assert probable(one).error > clean.error
    most = errors.clone()
    most[: 100 - place + 1] = math.nan
    assert probable(most).error == math.inf
    assert clean.contradicted_by(torch.full((100,), math.nan, dtype=torch.float64)) is not None


def test_statements_side_by_side_share_the_confidence() -> None:
    errors = draw(300, seed=1)
    assert probable(errors, 0.9, 0.8, statements=4).error == probable(errors, 0.9, 0.95).error
    assert probable(errors, 0.9, 0.8, statements=4).confidence == 0.8
    with pytest.raises(TooFewSamples):  # 16 suffice for one statement of confidence 0.8
        probable(errors[:16], 0.9, 0.8, statements=2)
    assert probable(errors[:16], 0.9, 0.8).samples == 16
    # The least of 4 levels keeps the stated confidence; that of 4 lone statements would not.
    trials, n = 2_000, 60
    tables = draw(trials, 4, n, seed=2)
    shared = sum(min(probable(e, 0.9, 0.8, statements=4).error for e in table) >= 0.9 for table in tables)
    alone = sum(min(probable(e, 0.9, 0.8).error for e in table) >= 0.9 for table in tables)
    assert scipy.stats.binom.cdf(shared, trials, 0.8) > RATE
    assert scipy.stats.binom.cdf(alone, trials, 0.8) < RATE


# --- contradiction


def test_contradiction_has_its_false_alarm_rate_and_power() -> None:
    certificate = probable(draw(200, seed=5))
    honest = Probable(**{**certificate.__dict__, "error": 0.9})  # exactly the 90% quantile of uniform errors
    trials, alarm = 4_000, 0.01
    alarms = sum(honest.contradicted_by(row, alarm=alarm) is not None for row in draw(trials, 200, seed=6))
    assert scipy.stats.binom.sf(alarms - 1, trials, alarm) > RATE
    assert alarms > 0, "a test that never alarms has no power"
    # A level that only half of the inputs keep is caught every time; one short by a twentieth, mostly.
    halved = Probable(**{**certificate.__dict__, "error": 0.45})
    assert all(halved.contradicted_by(row) for row in draw(100, 100, seed=8))
    message = halved.contradicted_by(draw(100, seed=8))
    assert message is not None
    exceed = int((draw(100, seed=8) > 0.45).sum())
    assert f"{exceed} of 100" in message
    assert honest.contradicted_by(torch.zeros(50, dtype=torch.float64)) is None
    assert scipy.stats.binom.sf(exceed - 1, 100, 0.1) == pytest.approx(
        float(message.rsplit(" ", 1)[1]), rel=0.06, abs=0
    )


# --- bounds


def test_a_bound_reports_its_ratios() -> None:
    errors = torch.tensor([1.0, 2.0, 4.0, 5.0] * 10, dtype=torch.float64)
    bounds = errors * torch.tensor([1.0, 3.0, 2.0, 10.0] * 10, dtype=torch.float64)
    bound = bound_from(probable(errors), errors, bounds, "a theorem")
    assert (bound.ratio_least, bound.ratio_median, bound.ratio_most) == (1.0, 2.0, 10.0)
    assert bound.error == 5.0
    assert bound.bound == 50.0
    assert isinstance(bound, Probable)
    assert "a theorem" in bound.describe()
    assert "with confidence 0.9" in bound.describe()
    exact = bound_from(probable(0 * errors), 0 * errors, bounds, "a theorem")
    assert math.isfinite(exact.ratio_most)


@pytest.mark.parametrize("value", [0.3, math.nan])
def test_what_lies_below_an_error_or_is_no_number_is_no_bound(value: float) -> None:
    errors = draw(40) / 2 + 0.4
    bounds = errors + 0.5
    bounds[7] = value
    with pytest.raises(CertificateViolated, match=r"1 of 40 fresh inputs \(first: bound") as caught:
        bound_from(probable(errors), errors, bounds, "a theorem")
    assert isinstance(caught.value, RuntimeError)
    errors[7] = math.nan
    with pytest.raises(CertificateViolated):
        bound_from(probable(errors), errors, bounds + 1, "a theorem")


def test_few_bounds_may_be_infinite_and_no_more() -> None:
    errors = torch.linspace(0.1, 0.9, 200, dtype=torch.float64)
    told, bounds = probable(errors), errors + 0.5
    bounds[3] = math.inf
    assert bound_from(told, errors, bounds, "a theorem").bound < 1.4
    bounds[:40] = math.inf
    with pytest.raises(CertificateViolated, match="the bound is infinite at 40 of 200 fresh inputs"):
        bound_from(told, errors, bounds, "a theorem")


# --- manifests


CERTIFICATES = [
    probable(draw(50), failures=3),
    bound_from(probable(draw(50)), draw(50), draw(50) + 1, "a theorem"),
    Estimate(error=0.5, unit="absolute", basis="a model's own deviation"),
    None,
]


@pytest.mark.parametrize("certificate", CERTIFICATES, ids=lambda c: type(c).__name__)
def test_manifest_round_trip(certificate: Any) -> None:
    told = json.loads(json.dumps(certificate_to_manifest(certificate), allow_nan=False))
    back = certificate_from_manifest(told)
    assert back == certificate
    assert type(back) is type(certificate)
    assert certificate is None or certificate.describe() == back.describe()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Guarantee"},
        {"kind": None},
        {"kind": "Bound"},  # a weaker kind under a stronger name: its fields are missing
        {"error": "small"},
        {"samples": None},
        {"samples": 1.5},
        {"surprise": 1},
        {"theorem": "none"},  # a field of another kind
    ],
)
def test_unknown_kinds_and_fields_are_refused(change: dict[str, Any]) -> None:
    manifest = certificate_to_manifest(CERTIFICATES[0])
    assert manifest is not None
    with pytest.raises(BadInput, match="certificate"):
        certificate_from_manifest(manifest | change)
    missing = {k: v for k, v in manifest.items() if k != "quantile"}
    with pytest.raises(BadInput, match="quantile"):
        certificate_from_manifest(missing)


@pytest.mark.parametrize("change", [{"quantile": 7.0}, {"confidence": 0.0}, {"samples": -3}, {"error": -1.0}])
def test_values_that_no_certificate_has_are_refused(change: dict[str, Any]) -> None:
    manifest = certificate_to_manifest(CERTIFICATES[0])
    assert manifest is not None
    with pytest.raises(BadInput, match=f"certificate.*{next(iter(change))}"):
        certificate_from_manifest(manifest | change)


# --- the best of fifty


class SawtoothModel(Model):
    """The right answer 0 and an error uniform in [0, 1), another for each key, identical in law."""

    def __init__(self, *, key: torch.Tensor) -> None:
        super().__init__(key=key)

    @property
    def operations(self) -> int:
        return 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.remainder(inputs * self.key, 1.0)


@dataclass(frozen=True, kw_only=True)
class Sawtooth(Method):
    """A method whose error on a fresh input is uniform in [0, 1), whatever its key."""

    card = {  # noqa: RUF012
        "name": "Sawtooth",
        "nouns": ["function"],
        "rows": [],
        "certificate": "Probable",
        "parameters": {"key": ["integer", 0, None]},
        "skips": {},
    }
    model = SawtoothModel
    key: int = 0

    def _fit(self, target: Any, supply: Any, generator: torch.Generator) -> SawtoothModel:
        return SawtoothModel(key=torch.tensor([1e6 * (1.0 + self.key / 7.3)], dtype=torch.float64))


def test_the_best_of_fifty_keeps_its_stated_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 races of 50 methods of the same law: the winner's 90% level at confidence 80% misses in at most a fifth of them.

    The level on the inputs that chose the winner, stated the same way, misses in most.
    """
    monkeypatch.setattr("nearly.core.search.measure_cost", lambda *args, **kwargs: None)
    target = nearly.Function(lambda x: 0 * x, nearly.Box([0.0], [1.0]), metric="absolute")
    methods = [Sawtooth(key=key) for key in range(50)]
    races, quantile, confidence = 120, 0.9, 0.8
    held = naive = 0
    for seed in range(races):
        outcome = nearly.race(
            target, 1e-9, methods=methods, quantile=quantile, confidence=confidence, samples=40, seed=seed
        )
        assert outcome.winner is not None
        assert isinstance(outcome.winner.certificate, Probable)
        held += outcome.winner.certificate.error >= quantile  # the errors are uniform: F(e) = e
        chose, _ = measure(outcome.winner, target, outcome.supply.validating())
        naive += probable(chose, quantile, confidence).error >= quantile
    assert scipy.stats.binom.cdf(held, races, confidence) > RATE, f"{held} of {races}"
    assert scipy.stats.binom.cdf(naive, races, confidence) < RATE, f"{naive} of {races}: the check could not fail"
    assert naive < 2 * races / 3
