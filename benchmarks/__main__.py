"""`python -m benchmarks [room ...]`: run the rooms' benchmarks and write RESULTS.md."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.harness import write_results

HERE = Path(__file__).parent


def main(rooms: list[str]) -> None:
    """Run the named rooms, all by default; results of the others stay as they are."""
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in {"__init__", "__main__", "harness"})
    unknown = set(rooms) - set(known)
    if unknown:
        sys.exit(f"unknown room {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for room in rooms or known:
        print(f"== {room}", flush=True)
        write_results(HERE / "RESULTS.md", room, importlib.import_module(f"benchmarks.{room}").run())


if __name__ == "__main__":
    main(sys.argv[1:])
