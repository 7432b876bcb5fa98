"""The claim harness: every claim records what it measured and what its baseline did; `make claims` writes them to RESULTS.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROWS: list[tuple[str, str, str, str, str, float]] = []
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-results", action="store_true", help="write claims/RESULTS.md")


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """`record(claim=..., measured=..., baseline=...)`: note a measurement; a claim that records none fails."""
    start, before = time.perf_counter(), len(ROWS)
    path = Path(request.node.path)
    row = path.stem.split("_")[1]

    def note(*, claim: str, measured: float | str, baseline: float | str) -> None:
        print(f"{claim}: measured {_shown(measured)}, baseline {_shown(baseline)}")
        seconds = time.perf_counter() - start
        ROWS.append((row, path.parent.name, claim, _shown(measured), _shown(baseline), seconds))

    yield note
    assert len(ROWS) > before, "a claim records what it measured"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--write-results") or not ROWS:
        return
    lines = [
        "# Claims",
        "",
        "Written by `make claims`. One line per measurement; the bars are in the claims' docstrings.",
        "",
        "| row | room | claim | measured | baseline | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row, room, claim, measured, baseline, seconds in sorted(ROWS, key=lambda r: (int(r[0]), r[2])):
        lines.append(f"| {row} | {room} | {claim} | {measured} | {baseline} | {seconds:.1f} |")
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
