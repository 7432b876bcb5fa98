"""What the commands share: one JSON document or readable text, errors without tracebacks, exit codes, progress bars."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from nearly.core.errors import CertificateViolated, Interrupted, NearlyError, ToleranceNotReached

DONE, MISSED, BAD, INTERRUPTED = 0, 1, 2, 130
WIDTH = 140  # of tables where there is no terminal to ask


class Group(click.Group):
    """Turns the errors of its commands into one message and an exit code; with --json also into one JSON document."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            UsageError: of click, which shows it, when no JSON is asked.
        """
        try:
            return super().invoke(ctx)
        except NearlyError as error:
            code = MISSED if isinstance(error, ToleranceNotReached | CertificateViolated) else BAD
            code = INTERRUPTED if isinstance(error, Interrupted) else code
            fail(type(error).__name__, str(error), code)
        except click.UsageError as error:
            if not ctx.meta.get("json"):
                raise
            fail("BadInput", error.format_message(), BAD)
        except KeyboardInterrupt:
            fail("Interrupted", "interrupted.", INTERRUPTED)


def as_json() -> bool:
    """Whether --json was given."""
    return bool(click.get_current_context().meta.get("json"))


def fail(kind: str, message: str, code: int, result: dict[str, Any] | None = None) -> NoReturn:
    """Print one message on stderr, and with --json one document on stdout, and exit.

    Args:
        kind: of the error, for programs.
        message: for people.
        code: to exit with.
        result: what was done all the same.

    Raises:
        Exit: always.
    """
    click.echo(f"{'' if code == INTERRUPTED else 'error: '}{message}", err=True)
    if as_json():
        print_json({"ok": False, "error": kind, "message": message} | (result or {}))
    raise click.exceptions.Exit(code)


def print_json(value: dict[str, Any]) -> None:
    """One strict JSON document on stdout; numbers that JSON cannot say become null."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def note(text: str) -> None:
    """A remark on stderr."""
    click.echo(text, err=True)


def show(*things: Any) -> None:
    """Print texts and tables for people on stdout; nothing with --json."""
    if as_json():
        return
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for thing in things:
        console.print(thing)


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]], *, title: str = "", bold: int | None = None) -> Any:
    """A table for people.

    Args:
        heads: of the columns.
        rows: of as many texts.
        title: above it.
        bold: the row to stress.
    """
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    columns = [Column(head, no_wrap=place == 0) for place, head in enumerate(heads)]
    made = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for place, row in enumerate(rows):
        made.add_row(*map(Text, row), style="bold" if place == bold else None)
    return made


@contextlib.contextmanager
def progress_bars(what: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """Bars on stderr, one per kind of work; None where stderr is no terminal.

    Args:
        what: is going on as long as no work reports.

    Yields:
        A callback `(what, done, total)`.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield report
