"""Methods side by side: one target, the same pairs to fit on, the same fresh pairs to certify on, costs measured alike."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.linalg import LinAlgError

from nearly.core.certificate import Asked, Bound, Probable
from nearly.core.certify import certifying_count, measure, state
from nearly.core.cost import Cost, measure_cost
from nearly.core.drawing import check_picture, new_figure, write_figure
from nearly.core.errors import BadInput, Interrupted, NearlyError
from nearly.core.method import Method
from nearly.core.registry import resolve
from nearly.core.supply import CERTIFYING, Progress, Supply, stream
from nearly.core.surrogate import Surrogate
from nearly.core.target import Pairs, Target
from nearly.core.validate import describe, require_int
from nearly.core.words import count, duration

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method of a comparison.

    Attributes:
        method: its id.
        hyperparameters: it was fitted with.
        surrogate: certified, or None where it failed.
        failure: why it has none.
    """

    method: str
    hyperparameters: dict[str, Any]
    surrogate: Surrogate | None = None
    failure: str = ""

    @property
    def certificate(self) -> Probable:
        """Of the surrogate."""
        assert self.surrogate is not None
        assert isinstance(self.surrogate.certificate, Probable)
        return self.surrogate.certificate

    @property
    def cost(self) -> Cost:
        """Of the surrogate."""
        assert self.surrogate is not None
        assert self.surrogate.cost is not None
        return self.surrogate.cost


@dataclass(frozen=True)
class Comparison:
    """Methods fitted to one target and certified side by side: all their statements hold together with the stated confidence.

    Attributes:
        target: name of the target.
        unit: of the errors.
        rows: one entry per method, in the order asked; failures included.
    """

    target: str
    unit: str
    rows: tuple[Entry, ...]

    @property
    def fitted(self) -> list[Entry]:
        """The entries that have a surrogate, the most accurate first."""
        return sorted((row for row in self.rows if row.surrogate is not None), key=lambda row: row.certificate.error)

    @property
    def failures(self) -> dict[str, str]:
        """Why, by id, methods have no surrogate."""
        return {row.method: row.failure for row in self.rows if row.surrogate is None}

    def front(self) -> list[Entry]:
        """The entries that no other beats in both operations per input and certified error, the cheapest first."""
        front: list[Entry] = []
        for row in sorted(self.fitted, key=lambda row: (row.cost.operations, row.certificate.error)):
            error = row.certificate.error
            if math.isfinite(error) and (not front or error < front[-1].certificate.error):
                front.append(row)
        return front

    def frame(self) -> list[dict[str, Any]]:
        """One flat dictionary per method, for `pandas.DataFrame` or JSON; what is not known is None."""
        return [self._flat(row) for row in self.rows]

    def _flat(self, row: Entry) -> dict[str, Any]:
        flat: dict[str, Any] = {
            "method": row.method,
            "hyperparameters": row.hyperparameters,
            "failure": row.failure or None,
        }
        known = row.surrogate is not None
        level = row.certificate.error if known else math.inf
        flat["certified_error"] = level if math.isfinite(level) else None
        flat["certificate"] = type(row.certificate).__name__ if known else None
        flat["bound"] = row.certificate.bound if known and isinstance(row.certificate, Bound) else None
        names = ("operations", "seconds_alone", "seconds_batched", "bytes", "evaluations", "seconds_fit", "speedup")
        flat |= {name: getattr(row.cost, name) if known else None for name in names}
        flat["on_front"] = known and any(row is other for other in self.front())
        return flat

    def table(self) -> Table:
        """A table for `rich.print`: the most accurate first, the front starred, failures last."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title=f"{self.target}: error {self.unit}", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("method")
        for name in ("certified error", "kind", "operations", "time per input", "speedup", "evaluations", "fit"):
            table.add_column(name, justify="left" if name == "kind" else "right")
        front = self.front()
        for row in self.fitted:
            cost = row.cost
            table.add_row(
                f"{row.method}{' *' if any(row is other for other in front) else ''}",
                f"{row.certificate.error:.3g}",
                type(row.certificate).__name__,
                count(cost.operations),
                duration(cost.seconds_batched),
                "" if cost.speedup is None else f"{cost.speedup:.3g}",
                str(cost.evaluations),
                duration(cost.seconds_fit),
            )
        for name, why in self.failures.items():
            table.add_row(name, "failed", *[""] * 6)
            table.caption = f"{table.caption or '* not beaten in both error and operations'}\n{name}: {why}"
        table.caption = table.caption or "* not beaten in both error and operations"
        table.caption_justify = "left"
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=140, color_system=None).print(self.table())
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def plot(self, path: str | Path) -> Path:
        """Draw certified error against operations per input, with the front, into a .png or .svg file.

        Args:
            path: of the picture.

        Returns:
            The path.

        Raises:
            BadInput: for another kind of file, or when no method was fitted.
        """
        file = check_picture(path)
        if not self.front():
            raise BadInput("comparison", "one with a fitted method", "none")
        figure = new_figure(7, 4.5, "drawing a comparison")
        axes = figure.add_subplot()
        shown = [row for row in self.fitted if 0 < row.certificate.error < math.inf]
        front = [row for row in self.front() if row.certificate.error > 0]
        axes.plot([r.cost.operations for r in front], [r.certificate.error for r in front], color="0.75", zorder=1)
        axes.scatter([r.cost.operations for r in shown], [r.certificate.error for r in shown], zorder=2)
        middle = sorted(row.cost.operations for row in shown)[len(shown) // 2] if shown else 1
        for row in shown:
            left = row.cost.operations < middle or len(shown) == 1
            at, shift, side = (
                (row.cost.operations, row.certificate.error),
                6 if left else -6,
                "left" if left else "right",
            )
            axes.annotate(row.method, at, (shift, 5), textcoords="offset points", fontsize="small", ha=side)
        axes.set(xscale="log", yscale="log", xlabel="operations per input", ylabel=f"certified error\n({self.unit})")
        axes.margins(x=0.15, y=0.1)
        axes.set_title(self.target, loc="left")
        return write_figure(figure, file)


class ComparisonInterrupted(Interrupted):
    """Ctrl-C during a comparison; `comparison` holds the methods that were done, the others as failures."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        fitted = comparison.fitted
        super().__init__(fitted[0].surrogate if fitted else None)


