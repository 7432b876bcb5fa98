"""The report: one HTML file that holds everything, and its pictures as files beside it."""

from __future__ import annotations

import base64
import platform
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nearly.core.certificate import Bound, Probable
from nearly.core.errors import BadInput
from nearly.core.files import check_folder, write_files
from nearly.core.validate import describe, require_float
from nearly.core.words import duration
from nearly.report import pictures
from nearly.report.tables import RACE_HEADS, cost_cells, race_cells, race_rows

if TYPE_CHECKING:
    from nearly.core.search import Race
    from nearly.core.target import Target


def write_report(
    race: Race, target: Target, folder: str | Path, *, title: str | None = None, tolerance: float | None = None
) -> list[Path]:
    """Write `report.html`, which needs nothing beside it, and its pictures as PNG files.

    All files are written under temporary names first and then renamed: when one cannot be written, the folder is as it was.

    Args:
        race: finished, as `nearly.race` returns it.
        target: that was raced for.
        folder: created if need be.
        title: of the page; by default the target's name.
        tolerance: that was asked, if any, to draw it.

    Returns:
        The files, the page first.

    Raises:
        BadInput: for a race without a certified winner.
        ArtifactError: when the files cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    if tolerance is not None:
        require_float("tolerance", tolerance, above=0.0)
    winner = race.winner
    if winner is None or winner.cost is None or not isinstance(winner.certificate, Probable):
        raise BadInput("race", "one with a certified winner", describe(winner))
    folder = check_folder(folder)
    drawn = {
        "front": (pictures.front(race, tolerance), _FRONT),
        "errors": (pictures.errors(race, tolerance), _ERRORS),
        "answers": (pictures.answers(race, target), _ANSWERS),
        "spectrum": (pictures.spectrum(race, target, tolerance), _SPECTRUM),
    }
    content = {name: (pictures.to_png(figure), words) for name, (figure, words) in drawn.items() if figure is not None}
    page = _page(race, target, title or target.name, tolerance, content)
    written = {folder / "report.html": page.encode("utf-8")}
    written |= {folder / f"{name}.png": png for name, (png, _) in content.items()}
    write_files(written)
    return list(written)


_FRONT = (
    "Each point is one fit: what it costs to ask, and the error on the validation inputs that all methods share. Cheaper is "
    "to the left, better is down. The star is the one that was certified, at its certified error."
)
_ERRORS = (
    "The true errors behind the certificate, on a logarithmic axis. None of these inputs helped to fit or to choose."
)
_ANSWERS = (
    "The best and the worst of the same inputs. Truth and surrogate share a color scale; the difference has its own."
)
_SPECTRUM = (
    "How fast the outputs on the same inputs can be compressed by any linear basis, in the norm of the errors. Where this falls "
    "slowly, no projection onto few basis functions can be accurate. A basis of as many functions as there are outputs holds them "
    "all, so the right end says nothing about others."
)


def _page(
    race: Race, target: Target, title: str, tolerance: float | None, content: dict[str, tuple[bytes, str]]
) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("nearly.report").joinpath("report.html").read_text(encoding="utf-8"))
    winner = race.winner
    assert winner is not None
    assert winner.cost is not None
    assert isinstance(winner.certificate, Probable)
    images = [
        {"name": name, "words": words, "data": base64.b64encode(png).decode("ascii")}
        for name, (png, words) in content.items()
    ]
    return template.render(
        title=title,
        target=target,
        reached=race.reached,
        tolerance=tolerance,
        winner=winner,
        parameters=", ".join(f"{name} {value}" for name, value in winner.hyperparameters.items()),
        certificate=winner.certificate,
        is_bound=isinstance(winner.certificate, Bound),
        speedup=winner.cost.speedup,
        cost_rows=cost_cells(winner.cost),
        race_heads=RACE_HEADS,
        race_cells=race_cells(race),
        raced=len(race_rows(race)),
        seconds=duration(race.seconds),
        images=images,
        seed=race.supply.seed,
        failures=race.supply.failures[:5],
        failed=len(race.supply.failures),
        versions=", ".join(f"{name} {version(name)}" for name in ("nearly", "torch", "numpy", "scipy")),
        machine=f"Python {platform.python_version()}, {platform.machine()}, {winner.cost.device}",
    )
