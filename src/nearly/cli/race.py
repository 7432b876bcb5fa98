"""The race behind `fit` and `demo`: what is saved, written and printed when it is over, or interrupted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearly.cli.console import INTERRUPTED, MISSED, as_json, fail, print_json, progress_bars, show, table

if TYPE_CHECKING:
    from nearly.core.search import Race
    from nearly.core.surrogate import Surrogate
    from nearly.core.target import Target


def run(
    target: Target, tolerance: float | None, arguments: dict[str, Any], path: Path, folder: Path | None, problem: str
) -> None:
    """Race, save, report and print; the best surrogate is saved whether or not it meets the tolerance.

    Args:
        target: to replace.
        tolerance: asked for, or None.
        arguments: of the race beside these.
        path: of the artifact.
        folder: of the report, or None.
        problem: as it was named, with its options, for messages.

    Raises:
        Interrupted: on Ctrl-C before anything was fitted.
    """
    from nearly.core.errors import Interrupted
    from nearly.core.search import not_reached, race

    try:
        with progress_bars(f"racing on {target.name}") as progress:
            outcome = race(target, tolerance, progress=progress, **arguments)
    except Interrupted as stop:
        if stop.best is None:
            raise
        _save(stop.best, path)
        message = f"interrupted; the best surrogate so far is in {path}"
        if stop.best.certificate is None:
            message += f", not certified: nearly certify {shlex.quote(str(path))} {problem}"
        fail("Interrupted", message, INTERRUPTED, {"artifact": str(path), "method": stop.best.method})
    assert outcome.winner is not None
    _save(outcome.winner, path)
    written = _report(outcome, target, folder, tolerance)
    result = _result(outcome, path, written)
    _show_race(outcome, target)
    show(f"Saved {path}." + (f" Report: {written[0]}" if written else ""))
    if not outcome.reached:
        error = not_reached(outcome, tolerance)
        fail(type(error).__name__, f"{error} It is saved in {path}.", MISSED, result | {"advice": error.advice})
    if as_json():
        print_json({"ok": True} | result)


def _save(surrogate: Surrogate, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    surrogate.save(path)


def _report(outcome: Race, target: Target, folder: Path | None, tolerance: float | None) -> list[Path]:
    if folder is None:
        return []
    from nearly.report import write_report

    return write_report(outcome, target, folder, tolerance=tolerance)


def _show_race(outcome: Race, target: Target) -> None:
    from nearly.report.tables import RACE_HEADS, cost_cells, race_cells

    winner = outcome.winner
    assert winner is not None
    assert winner.cost is not None
    assert winner.certificate is not None
    heads = ("cost", "surrogate", "target", "the surrogate needs")
    show(
        table(RACE_HEADS, race_cells(outcome), title=f"{target.name}: error {target.unit}", bold=0),
        table(heads, list(cost_cells(winner.cost))),
        winner.certificate.describe(),
    )


def _result(outcome: Race, path: Path, written: list[Path]) -> dict[str, Any]:
    from nearly.core.certificate import certificate_to_manifest
    from nearly.report.tables import race_rows

    winner = outcome.winner
    assert winner is not None
    assert winner.cost is not None
    return {
        "reached": outcome.reached,
        "artifact": str(path),
        "method": winner.method,
        "hyperparameters": winner.hyperparameters,
        "certificate": certificate_to_manifest(winner.certificate),
        "cost": winner.cost.to_manifest() | {"speedup": winner.cost.speedup},
        "race": race_rows(outcome),
        "seconds": outcome.seconds,
        "report": [str(file) for file in written],
    }
