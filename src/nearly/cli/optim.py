"""The commands of `nearly optim`: compare, list."""

from __future__ import annotations

import click

from nearly.cli.console import INTERRUPTED, Group, as_json, fail, print_json, progress_bars, show, table
from nearly.cli.options import json_option


@click.group(cls=Group)
def optim() -> None:
    """Optimizers for training networks."""


@optim.command("compare")
@click.argument("train", type=click.Path())
@click.option("--steps", type=int, help="Of each training.")
@click.option("--seconds", type=float, help="Of each training, instead of steps.")
@click.option(
    "--optimizer",
    "optimizers",
    multiple=True,
    metavar="ID",
    help="Such as Muon or torch.SGD; may be repeated.  [default: all of `nearly optim list`]",
)
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings of each optimizer.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw the curves into a .png or .svg file.")
@json_option
def compare(
    train: str, steps: int | None, seconds: float | None, optimizers: tuple[str, ...], seeds: int, plot: str | None
) -> None:
    """Train the model of TRAIN with several optimizers, and tell which wins.

    TRAIN is digits, characters, or a Python file, which is run, with make_model(seed), make_data(seed) (batches),
    loss(model, batch) and, if wanted, validate(model).
    """
    from nearly.cli.training import open_training
    from nearly.core.drawing import check_picture
    from nearly.optim.comparison import OptimizersInterrupted
    from nearly.optim.comparison import compare as run

    if plot is not None:
        check_picture(plot)
    training = open_training(train)
    names = list(optimizers) or None
    try:
        with progress_bars("comparing") as progress:
            outcome = run(training, names, steps=steps, seconds=seconds, seeds=seeds, progress=progress)
    except OptimizersInterrupted as stop:
        show(stop.comparison.table())
        found = {"rows": stop.comparison.frame()}
        fail("Interrupted", "interrupted; the optimizers above were done.", INTERRUPTED, found)
    show(outcome.table())
    if plot is not None:
        outcome.plot(plot)
    if as_json():
        print_json({"ok": True, "rows": outcome.frame(), "trained": outcome.curves(), "plot": plot})


@optim.command("list")
@json_option
def listed() -> None:
    """List the optimizers, from their cards."""
    from nearly.core.registry import optimizer_cards

    heads = ("optimizer", "replaces", "cost")
    found = list(optimizer_cards().values())
    show(table(heads, [(card["name"], card["replaces"], card["cost"]) for card in found]))
    if as_json():
        print_json({"ok": True, "optimizers": found})
