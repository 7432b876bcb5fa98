"""Optimizers side by side on one training: equal steps or equal time, rates chosen alike, several seeds, losers included."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nearly.core.drawing import check_picture, new_figure, write_figure
from nearly.core.errors import BadInput, Interrupted
from nearly.core.registry import optimizer_cards, optimizer_class
from nearly.core.validate import describe, require_float, require_int
from nearly.core.words import duration, size
from nearly.optim._layers import linear_layers
from nearly.optim.training import TUNING, Factory, Trained, Training, best_rate, made, records_layers, train

if TYPE_CHECKING:
    from rich.table import Table

    from nearly.core.supply import Progress


@dataclass(frozen=True)
class OptimizerComparison:
    """All trainings of a comparison.

    Attributes:
        unit: of the budget, "steps" or "seconds".
        budget: that each training had.
        trained: by optimizer and seed.
        parameters: numbers that the model has.
    """

    unit: str
    budget: float
    trained: tuple[Trained, ...]
    parameters: int

    def names(self) -> list[str]:
        """The optimizers, the lowest median of last losses first."""
        medians: dict[str, list[float]] = {}
        for one in self.trained:
            medians.setdefault(one.optimizer, []).append(one.loss)
        return sorted(medians, key=lambda name: statistics.median(medians[name]))

    def frame(self) -> list[dict[str, Any]]:
        """One flat dictionary per optimizer, for `pandas.DataFrame` or JSON, the best first."""
        rows = []
        for name in self.names():
            ours = [one for one in self.trained if one.optimizer == name]
            losses = sorted(one.loss for one in ours)
            rows.append(
                {
                    "optimizer": name,
                    "rate": ours[0].rate,
                    "loss": statistics.median(losses),
                    "lowest": losses[0],
                    "highest": losses[-1],
                    "seeds": len(ours),
                    "steps": statistics.median(one.curve[-1].steps for one in ours),
                    "seconds_per_step": statistics.median(
                        one.curve[-1].seconds / max(1, one.curve[-1].steps) for one in ours
                    ),
                    "state_bytes_per_parameter": ours[0].state_bytes / self.parameters,
                    "peak_bytes": ours[0].peak_bytes,
                    "failure": next((one.failure for one in ours if one.failure), None),
                }
            )
        return rows

    def curves(self) -> list[dict[str, Any]]:
        """All trainings with their curves, for JSON."""
        return [asdict(one) for one in self.trained]

    def table(self) -> Table:
        """A table for `rich.print`, the best first."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        budget = duration(self.budget) if self.unit == "seconds" else f"{self.budget:.0f} steps"
        made = Table(title=f"Loss after {budget}", title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
        failures = []
        made.add_column("optimizer")
        for head in (
            "rate",
            "median loss",
            "lowest to highest",
            "steps",
            "time per step",
            "state per parameter",
            "peak",
        ):
            made.add_column(head, justify="right")
        for row in self.frame():
            made.add_row(
                row["optimizer"],
                f"{row['rate']:.2g}",
                f"{row['loss']:.4g}",
                f"{row['lowest']:.4g} to {row['highest']:.4g}",
                f"{row['steps']:.0f}",
                duration(row["seconds_per_step"]),
                f"{row['state_bytes_per_parameter']:.2f} bytes",
                "" if row["peak_bytes"] is None else size(row["peak_bytes"]),
            )
            if row["failure"]:
                failures.append(f"{row['optimizer']}: {row['failure']}")
        made.caption = Text("\n".join(failures)) if failures else None
        return made

    def plot(self, path: str | Path) -> Path:
        """Draw loss against steps and against time, a line through the seeds' medians and a band from lowest to highest.

        The axis of losses is logarithmic where all of them are positive; what is not finite is left out.

        Args:
            path: of a .png or .svg file.

        Returns:
            The path.
        """
        file = check_picture(path)
        figure = new_figure(10, 4.2, "drawing a comparison of optimizers")
        panels = figure.subplots(1, 2, sharey=True)
        losses = [p.loss for one in self.trained for p in one.curve if math.isfinite(p.loss)]
        scale = "log" if losses and min(losses) > 0 else "linear"
        for name in self.names():
            ours = [one.curve for one in self.trained if one.optimizer == name]
            columns = list(zip(*ours, strict=False))
            middle, low, high = (
                [_shown(pick(p.loss for p in column)) for column in columns] for pick in (statistics.median, min, max)
            )
            for panel, across in zip(panels, ("steps", "seconds"), strict=True):
                x = [statistics.median(getattr(p, across) for p in column) for column in columns]
                (line,) = panel.plot(x, middle, label=name)
                panel.fill_between(x, low, high, color=line.get_color(), alpha=0.2, lw=0)
                panel.set(xlabel=across, yscale=scale)
        panels[0].set_ylabel("loss")
        panels[1].legend(fontsize="small")
        return write_figure(figure, file)


def _shown(loss: float) -> float:
    return loss if math.isfinite(loss) else math.nan


class OptimizersInterrupted(Interrupted):
    """Ctrl-C during a comparison; `comparison` holds the trainings that were done."""

    def __init__(self, comparison: OptimizerComparison) -> None:
        self.comparison = comparison
        super().__init__(None)
        self.args = (f"interrupted; the {len(comparison.trained)} trainings that were done are kept in .comparison.",)


def compare(
    training: Training,
    optimizers: Mapping[str, Factory] | Sequence[str] | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seeds: int = 3,
    progress: Progress | None = None,
) -> OptimizerComparison:
    """Train the same model with several optimizers, and tell which wins on it.

    Every optimizer gets the same budget in each training, and the same search for its rate: 0.1, 0.3, 1, 3 and 10 times its
    default, and further by factors of 3 while an end is best, on a seed of model and data that is not among the compared ones.
    Time is that of batches, losses, gradients and steps; validation and the curve's bookkeeping are not counted.

    Args:
        training: model, data and loss.
        optimizers: by name, each called as `factory(named_parameters, lr=...)`; or ids such as "AdamW" of this library and
            "torch.SGD" of torch; by default all members that train any module of that size and with layers of that kind.
            Members, and `functools.partial` of them, that ask for the module get it.
        steps: of each training; or
        seconds: of each training.
        seeds: how many are compared.
        progress: a callback `(what, done, total)`.

    Returns:
        All trainings.

    Raises:
        BadInput: for arguments that are not as above.
        OptimizersInterrupted: at Ctrl-C, with the trainings that were done.

    Example:
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> first = lambda model, x: (model(x) - x[:, :1]).square().mean()
        >>> training = Training(lambda seed: torch.nn.Linear(3, 1), lambda seed: [x], first)
        >>> compare(training, ["AdamW", "torch.SGD"], steps=30, seeds=1).names()
        ['torch.SGD', 'AdamW']
    """
    if (steps is None) == (seconds is None):
        raise BadInput("steps", "given, or seconds, one of the two", f"steps={steps}, seconds={seconds}")
    require_int("seeds", seeds, least=1)
    if steps is not None:
        require_int("steps", steps, least=1)
    if seconds is not None:
        require_float("seconds", seconds, above=0.0)
    if not isinstance(training, Training):
        raise BadInput("training", "a nearly.optim.Training", describe(training))
    first = made(training, TUNING)
    _require_apart(first, made(training, TUNING))
    training = replace(training, make_data=_new_each_time(training.make_data))
    count = sum(parameter.numel() for parameter in first.parameters())
    factories = resolve(optimizers, count)
    if optimizers is None and not linear_layers(first):
        factories = {name: factory for name, factory in factories.items() if not records_layers(factory)}
    budget, unit = (float(steps), "steps") if steps is not None else (float(seconds or 0.0), "seconds")
    done: list[Trained] = []
    try:
        for place, (name, factory) in enumerate(factories.items()):
            if progress is not None:
                progress("optimizers", place, len(factories))
            rate = best_rate(training, name, factory, budget, unit)
            for seed in range(seeds):
                done.append(train(training, name, factory, rate, seed, budget, unit, peak=seed == 0))
    except KeyboardInterrupt:
        raise OptimizersInterrupted(OptimizerComparison(unit, budget, tuple(done), count)) from None
    return OptimizerComparison(unit, budget, tuple(done), count)


def _require_apart(first: nn.Module, second: nn.Module) -> None:
    trained = {id(one) for one in first.parameters() if one.requires_grad}
    for name, parameter in second.named_parameters():
        if id(parameter) in trained:
            requirement = "a function that returns a new module each time, as trainings must not go on from one another"
            raise BadInput("make_model", requirement, f"one with {name} of the module before")


def _new_each_time(make_data: Callable[[int], Iterable[Any]]) -> Callable[[int], Iterable[Any]]:
    """The same, but for one that returns an iterator a second time: what is left in it is another training's data."""
    last: Iterable[Any] | None = None

    def make(seed: int) -> Iterable[Any]:
        nonlocal last
        found = make_data(seed)
        if isinstance(found, Iterator) and found is last:
            raise BadInput("make_data", "a function that returns new batches each time", "the iterator from before")
        last = found
        return found

    return make


def resolve(optimizers: Mapping[str, Factory] | Sequence[str] | None, size: int) -> dict[str, Factory]:
    """Factories by name.

    Args:
        optimizers: as of `compare`.
        size: numbers that the model has; of all members, those that it is not too large for are taken.

    Returns:
        At least one.

    Raises:
        BadInput: for an unknown id, or what cannot be called with a rate.
    """
    if optimizers is None:
        # Dense Hessians of large models would not end, or not fit.
        return {
            card["name"]: optimizer_class(name)
            for name, card in optimizer_cards().items()
            if card.get("kind", "training") == "training" and card.get("largest", size) >= size
        }
    if isinstance(optimizers, str) or not optimizers:
        raise BadInput("optimizers", "names, or a dictionary of factories", repr(optimizers))
    if isinstance(optimizers, Mapping):
        found = dict(optimizers)
    else:
        found = {str(name): _named(str(name)) for name in optimizers}
    for name, factory in found.items():
        if not callable(factory) or "lr" not in inspect.signature(factory).parameters:
            raise BadInput(f"optimizer {name}", "a factory that takes parameters and lr=", describe(factory))
    return found


def _named(name: str) -> Factory:
    if name.startswith("torch."):
        found = getattr(torch.optim, name.removeprefix("torch."), None)
        if not isinstance(found, type) or not issubclass(found, torch.optim.Optimizer):
            raise BadInput("optimizer", "a class of torch.optim", repr(name))
        return found
    return optimizer_class(f"optim.{name.removeprefix('optim.')}")
