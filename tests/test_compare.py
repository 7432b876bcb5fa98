"""Methods side by side: the same pairs, one statement for all, failures kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import nearly
from nearly.core.certificate import level_place
from nearly.core.compare import ComparisonInterrupted, compare
from nearly.core.cost import Cost
from nearly.core.errors import ArtifactError, BadInput, SolverFailed, TooFewSamples
from nearly.fields.mean import Mean
from nearly.fields.nearest_neighbor import NearestNeighbor
from nearly.fields.reduced_basis import ReducedBasis
from nearly.problems import thermal_block

METHODS = [Mean(), NearestNeighbor(), ReducedBasis(rank=4), ReducedBasis(rank=12)]


@pytest.fixture(scope="module")
def block():
    return thermal_block((2, 2), cells=8)


@pytest.fixture(scope="module")
def outcome(block):
    return compare(block, METHODS, samples=150, seed=3)


def test_all_are_certified_on_the_same_fresh_pairs_with_a_shared_confidence(block, outcome):
    from nearly.core.certify import measure
    from nearly.core.supply import CERTIFYING, stream

    pairs = block.draw(150, stream(3, CERTIFYING))
    place = level_place(150, 0.95, 1 - 0.01 / len(METHODS))
    assert place > level_place(150, 0.95, 0.99)  # else the union bound could be left out unnoticed
    for row in outcome.rows:
        errors, _ = measure(row.surrogate, block, pairs)
        assert row.certificate.error == float(errors.sort().values[place - 1])
        assert row.certificate.samples == 150


def test_order_kinds_and_front(outcome):
    assert [row.method for row in outcome.rows] == [m.id() for m in METHODS]
    assert isinstance(outcome.rows[3].certificate, nearly.Bound)
    assert not isinstance(outcome.rows[0].certificate, nearly.Bound)
    levels = [row.certificate.error for row in outcome.fitted]
    assert levels == sorted(levels)
    front = outcome.front()
    assert outcome.rows[3] in front
    for row in outcome.rows:
        beaten = any(
            other.cost.operations <= row.cost.operations
            and other.certificate.error <= row.certificate.error
            and other is not row
            for other in outcome.rows
        )
        assert beaten != (row in front)


def test_evaluations_are_those_the_method_alone_would_spend(outcome):
    samples = [METHODS[0].samples, METHODS[1].samples, 4, 12]
    assert [row.cost.evaluations for row in outcome.rows] == samples


def test_the_order_of_methods_changes_no_result(block, outcome):
    again = compare(block, METHODS[::-1], samples=150, seed=3)
    for row, other in zip(outcome.rows, again.rows[::-1], strict=True):
        assert row.certificate.error == other.certificate.error


def test_frame_text_and_table_hold_every_method(outcome):
    frame = outcome.frame()
    assert [row["method"] for row in frame] == [m.id() for m in METHODS]
    assert frame[3]["certified_error"] == outcome.rows[3].certificate.error
    assert frame[3]["hyperparameters"]["rank"] == 12
    text = str(outcome)
    assert all(m.id() in text for m in METHODS)
    assert f"{outcome.rows[3].certificate.error:.3g}" in text


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fails(nearly.Method):
    card = {"name": "_Fails", "nouns": ["field"], "parameters": {}}  # noqa: RUF012
    how: BaseException

    def _fit(self, target, supply, generator):
        raise self.how


@pytest.mark.parametrize("error", [SolverFailed, np.linalg.LinAlgError, torch.linalg.LinAlgError])
def test_a_failure_is_kept_by_name_and_the_others_go_on(block, error):
    outcome = compare(block, [_Fails(how=error("no convergence")), Mean()], samples=120)
    assert list(outcome.failures.values()) == [f"{error.__name__}: no convergence"]
    assert len(outcome.fitted) == 1
    assert "no convergence" in str(outcome)
    assert outcome.frame()[0]["certified_error"] is None
    assert "no convergence" in outcome.frame()[0]["failure"]


def test_bugs_are_not_hidden_as_failures(block):
    with pytest.raises(TypeError):
        compare(block, [_Fails(how=TypeError("a bug"))], samples=120)


def test_interrupted_keeps_what_was_done(block):
    with pytest.raises(ComparisonInterrupted) as caught:
        compare(block, [Mean(), _Fails(how=KeyboardInterrupt()), Mean()], samples=120)
    rows = caught.value.comparison.rows
    assert [row.failure for row in rows] == ["", "interrupted", "interrupted"]
    assert caught.value.best is rows[0].surrogate


def test_data_rows_that_certify_suffice_for_all_statements_or_are_refused_before_any_fit():
    x = torch.rand(300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.cat([x, x**2], dim=1)
    with pytest.raises(TooFewSamples, match="at least 104"):
        compare(nearly.Field.from_data(x, y, certify=95), [_Fails(how=TypeError("fitted"))] * 2)
    outcome = compare(nearly.Field.from_data(x, y, certify=110), [Mean(samples=16), NearestNeighbor(samples=64)])
    assert len(outcome.fitted) == 2
    assert outcome.rows[0].cost.speedup is None


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "at least one"),
        (["fields.ReducedBass"], "Near: fields.ReducedBasis"),
        ("fields.Mean", "a list"),
        ([3], "a method such as"),
    ],
)
def test_bad_methods_are_refused(block, methods, message):
    with pytest.raises(BadInput, match=message):
        compare(block, methods)


def test_plots_are_written_whole_or_not_at_all(outcome, tmp_path):
    picture = outcome.plot(tmp_path / "a.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in outcome.plot(tmp_path / "a.svg").read_bytes()
    with pytest.raises(BadInput, match=r"\.png or \.svg"):
        outcome.plot(tmp_path / "a.txt")
    with pytest.raises(ArtifactError, match="no folder"):
        outcome.plot(tmp_path / "none" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_cost_is_that_of_a_fit_with_its_own_draws():
    slow = nearly.Field(lambda mu: _slowly(mu), nearly.Box([0.0], [1.0]))
    outcome = compare(slow, [NearestNeighbor(samples=40), NearestNeighbor(samples=20)], samples=100, confidence=0.98)
    first, second = (row.cost for row in outcome.rows)
    assert isinstance(first, Cost)
    # 40 and 20 calls of 5 ms each; the second shares those of the first and is charged for them all the same.
    assert first.seconds_fit > 0.19
    assert second.seconds_fit > 0.09


def _slowly(mu):
    import time

    time.sleep(0.005)
    return torch.cos(mu * torch.arange(3.0, dtype=torch.float64))
