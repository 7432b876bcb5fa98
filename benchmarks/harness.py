"""Interleaved timing, peak memory, the environment, and the results file."""

from __future__ import annotations

import platform
import re
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Table:
    """One measured comparison: a title, what was done, a header and rows, and remarks."""

    title: str
    what: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """As Markdown."""
        lines = [
            f"### {self.title}",
            "",
            self.what,
            "",
            "| " + " | ".join(self.header) + " |",
            "|" + "---|" * len(self.header),
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {remark}" for remark in self.remarks)]).rstrip() + "\n"


REST = 0.1  # seconds, in which the threads of one library stop to spin on the cores that the next one wants


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median wall-clock seconds of each call, the calls taken in turn so that drift of the machine hits all alike."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(REST)
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def once(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def seconds(value: float) -> str:
    """A time with its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def environment(threads: int) -> str:
    """What it was measured on, in one line."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"model name\s*:\s*(.+)", info.read_text())
        processor = match.group(1) if match else processor
    packages = []
    for name in ("torch", "numpy", "scipy", "pymor", "scikit-learn"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    python = f"Python {platform.python_version()}"
    return f"{processor}, {threads} thread(s), {python}, {', '.join(packages)}; peak memory {peak:.2f} GiB."


def write_results(path: Path, room: str, tables: list[Table], threads: int = 1) -> None:
    """Replace one room's part of the results file."""
    head = (
        "# Benchmarks\n\nWritten by `make bench`. Medians of interleaved runs; a ratio counts only at equal accuracy.\n"
    )
    old = path.read_text(encoding="utf-8") if path.exists() else head
    parts = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", old, flags=re.MULTILINE | re.DOTALL))
    parts[room] = f"\n{environment(threads)}\n\n" + "\n".join(table.text() for table in tables)
    body = "".join(f"\n## {name}\n{parts[name].rstrip()}\n" for name in sorted(parts))
    path.write_text(head + body, encoding="utf-8")
    for table in tables:
        print(table.text())
