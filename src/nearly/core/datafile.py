"""Inputs and outputs from files of data: which arrays they are, which axis counts rows, which rows are whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from nearly.core.datasource import Notes, Source, open_source
from nearly.core.errors import BadInput

# Tried in this order, without regard to case.
PAIRS = (
    ("train_x", "train_y"),
    ("x_train", "y_train"),
    ("train_inputs", "train_outputs"),
    ("inputs", "outputs"),
    ("input", "output"),
    ("x", "y"),
)
TESTS = (("test_x", "test_y"), ("x_test", "y_test"), ("test_inputs", "test_outputs"))

Axis = Literal["first", "last"]


@dataclass(frozen=True)
class Data:
    """Rows, or times, read from a file: inputs with outputs, and a test set of the same shapes where there is one.

    Attributes:
        inputs: one row per input.
        outputs: as many rows.
        test: (inputs, outputs) or None.
        names: of the arrays read, in that order.
        columns: names of the inputs' columns in a table, else None.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None
    names: tuple[str, ...]
    columns: tuple[str, ...] | None = None


def read_data(
    path: str | os.PathLike[str],
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    test_inputs: str | None = None,
    test_outputs: str | None = None,
    inputs_axis: Axis | None = None,
    outputs_axis: Axis | None = None,
    drop_missing: bool = False,
    notes: Notes = lambda text: None,
) -> Data:
    """Read inputs and outputs. Without names, well-known ones are looked for: x and y, inputs and outputs, train_x and train_y;
    then also a test set: test_x and test_y.

    Args:
        path: a .npz, .h5, .nc or .csv file.
        inputs: name of the array of inputs; in a .csv, columns with commas between.
        outputs: of the outputs; with one of the two named, a .csv has all other columns of numbers for the other.
        test_inputs: of the test inputs.
        test_outputs: of the test outputs.
        inputs_axis: which axis of the inputs counts rows; by default the one as long as one of the outputs, the first if both are.
        outputs_axis: of the outputs.
        drop_missing: whether rows with NaN (in a .csv, empty cells too) are left out; else they are refused.
        notes: called with remarks on what was left out or turned.

    Returns:
        The rows, all of one dtype: float32 where all arrays are, else float64.

    Raises:
        BadInput: for a file that cannot be read, names it does not have, text, missing or infinite numbers, arrays whose rows
            do not match, or match in several ways.
    """
    with open_source(Path(path)) as source:
        pair, test = _choose(source, inputs, outputs, test_inputs, test_outputs, notes)
        names = (*pair, *test)
        arrays = source.read_all(names, missing=drop_missing)
        columns = None if source.table is None else tuple(source.columns(pair[0]))
    arrays = _turn(source, names, _one_dtype(names, arrays, notes), (inputs_axis, outputs_axis), notes)
    if drop_missing:
        for place in range(0, len(names), 2):
            arrays[place : place + 2] = _whole_rows(names[place : place + 2], arrays[place : place + 2], notes)
    return Data(arrays[0], arrays[1], (arrays[2], arrays[3]) if test else None, names, columns)


def read_series(
    path: str | os.PathLike[str],
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    axis: Axis | None = None,
    drop_missing: bool = False,
    notes: Notes = lambda text: None,
) -> Data:
    """Read a series, one row per time: what its history is told by, and what shall be foretold.

    Args:
        path: a .npz, .h5, .nc or .csv file.
        inputs: name of the array, or columns with commas between; by default the only array or all columns of numbers.
        outputs: by default the inputs.
        axis: which axis counts times, by default the first.
        drop_missing: whether NaN is kept, for its windows to be left out; else it is refused.
        notes: called with remarks on what was left out.

    Returns:
        The two, of shape (times, columns).

    Raises:
        BadInput: as `read_data`, and for arrays of more axes.
    """
    with open_source(Path(path)) as source:
        if inputs is None:
            inputs = source.default(notes) if source.table is None else ",".join(source.numbers(notes))
        names = (inputs, inputs if outputs is None else outputs)
        arrays = source.read_all(names, missing=drop_missing)
        columns = None if source.table is None else tuple(source.columns(inputs))
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if array.ndim > 2:
            raise BadInput(f"{name} of {path}", "a series, one row of numbers per time", f"the shape {array.shape}")
        column = array[:, None] if array.ndim == 1 else array
        arrays[place] = column.T if axis == "last" and array.ndim == 2 else column
    x, y = _one_dtype(names, arrays, notes)
    if len(x) != len(y):
        raise BadInput(f"{names[1]} of {path}", f"of as many times as {names[0]} ({len(x)})", len(y))
    return Data(x, y, None, names, columns)


def read_array(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    integers: bool = False,
    notes: Notes = lambda text: None,
) -> np.ndarray:
    """Read one array.

    Args:
        path: a .npz, .h5, .nc or .csv file.
        name: of the array or columns; by default the only array, one named as inputs usually are, or all columns of numbers.
        columns: of a .csv that are meant where no name is given, in their order.
        integers: whether whole numbers are kept, as int64; a .csv has them where all its numbers are whole.
        notes: called with remarks on what was left out.

    Returns:
        The array, float32 or float64, or int64.

    Raises:
        BadInput: as `read_data`.
    """
    with open_source(Path(path)) as source:
        chosen = source.default(notes, columns or ()) if name is None else name
        array = source.read(chosen, droppable=False)
    if integers and (array.dtype.kind in "iu" or (source.table is not None and bool((array % 1 == 0).all()))):
        return array.astype(np.int64)
    return _one_dtype((chosen,), [array], notes)[0]


