"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

AXES = click.Choice(["first", "last"])
NOUNS = ("matrix", "solve", "function", "field", "network", "measure")
PROBLEM_HELP = """PROBLEM is a built-in problem (thermal_block, or thermal_block:cells=50), a .toml file, a file of data
(.npz, .h5, .nc, .csv), or module:function, imported from the current folder."""


def _set_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["json"] = True


json_option = click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_set_json,
    help="Print one JSON document and nothing else.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Fixes every draw.")
samples_option = click.option(
    "--samples", type=int, help="Fresh inputs that certify.  [default: 200, or all data kept for it]"
)
quantile_option = click.option(
    "--quantile",
    type=float,
    help="Share of fresh inputs on which the certified error holds.  [default: 0.95, or what a file's own test rows carry]",
)
confidence_option = click.option(
    "--confidence",
    type=float,
    default=0.99,
    show_default=True,
    help="Of the certificate, over the draw of those inputs.",
)


def problem_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that complete a PROBLEM: names in a file of data, a box for a function."""
    for option in reversed(
        (
            click.option("--inputs", metavar="KEY", help="Data: array (or columns) of the inputs."),
            click.option("--outputs", metavar="KEY", help="Data: array (or columns) of the outputs."),
            click.option("--test-inputs", metavar="KEY", help="Data: inputs that certify."),
            click.option("--test-outputs", metavar="KEY", help="Data: outputs that certify."),
            click.option("--inputs-axis", type=AXES, help="Data: the axis of the inputs that counts rows."),
            click.option("--outputs-axis", type=AXES, help="Data: of the outputs."),
            click.option("--window", type=int, help="A series: rows of history, one row per time."),
            click.option("--horizon", type=int, help="A series: rows to foretell."),
            click.option(
                "--drop-missing", is_flag=True, default=None, help="Data: leave out what touches missing values."
            ),
            click.option("--certify", type=int, help="Data: rows or windows that certify."),
            click.option(
                "--noun", type=click.Choice(NOUNS), help="What it is; one array of data can be a matrix or a measure."
            ),
            click.option("--lower", metavar="A,B,...", help="module:function: lower limits of the inputs."),
            click.option("--upper", metavar="A,B,...", help="module:function: upper limits of the inputs."),
        )
    ):
        command = option(command)
    return command