class _Tally(Supply):
    """A supply that several methods share and that tells what each would have spent alone."""

    def __init__(self, target: Target, seed: int, progress: Progress | None) -> None:
        super().__init__(target, seed, progress=progress)
        self.asked = self.chosen = self.drawn = 0
        self.seconds_drawing = self.seconds_here = 0.0

    def start(self) -> None:
        """Begin a method's account, as if it were alone."""
        self.kept.clear()
        self.asked = self.chosen = 0
        self.seconds_here = 0.0

    def fitting(self, n: int) -> Pairs:
        """As of any supply; noted."""
        start = time.perf_counter()
        pairs = super().fitting(n)
        spent = time.perf_counter() - start
        if n > self.drawn:
            self.drawn, self.seconds_drawing = n, self.seconds_drawing + spent
        self.asked, self.seconds_here = max(self.asked, n), self.seconds_here + spent
        return pairs

    def solve(self, inputs: Tensor) -> Tensor:
        """As of any supply; noted."""
        outputs = super().solve(inputs)
        self.chosen += len(inputs)
        return outputs

    def seconds(self, wall: float) -> float:
        """Of a fit that had drawn its own pairs, from the wall clock of one that shared them."""
        return wall - self.seconds_here + self.seconds_drawing * self.asked / max(self.drawn, 1)


def compare(
    target: Target,
    methods: Sequence[Method | str] | None = None,
    *,
    samples: int | None = None,
    quantile: float = 0.95,
    confidence: float = 0.99,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Fit methods to one target and hold them side by side.

    All draw on the same fitting pairs, and all are certified on the same fresh pairs; their certificates hold together with the
    stated confidence (union bound), so the best may be picked by its certificate. A method that fails is kept with the reason.

    Args:
        target: what to replace.
        methods: instances, or ids for default parameters; by default all methods that can fit the target.
        samples: fresh inputs that certify; by default 200 or the least needed, with data all rows kept for it.
        quantile: share of fresh inputs on which each certified error holds.
        confidence: of all the statements together.
        seed: fixes every draw.
        progress: called with (what, done, total).

    Returns:
        The comparison.

    Raises:
        BadInput: for arguments that are not as above, or when no method can fit the target.
        ComparisonInterrupted: on Ctrl-C once fitting has begun; carries what was done.

    Example:
        >>> from nearly.problems import thermal_block
        >>> outcome = compare(thermal_block((2, 1), cells=8), ["fields.ReducedBasis"], samples=100)
        >>> [row.method for row in outcome.front()]
        ['fields.ReducedBasis']
    """
    if not isinstance(target, Target):
        raise BadInput("target", "a target such as nearly.Field or nearly.Function", describe(target))
    require_int("seed", seed, least=0)
    chosen = resolve(target, methods)
    asked = Asked(quantile, confidence, statements=len(chosen))
    count = certifying_count(target, samples, asked)
    pairs = target.draw(count, stream(seed, CERTIFYING))
    supply = _Tally(target, seed, progress)
    rows: list[Entry] = []
    try:
        for place, method in enumerate(chosen):
            if progress is not None:
                progress(f"fitting {len(chosen)} methods", place, len(chosen))
            rows.append(_entry(method, target, supply, pairs, asked, seed))
    except KeyboardInterrupt:
        rest = [Entry(method=m.id(), hyperparameters=asdict(m), failure="interrupted") for m in chosen[len(rows) :]]
        raise ComparisonInterrupted(Comparison(target.name, target.unit, (*rows, *rest))) from None
    if progress is not None:
        progress(f"fitting {len(chosen)} methods", len(chosen), len(chosen))
    return Comparison(target.name, target.unit, tuple(rows))


def _entry(method: Method, target: Target, supply: _Tally, pairs: Pairs, asked: Asked, seed: int) -> Entry:
    supply.start()
    start = time.perf_counter()
    entry: dict[str, Any] = {"method": method.id(), "hyperparameters": asdict(method)}
    try:
        surrogate = method.fit(target, seed=seed, supply=supply)
        seconds = supply.seconds(time.perf_counter() - start)
        errors, bounds = measure(surrogate, target, pairs)
        surrogate.certificate = state(surrogate, target, pairs, errors, bounds, asked)
        surrogate.cost = measure_cost(
            surrogate, target, pairs.inputs, evaluations=supply.asked + supply.chosen, seconds_fit=seconds
        )
    except (
        NearlyError,
        RuntimeError,
        ArithmeticError,
        LinAlgError,
    ) as error:  # torch's own LinAlgError is a RuntimeError
        return Entry(**entry, failure=f"{type(error).__name__}: {error}")
    return Entry(**entry, surrogate=surrogate)
