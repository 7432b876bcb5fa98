"""The report: one page that needs nothing else, true to the race, and written whole or not at all."""

from __future__ import annotations

import base64
import os
import re

import pytest
import torch

import nearly
from nearly.core.contest import Rung
from nearly.core.errors import ArtifactError, BadInput
from nearly.core.search import Race
from nearly.core.supply import Supply
from nearly.problems import smooth_function, thermal_block
from nearly.report import check_folder, pictures, write_report
from nearly.report.tables import cost_cells, race_cells, race_rows


@pytest.fixture(scope="module")
def block():
    return thermal_block((2, 2), cells=8)


@pytest.fixture(scope="module")
def raced(block):
    return nearly.race(
        block, 0.02, samples=110, methods=["fields.ReducedBasis", "fields.Mean", "fields.NearestNeighbor"]
    )


@pytest.fixture(scope="module")
def folder(raced, block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "deep"
    write_report(raced, block, folder, tolerance=0.02, title="Heat & <blocks>")
    return folder


def test_the_page_needs_nothing_but_itself(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"https?://|@import|<script|<link", page)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    files = [folder / f"{name}.png" for name in ("front", "errors", "answers", "spectrum")]
    assert [base64.b64decode(image) for image in images] == [file.read_bytes() for file in files]
    assert "Heat &amp; &lt;blocks&gt;" in page
    assert "<blocks>" not in page


def test_the_page_says_what_the_race_found(folder, raced):
    import html

    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert raced.winner.certificate.describe() in page
    assert f"<b>{raced.winner.certificate.error:.3g}</b>" in page
    assert "0.02 asked: reached" in page
    for cells in (*race_cells(raced), *cost_cells(raced.winner.cost)):
        assert all(cell in page for cell in cells)
    # A table's row of the winner comes first and is the only one that is marked.
    rows = re.findall(r'<tr class="winner"><td class="n">([^<]+)</td>', page)
    assert rows == [raced.winner.method]


def test_a_missed_tolerance_is_called_missed(block, tmp_path):
    missed = nearly.race(block, 1e-9, samples=110, methods=["fields.Mean"])
    page = write_report(missed, block, tmp_path, tolerance=1e-9)[0].read_text(encoding="utf-8")
    assert "not reached" in page
    assert 'class="fact bad"' in page


def test_race_rows(raced):
    rows = race_rows(raced)
    assert {row["method"] for row in rows} == {"fields.ReducedBasis", "fields.Mean", "fields.NearestNeighbor"}
    assert [row["winner"] for row in rows] == [True, False, False]
    assert rows[0]["certified"] == raced.winner.certificate.error
    assert all(row["certified"] is None for row in rows[1:])
    assert all(row["stopped"] for row in rows)
    assert all(row["validation"] > 0 for row in rows)


def test_a_winner_whose_method_climbed_on_keeps_its_row(block):
    raced = nearly.race(block, 0.2, samples=110, methods=["fields.ReducedBasis", "fields.Mean"])
    first = race_rows(raced)[0]
    (leader,) = [contender for contender in raced.contenders if contender.name == raced.winner.method]
    leader.rungs.append(Rung(200, 1e-5, 10**9, 0.0))
    leader.surrogate = None
    row = race_rows(raced)[0]
    assert row["winner"]
    assert {key: row[key] for key in ("method", "budget", "validation", "operations", "certified")} == {
        key: first[key] for key in ("method", "budget", "validation", "operations", "certified")
    }


def test_a_method_fitted_alone_claims_no_validation(block):
    alone = nearly.race(block, method="fields.ReducedBasis", samples=90)
    (row,) = race_rows(alone)
    assert row["validation"] is None
    assert row["certified"] == alone.winner.certificate.error


def test_cost_cells_give_the_ratio_and_its_direction(raced):
    cost = raced.winner.cost
    cells = {row[0]: row for row in cost_cells(cost)}
    assert cells["memory of its arrays"][3].endswith("more" if cost.bytes > cost.target_bytes else "less")
    batched = cells[f"time per input, in a batch of {cost.batch}"]
    ratio = cost.target_seconds_batched / cost.seconds_batched
    assert batched[3] == (f"{ratio:.3g} times less" if ratio >= 1 else f"{1 / ratio:.3g} times more")


def test_the_error_picture_marks_the_certified_level_and_the_tolerance(raced):
    figure = pictures.errors(raced, 0.02)
    (axes,) = figure.axes
    marks = [line.get_xdata()[0] for line in axes.lines]
    assert raced.winner.certificate.error in marks
    assert 0.02 in marks
    assert float(raced.errors.quantile(0.95)) in marks
    heights = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")]
    assert sum(heights) == len(raced.errors)  # every error is in a bin
    afar = pictures.errors(raced, 1e6)
    assert afar.axes[0].get_xlim()[1] < 1e3
    assert any("1e+06, far outside" in text.get_text() for text in afar.legends[0].get_texts())


def test_the_front_shows_every_rung(raced):
    figure = pictures.front(raced, 0.02)
    points = sum(len(line.get_xdata()) for line in figure.axes[0].lines)
    # The certified one is a point of its own; the tolerance is a line of two.
    assert points == sum(len(contender.rungs) for contender in raced.contenders) + 1 + 2


def test_the_spectrum_is_that_of_the_outputs_in_the_norm_of_the_errors(raced, block):
    import numpy as np

    figure = pictures.spectrum(raced, block, None)
    drawn = figure.axes[0].lines[0].get_ydata()
    factor = np.linalg.cholesky(block.product.toarray() + 1e-13 * np.eye(block.product.shape[0]))
    singular = np.linalg.svd(raced.fresh.outputs.numpy() @ factor, compute_uv=False)
    np.testing.assert_allclose(drawn[:8], singular[:8] / singular[0], rtol=1e-5)
    tail = figure.axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(tail[3], np.sqrt((singular[4:] ** 2).sum() / (singular**2).sum()), rtol=1e-4)


def test_best_and_worst_are_drawn_with_their_errors(raced, block):
    figure = pictures.answers(raced, block)
    words = [part.get_suptitle() for part in figure.subfigs]
    assert f"error {float(raced.errors.min()):.3g} " in words[0]
    assert f"error {float(raced.errors.max()):.3g} " in words[1]
    titles = [axes.get_title() for axes in figure.subfigs[0].axes if axes.get_title()]
    assert titles == ["truth", "surrogate", "surrogate − truth"]


@pytest.mark.parametrize("shape", [(7,), (6, 5), (2, 6, 5)])
def test_vectors_and_grids_are_drawn(shape, tmp_path):
    x = torch.rand(260, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(0.5, 1, torch.Size(shape).numel(), dtype=torch.float64)
    target = nearly.Field.from_data(x, torch.sin(3 * x * grid).reshape(-1, *shape))
    files = write_report(nearly.race(target, 0.05), target, tmp_path)
    assert tmp_path / "answers.png" in files


@pytest.mark.parametrize("dimension", [1, 2])
def test_functions_are_drawn(dimension, tmp_path):
    target = smooth_function("entire", dimension)
    files = write_report(nearly.race(target, 0.1, samples=110), target, tmp_path)
    assert tmp_path / "answers.png" in files
    assert tmp_path / "spectrum.png" not in files  # one number per output has none


def test_errors_that_are_all_zero_leave_their_picture_out(raced):
    exact = Race(raced.contenders, raced.supply, winner=raced.winner, fresh=raced.fresh, errors=torch.zeros(5))
    assert pictures.errors(exact, 0.1) is None


def test_a_race_without_a_winner_is_refused(block, tmp_path):
    with pytest.raises(BadInput, match="certified winner"):
        write_report(Race([], Supply(block, 0)), block, tmp_path)
    assert not list(tmp_path.iterdir())


def test_same_race_same_bytes(raced, block, tmp_path, folder):
    again = write_report(raced, block, tmp_path, tolerance=0.02, title="Heat & <blocks>")
    for file in again:
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_a_failing_write_leaves_the_folder_as_it_was(raced, block, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("the old one")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_report(raced, block, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the old one"
    calls.clear()
    with pytest.raises(ArtifactError):
        write_report(raced, block, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_folders_that_take_no_files_are_refused_and_none_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is no folder"):
        check_folder(tmp_path / "file" / "deep")
    assert check_folder(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
