"""The commands: demo, fit, compare, certify, predict, methods, optim compare, optim list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nearly.cli.console import (
    INTERRUPTED,
    MISSED,
    Group,
    as_json,
    fail,
    note,
    print_json,
    progress_bars,
    show,
    table,
)
from nearly.cli.optim import optim
from nearly.cli.options import (
    NOUNS,
    PROBLEM_HELP,
    confidence_option,
    json_option,
    problem_options,
    quantile_option,
    samples_option,
    seed_option,
)
from nearly.core.errors import TooFewSamples

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.cli.stored import Statement
    from nearly.core.method import Method
    from nearly.core.surrogate import Surrogate
    from nearly.core.target import Target


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nearly")
def main() -> None:
    """Replace something expensive by something cheap that gives nearly the same answers, and say how nearly.

    Exit codes: 0 done; 1 tolerance not reached, or a certificate violated; 2 bad input or nothing usable; 130 interrupted.
    """


main.add_command(optim)


@main.command(epilog=PROBLEM_HELP)
@click.argument("problem")
@click.option("--tolerance", type=float, help="The certified error wanted: methods race for it.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="ID[:NAME=VALUE,...]",
    help="Only this method; may be repeated. Without --tolerance, or with parameters, it is fitted as it is.",
)
@quantile_option
@confidence_option
@samples_option
@click.option("--evaluations", type=int, help="The most evaluations of the target to fit and choose with.")
@seed_option
@click.option("--out", "-o", type=click.Path(), help="The artifact.  [default: PROBLEM.safetensors]")
@click.option("--report", type=click.Path(), metavar="FOLDER", help="Write a report with pictures into this folder.")
@problem_options
@json_option
def fit(
    problem: str,
    tolerance: float | None,
    methods: tuple[str, ...],
    quantile: float | None,
    confidence: float,
    samples: int | None,
    evaluations: int | None,
    seed: int,
    out: str | None,
    report: str | None,
    **options: Any,
) -> None:
    """Fit a certified surrogate to PROBLEM and save it."""
    from nearly.cli.race import run
    from nearly.core.files import check_file, check_folder
    from nearly.core.validate import require_float

    if tolerance is not None:
        require_float("tolerance", tolerance, above=0.0)
    path = check_file(out or _default_name(problem))
    folder = None if report is None else check_folder(report)
    target, quantile = _open(problem, options, _statement(quantile, confidence))
    chosen = [_method(text) for text in methods]
    fixed = len(chosen) == 1 and (tolerance is None or ":" in methods[0])
    arguments: dict[str, Any] = {"method": chosen[0]} if fixed else {"methods": chosen or None}
    arguments |= {
        "quantile": quantile,
        "confidence": confidence,
        "samples": samples,
        "evaluations": evaluations,
        "seed": seed,
    }
    run(target, tolerance, arguments, path, folder, _as_typed(problem, options))


@main.command(epilog=PROBLEM_HELP)
@click.argument("problem")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="ID[:NAME=VALUE,...]",
    help="May be repeated.  [default: all that fit]",
)
@quantile_option
@confidence_option
@samples_option
@seed_option
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw error against cost into a .png or .svg file.")
@problem_options
@json_option
def compare(
    problem: str,
    methods: tuple[str, ...],
    quantile: float | None,
    confidence: float,
    samples: int | None,
    seed: int,
    plot: str | None,
    **options: Any,
) -> None:
    """Fit several methods to PROBLEM, at their default parameters, and certify them side by side."""
    from nearly.core.compare import ComparisonInterrupted
    from nearly.core.compare import compare as run
    from nearly.core.drawing import check_picture

    if plot is not None:
        check_picture(plot)
    chosen = [_method(text) for text in methods] or None
    # Data must keep enough rows for as many statements as there are methods at most.
    target, quantile = _open(problem, options, _statement(quantile, confidence, statements=len(methods) or None))
    try:
        with progress_bars("comparing") as progress:
            outcome = run(
                target, chosen, samples=samples, quantile=quantile, confidence=confidence, seed=seed, progress=progress
            )
    except ComparisonInterrupted as stop:
        show(stop.comparison.table())
        fail("Interrupted", "interrupted; the methods above were done.", INTERRUPTED, {"rows": stop.comparison.frame()})
    show(outcome.table())
    if plot is not None and outcome.front():
        outcome.plot(plot)
    if not outcome.fitted:
        fail("BadInput", "no method could be fitted.", 2, {"rows": outcome.frame()})
    if as_json():
        print_json({"ok": True, "target": outcome.target, "unit": outcome.unit, "rows": outcome.frame(), "plot": plot})


@main.command(epilog=PROBLEM_HELP)
@click.argument("artifact", type=click.Path())
@click.argument("problem")
@quantile_option
@confidence_option
@samples_option
@seed_option
@problem_options
@json_option
def certify(
    artifact: str,
    problem: str,
    quantile: float | None,
    confidence: float,
    samples: int | None,
    seed: int,
    **options: Any,
) -> None:
    """Measure the surrogate in ARTIFACT on fresh inputs of PROBLEM; exit 1 if they contradict its certificate."""
    from nearly.core.artifact import read_artifact
    from nearly.core.certificate import certificate_to_manifest
    from nearly.core.certify import certify as run
    from nearly.core.errors import CertificateViolated
    from nearly.core.surrogate import load

    seen = read_artifact(artifact)[1]["seen"]
    target, quantile = _open(problem, options, _statement(quantile, confidence, seen=seen))
    surrogate = load(artifact, target=target)
    _require_order(surrogate, target)
    recorded = certificate_to_manifest(surrogate.certificate)
    try:
        with progress_bars("certifying on fresh inputs"):
            fresh = run(surrogate, target, samples=samples, quantile=quantile, confidence=confidence, seed=seed)
    except CertificateViolated as error:
        found = {"recorded": recorded, "fresh": certificate_to_manifest(error.fresh)}
        fail("CertificateViolated", str(error), MISSED, found)
    show(fresh.describe(), "" if recorded is None else "The recorded certificate is not contradicted.")
    if as_json():
        print_json({"ok": True, "recorded": recorded, "fresh": certificate_to_manifest(fresh)})


@main.command()
@click.argument("artifact", type=click.Path())
@click.argument("inputs", type=click.Path())
@click.option(
    "--out", "-o", type=click.Path(), required=True, help="A .npz file: outputs, and bounds if there are any."
)
@click.option("--key", metavar="KEY", help="Array (or columns) of the inputs in the file.")
@click.option("--problem", help="For the few surrogates that call a part of their target.")
@click.option(
    "--outside",
    type=click.Choice(["raise", "warn"]),
    default="raise",
    show_default=True,
    help="Inputs outside the certified domain: refuse, or answer without a certificate.",
)
@json_option
def predict(artifact: str, inputs: str, out: str, key: str | None, problem: str | None, outside: str) -> None:
    """Answer the INPUTS (.npz, .h5, .nc, .csv, whose columns are told by their names) with the surrogate in ARTIFACT."""  # noqa: DOC501 (this is help, errors are caught)
    import io

    import numpy as np
    import torch

    from nearly.core.certify import CHUNK
    from nearly.core.certify import predict as run
    from nearly.core.datafile import read_array
    from nearly.core.errors import BadInput, OutOfDomain
    from nearly.core.files import check_file, write_files
    from nearly.core.surrogate import load

    path = check_file(out)
    if path.suffix.lower() != ".npz":
        raise BadInput("--out", "a .npz file", out)
    target = None if problem is None else _open(problem, {}, _statement(0.95, 0.99))[0]
    surrogate = load(artifact, target=target)
    whole = surrogate.model.takes_integers
    found = torch.from_numpy(read_array(inputs, key, columns=surrogate.columns, integers=whole, notes=note))
    rows = _as_rows(found, surrogate)
    outsiders = (~surrogate.contains(rows)).nonzero().flatten().tolist()
    if outsiders:
        where = f"{len(outsiders)} of {len(rows)} inputs lie outside {surrogate.domain.describe()}; first: input {outsiders[0]}"
        if outside == "raise":
            raise OutOfDomain(
                f"{where}. Nothing is certified there; --outside warn answers all the same, without bounds."
            )
        note(f"warning: {where}. Nothing is certified there.")
    arrays = {"outputs": run(surrogate, rows).numpy()}
    if surrogate.model.theorem is not None and not outsiders:
        with torch.no_grad():
            arrays["bounds"] = torch.cat([surrogate.bound(part) for part in torch.split(rows, CHUNK)]).numpy()
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_files({path: content.getvalue()})
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    show(f"wrote {path}: " + ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()))
    if as_json():
        print_json({"ok": True, "path": str(path), "arrays": shapes, "outside": len(outsiders)})


@main.command()
@click.option("--noun", type=click.Choice(NOUNS), help="Only methods for this kind of target.")
@json_option
def methods(noun: str | None) -> None:
    """List the methods, from their cards."""
    from nearly.core.registry import cards

    found = {name: card for name, card in cards().items() if noun is None or noun in card["nouns"]}
    heads = ("method", "for", "certificate", "replaces", "rate", "cost")
    rows = [
        (name, ", ".join(card["nouns"]), *(str(card.get(key) or "") for key in heads[2:]))
        for name, card in found.items()
    ]
    show(table(heads, rows))
    if as_json():
        print_json({"ok": True, "methods": [{"id": name} | card for name, card in found.items()]})


@main.command()
@click.option(
    "--out", type=click.Path(), default="demo", show_default=True, help="Folder for the report and the artifact."
)
@click.option("--blocks", type=int, nargs=2, default=(3, 3), show_default=True, help="Columns and rows of blocks.")
@click.option("--cells", type=int, default=100, show_default=True, help="Squares per side of the mesh.")
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="The certified error wanted.")
@seed_option
@json_option
def demo(out: str, blocks: tuple[int, int], cells: int, tolerance: float, seed: int) -> None:
    """Race all methods on heat in a block of unknown conductivities, certify the winner, and write a report."""
    from nearly.cli.race import run
    from nearly.core.files import check_folder
    from nearly.core.validate import require_float
    from nearly.problems import build

    require_float("tolerance", tolerance, above=0.0)
    folder = check_folder(out)
    target = build("thermal_block", blocks=blocks, cells=cells)
    problem = _as_typed(f"thermal_block:blocks={blocks},cells={cells}", {})
    run(target, tolerance, {"seed": seed}, folder / "thermal_block.safetensors", folder, problem)


def _statement(
    quantile: float | None, confidence: float, *, statements: int | None = 1, seen: Tensor | None = None
) -> Statement:
    from nearly.cli.stored import Statement

    return Statement(quantile=quantile, confidence=confidence, statements=statements, seen=seen, notes=note)


def _open(problem: str, options: dict[str, Any], statement: Statement) -> tuple[Target, float]:
    from nearly.cli.problem import open_problem
    from nearly.core.errors import BadInput

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("lower", "upper"):
        if name in given:
            try:
                given[name] = [float(part) for part in given[name].split(",")]
            except ValueError as error:
                raise BadInput(f"--{name}", "numbers with commas between", given[name]) from error
    return open_problem(problem, given, statement)


def _as_typed(problem: str, options: dict[str, Any]) -> str:
    """A PROBLEM with the options that complete it, as a shell takes them."""
    import shlex

    words = [problem]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _require_order(surrogate: Surrogate, target: Target) -> None:
    """Refuse the columns of the fit in another order.

    Raises:
        BadInput: then.
    """
    from nearly.core.errors import BadInput

    fitted, given = surrogate.columns, target.columns
    if fitted is not None and given is not None and fitted != given and set(fitted) == set(given):
        raise BadInput("--inputs", ",".join(fitted), ",".join(given), "That is the order in which they were fitted.")


def _as_rows(array: Tensor, surrogate: Surrogate) -> Tensor:
    """One input per row; of a series longer than a surrogate's window, the last rows are the one input.

    Raises:
        TooFewSamples: for a series shorter than the window.
    """
    array = array[:, None] if array.ndim == 1 else array
    example = surrogate.domain.example()
    if array.ndim != 2 or example is None or example.ndim != 3 or example.shape[2] != array.shape[1]:
        return array
    window = example.shape[1]
    if len(array) < window:
        raise TooFewSamples("rows of the series", window, len(array), "the window of this surrogate")
    note(f"note: a series of {len(array)} rows; what follows its last {window} is foretold")
    return array[None, -window:]


def _method(text: str) -> Method:
    """A method from `id` or `id:name=value,...`.

    Raises:
        BadInput: for an unknown method or parameter.
    """
    from nearly.cli.problem import parse_arguments
    from nearly.core.errors import BadInput
    from nearly.core.registry import cards, method_class

    # The ids of other packages hold a colon themselves.
    name, arguments = (text, "") if text in cards() else text.rpartition(":")[::2] if ":" in text else (text, "")
    cls, given = method_class(name), parse_arguments(arguments)
    known = cls.card["parameters"]
    for parameter in given:
        if parameter not in known:
            raise BadInput(f"parameters of {name}", f"among {', '.join(known) or 'none'}", repr(parameter))
    return cls(**given)


def _default_name(problem: str) -> str:
    """The artifact's name after a PROBLEM: the file's stem, the built-in name, or the function's."""
    head, _, tail = problem.partition(":")
    if Path(problem).suffix:
        stem = Path(problem).stem
    else:
        stem = tail if tail.isidentifier() else Path(head).name
    return f"{stem or 'surrogate'}.safetensors"
