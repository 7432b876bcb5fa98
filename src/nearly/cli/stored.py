"""A file of data as a target: which rows fit, which certify, and how much these allow to be said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nearly.core.datafile import Axis, Data, read_array, read_data, read_series
from nearly.core.errors import BadInput, TooFewSamples

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.target import Target

Metric = Literal["spread", "absolute", "relative"]
QUANTILE = 0.95  # where none is asked for
LEAST_QUANTILE = 0.5  # below it, a level is not worth stating
MOST_CERTIFYING = 1000


class Stored(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A file of data."""

    data: str
    inputs: str | None = None
    outputs: str | None = None
    test_inputs: str | None = None
    test_outputs: str | None = None
    inputs_axis: Axis | None = None
    outputs_axis: Axis | None = None
    window: int | None = None
    horizon: int | None = None
    drop_missing: bool = False
    noun: Literal["function", "field", "matrix", "solve", "measure"] | None = None
    certify: int | None = None
    metric: Metric = "spread"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is to be said about the surrogate, so that data keep enough rows for it; `notes` takes remarks.

    Attributes:
        quantile: of the certificate; None for 0.95, or less where a file's own test rows carry no more.
        confidence: of the certificate.
        statements: made side by side; None for one on each method of the noun.
        seen: fingerprints of the rows that a surrogate to certify has used: all others certify, and nothing is fitted.
        notes: called with remarks.
    """

    quantile: float | None = None
    confidence: float = 0.99
    statements: int | None = 1
    seen: Tensor | None = None
    notes: Callable[[str], None] = lambda text: None

    def asked(self, noun: str) -> float:
        """The confidence of each of the statements.

        Args:
            noun: whose methods they are about.
        """
        from nearly.core.registry import cards

        count = self.statements or sum(noun in card["nouns"] for card in cards().values())
        return 1 - (1 - self.confidence) / max(1, count)

    def level(self, rows: int, noun: str, what: str) -> float:
        """The quantile to state with so many certifying rows: the one asked for, or by default the most that they carry.

        Args:
            rows: that certify.
            noun: of the target.
            what: they are, for the remark.

        Returns:
            The quantile, in hundredths where it is lowered.

        Raises:
            TooFewSamples: where not even the median can be stated.
        """
        from nearly.core.certificate import least_samples

        confidence = self.asked(noun)
        if self.quantile is not None or rows >= least_samples(QUANTILE, confidence):
            return QUANTILE if self.quantile is None else self.quantile
        least = least_samples(LEAST_QUANTILE, confidence)
        if rows < least:
            why = f"a {LEAST_QUANTILE} quantile with confidence {confidence:.4g}; certify = N keeps others"
            raise TooFewSamples(what, least, rows, why)
        # The largest of n errors lies above the q-quantile with probability 1 - q^n.
        quantile = math.floor(100 * (1 - confidence) ** (1 / rows)) / 100
        self.notes(
            f"note: {rows} {what} certify; with confidence {self.confidence:g} they carry the {quantile:g} quantile, "
            f"not {QUANTILE:g}"
        )
        return quantile


def open_stored(problem: Stored, statement: Statement) -> tuple[Target, float]:
    """The target of a file of data.

    Args:
        problem: what the file is.
        statement: what shall be certified.

    Returns:
        The target and the quantile to certify.

    Raises:
        BadInput: for a file that cannot be read or options that do not fit together.
        TooFewSamples: when its rows do not suffice.
    """
    if (problem.window is None) != (problem.horizon is None):
        raise BadInput("window and horizon", "given both or neither", f"{problem.window} and {problem.horizon}")
    if problem.noun in ("matrix", "solve", "measure"):
        return _one_array(problem, statement)
    return _series(problem, statement) if problem.window is not None else _rows(problem, statement)


def _one_array(problem: Stored, statement: Statement) -> tuple[Target, float]:
    import torch

    from nearly.core.nouns import Matrix, Measure, Solve

    array = torch.from_numpy(read_array(problem.data, problem.inputs, notes=statement.notes))
    maker: Any = {"matrix": Matrix, "solve": Solve, "measure": Measure}[str(problem.noun)]
    return maker(array, name=Path(problem.data).stem), statement.quantile or QUANTILE


def _rows(problem: Stored, statement: Statement) -> tuple[Target, float]:
    from nearly.core.certificate import least_samples

    data = read_data(
        problem.data,
        inputs=problem.inputs,
        outputs=problem.outputs,
        test_inputs=problem.test_inputs,
        test_outputs=problem.test_outputs,
        inputs_axis=problem.inputs_axis,
        outputs_axis=problem.outputs_axis,
        drop_missing=problem.drop_missing,
        notes=statement.notes,
    )
    noun = problem.noun or ("function" if data.outputs.size == len(data.outputs) else "field")
    if statement.seen is not None:
        return _unseen(problem, noun, data, statement)
    certify = problem.certify
    if certify is not None and problem.test_inputs is None:
        data = replace(data, test=None)  # so many rows of the others were asked for
    if data.test is not None:
        quantile = statement.level(len(data.test[0]), noun, f"rows of {data.names[2]}")
    else:
        quantile = QUANTILE if statement.quantile is None else statement.quantile
        if certify is None:
            # A quarter, as more rows make the level less of an extreme; never fewer than the statement needs.
            least = least_samples(quantile, statement.asked(noun))
            certify = max(least, min(len(data.inputs) // 4, MOST_CERTIFYING))
    return _target(problem, noun, data, certify, quantile, statement), quantile


def _unseen(problem: Stored, noun: str, data: Data, statement: Statement) -> tuple[Target, float]:
    """All rows that a surrogate has not used, to certify it."""
    import numpy as np
    import torch

    from nearly.core.certificate import least_samples

    assert statement.seen is not None
    pairs = [(data.inputs, data.outputs)] + ([] if data.test is None else [data.test])
    inputs, outputs = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    # Only the rows' order matters of this split, not its sizes.
    some = least_samples(LEAST_QUANTILE, statement.confidence)
    joined = replace(data, inputs=inputs, outputs=outputs, test=None)
    target = _target(problem, noun, joined, some, LEAST_QUANTILE, statement)
    rows = target.rows
    assert rows is not None
    order = torch.cat([rows.certifying, rows.fitting])
    rows.certifying = order[~torch.isin(rows.hashes[order], statement.seen)]
    return target, statement.level(rows.left, noun, "rows that the surrogate has not used")


def _series(problem: Stored, statement: Statement) -> tuple[Target, float]:
    from nearly.core.validate import require_int
    from nearly.core.windows import cut_windows

    window, horizon = (require_int(name, getattr(problem, name), least=1) for name in ("window", "horizon"))
    for name in ("test_inputs", "test_outputs", "outputs_axis"):
        if getattr(problem, name) is not None:
            raise BadInput(name, "left out with window and horizon", getattr(problem, name))
    if problem.noun == "function":
        raise BadInput("noun", "field with window and horizon", problem.noun)
    data = read_series(
        problem.data,
        inputs=problem.inputs,
        outputs=problem.outputs,
        axis=problem.inputs_axis,
        drop_missing=problem.drop_missing,
        notes=statement.notes,
    )
    made = cut_windows(data.inputs, data.outputs, window=window, horizon=horizon, certify=problem.certify)
    count = len(made.certifying[0])
    statement.notes(
        f"note: {len(data.inputs)} rows, taken as equally spaced in time; {len(made.fitting[0])} windows fit, {count} later ones "
        "certify, which share no row with these nor with each other"
    )
    if made.left_out:
        statement.notes(f"note: {made.left_out} more windows to fit touch missing values and are left out")
    quantile = statement.level(count, "field", "windows side by side")
    inputs, outputs = made.fitting
    windows = replace(data, inputs=inputs, outputs=outputs, test=made.certifying)
    target = _target(problem, "field", windows, None, quantile, statement)
    _check_split(target, statement)
    # Of windows, not even those that certify are exchangeable with the fitted ones: what is stated is about time to come.
    target.name += (
        f" ({horizon} rows from {window}; certified on {count} later windows that share no row, as if independent "
        "and like what is to come)"
    )
    return target, quantile


def _check_split(target: Target, statement: Statement) -> None:
    """Refuse to certify windows that overlap those a surrogate was fitted on.

    Raises:
        BadInput: when this split is not the one it was fitted with.
    """
    import torch

    assert target.rows is not None
    if statement.seen is None:
        return
    known = torch.isin(statement.seen, target.rows.hashes[target.rows.fitting])
    if bool(known.any()) and not bool(known.all()):
        raise BadInput("window, horizon and certify", "those of the fit, or its windows overlap these", "others")


def _target(
    problem: Stored,
    noun: str,
    data: Data,
    certify: int | None,
    quantile: float,
    statement: Statement,
) -> Target:
    import torch

    from nearly.core.nouns import Field, Function

    x, y = torch.from_numpy(data.inputs), torch.from_numpy(data.outputs)
    shared: Any = {
        "certify": certify,
        "certifying": None if data.test is None else tuple(torch.from_numpy(array) for array in data.test),
        "quantile": quantile,
        "confidence": statement.confidence,
        "name": Path(problem.data).stem,
    }
    target: Target = (
        Function.from_data(x, y, metric=problem.metric, **shared)
        if noun == "function"
        else Field.from_data(x, y, **shared)
    )
    target.columns = data.columns
    return target