def _choose(
    source: Source,
    inputs: str | None,
    outputs: str | None,
    test_inputs: str | None,
    test_outputs: str | None,
    notes: Notes,
) -> tuple[tuple[str, str], tuple[str, ...]]:
    if (test_inputs is None) != (test_outputs is None):
        raise BadInput("test inputs and test outputs", "named both or neither", f"{test_inputs} and {test_outputs}")
    test = () if test_inputs is None or test_outputs is None else (test_inputs, test_outputs)
    if inputs is not None and outputs is not None:
        return (inputs, outputs), test
    if source.table is not None:
        return _choose_columns(source, inputs, outputs, notes), test
    if inputs is not None or outputs is not None:
        raise BadInput("inputs and outputs", "named both or neither", f"{inputs} and {outputs}", source.has)
    lower = {key.lower(): key for key in source.entries}
    for first, second in PAIRS:
        if first in lower and second in lower:
            found = next((pair for pair in TESTS if pair[0] in lower and pair[1] in lower), None)
            if found is not None and not test:
                test = (lower[found[0]], lower[found[1]])
            return (lower[first], lower[second]), test
    raise BadInput(
        f"arrays of {source.path}",
        "named by --inputs and --outputs, as no usual names are there",
        "none",
        source.has,
    )


def _choose_columns(source: Source, inputs: str | None, outputs: str | None, notes: Notes) -> tuple[str, str]:
    chosen = [source.usual("x|inputs?"), source.usual("y|outputs?")]
    for place, given in enumerate((inputs, outputs)):
        if given is not None:
            chosen[place] = source.columns(given)
            chosen[1 - place] = source.numbers(notes, without=chosen[place])
        others = [name for name in source.entries if name not in chosen[place]]
        if given is not None and others and not chosen[1 - place]:
            source.read(others[0])  # which says where there is text in place of a number
    if not all(chosen):
        raise BadInput(f"columns of {source.path}", "named by --inputs and --outputs", "none", source.has)
    return ",".join(chosen[0]), ",".join(chosen[1])


def _one_dtype(names: tuple[str, ...], arrays: list[np.ndarray], notes: Notes) -> list[np.ndarray]:
    dtype = np.dtype(np.float32 if all(array.dtype in (np.float16, np.float32) for array in arrays) else np.float64)
    if len({array.dtype for array in arrays}) > 1:
        kinds = ", ".join(f"{name} {array.dtype}" for name, array in zip(names, arrays, strict=True))
        notes(f"note: dtypes differ ({kinds}); all are read as {dtype}")
    return [np.ascontiguousarray(array, dtype=dtype) for array in arrays]


def _turn(
    source: Source,
    names: tuple[str, ...],
    arrays: list[np.ndarray],
    axes: tuple[Axis | None, Axis | None],
    notes: Notes,
) -> list[np.ndarray]:
    """The arrays with rows along the first axis, found by the lengths that match where it is not told.

    Raises:
        BadInput: where none match, or it cannot be told.
    """
    x, y = arrays[:2]
    known = ("first", "first") if source.table is not None else axes
    options = [
        ("first",) if array.ndim == 1 else ("first", "last") if axis is None else (axis,)
        for array, axis in zip((x, y), known, strict=True)
    ]
    length = {"first": 0, "last": -1}
    fits = [(a, b) for a, b in product(*options) if x.shape[length[a]] == y.shape[length[b]]]
    shapes = f"{names[0]} {x.shape} and {names[1]} {y.shape}"
    if not fits:
        raise BadInput(
            f"{names[1]} of {source.path}", f"of as many rows as {names[0]} (shape {x.shape})", f"the shape {y.shape}"
        )
    # Both turned is no rival of both as they are: fields of one size go in and out more often than not.
    rivals = [pair for pair in fits if fits[0] != ("first", "first") or pair != ("last", "last")]
    if len(rivals) > 1:
        raise BadInput(
            f"rows of {source.path}",
            "told by --inputs-axis and --outputs-axis (first or last), as lengths match in more ways than one",
            shapes,
        )
    if len(fits) > len(rivals) and x.shape[-1] > len(x):
        notes(
            f"note: {shapes} are read as {len(x)} rows; if samples are counted by the last axes, say "
            "--inputs-axis last --outputs-axis last"
        )
    turned = [name for name, axis, asked in zip(names, rivals[0], axes, strict=False) if axis == "last" != asked]
    if turned:
        notes(f"note: rows are counted by the last axis of {' and '.join(turned)} ({shapes}), which is turned")
    return [
        np.ascontiguousarray(np.moveaxis(array, length[rivals[0][place % 2]], 0)) for place, array in enumerate(arrays)
    ]


def _whole_rows(names: tuple[str, ...], pair: list[np.ndarray], notes: Notes) -> list[np.ndarray]:
    missing = np.any([np.isnan(array.reshape(len(array), -1)).any(axis=1) for array in pair], axis=0)
    if missing.any():
        notes(
            f"note: {int(missing.sum())} of {len(missing)} rows of {' and '.join(names)} miss values and are left out"
        )
    return [array[~missing] for array in pair]
