"""Named arrays from files of data: .npz, .h5, .nc and .csv. Nothing in a file is executed."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nearly.core.errors import BadInput, MissingExtra

SUFFIXES = (".npz", ".h5", ".hdf5", ".nc", ".csv")
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

Entries = dict[str, Callable[[], np.ndarray]]


@dataclass(frozen=True)
class Data:
    """Rows read from a file: inputs with outputs, and a test set of the same shapes where there is one.

    Attributes:
        inputs: one row per input.
        outputs: as many rows.
        test: (inputs, outputs) or None.
        names: of the arrays read, in that order.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None
    names: tuple[str, ...]


def read_data(
    path: str | os.PathLike[str],
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    test_inputs: str | None = None,
    test_outputs: str | None = None,
) -> Data:
    """Read inputs and outputs. Without names, well-known ones are looked for: x and y, inputs and outputs, train_x and train_y;
    then also a test set: test_x and test_y.

    Args:
        path: a .npz, .h5, .nc or .csv file.
        inputs: name of the array of inputs; in a .csv, columns with commas between.
        outputs: of the outputs.
        test_inputs: of the test inputs.
        test_outputs: of the test outputs.

    Returns:
        The rows, all of one dtype: float32 where all arrays are, else float64.

    Raises:
        BadInput: for a file that cannot be read, names it does not have, text, missing or non-finite numbers, or arrays whose rows
            do not match.
    """
    path = Path(path)
    with _open(path) as entries:
        pair, test = _choose(path, entries, inputs, outputs, test_inputs, test_outputs)
        names = (*pair, *test)
        arrays = _one_dtype([_read(path, entries, name) for name in names])
    for place in range(0, len(names), 2):
        _check_rows(path, names[place], arrays[place], names[place + 1], arrays[place + 1])
    return Data(arrays[0], arrays[1], (arrays[2], arrays[3]) if test else None, names)


def read_array(path: str | os.PathLike[str], name: str | None = None) -> np.ndarray:
    """Read one array.

    Args:
        path: a .npz, .h5, .nc or .csv file.
        name: of the array or columns; by default the only array, one named as inputs usually are, or all columns of a .csv.

    Returns:
        The array, float32 or float64.

    Raises:
        BadInput: as `read_data`.
    """
    path = Path(path)
    with _open(path) as entries:
        if name is None:
            lower = {key.lower(): key for key in entries}
            usual = [lower[key] for key in ("inputs", "input", "x", "test_x", "x_test") if key in lower]
            if len(entries) == 1:
                usual = list(entries)
            elif not usual and path.suffix.lower() == ".csv":
                usual = [",".join(_x_columns(entries, "x|inputs?") or list(entries))]
            if not usual:
                raise BadInput("--inputs", f"the name of an array of {path}", "none", _has(entries))
            name = usual[0]
        return _one_dtype([_read(path, entries, name)])[0]


def _choose(
    path: Path,
    entries: Entries,
    inputs: str | None,
    outputs: str | None,
    test_inputs: str | None,
    test_outputs: str | None,
) -> tuple[tuple[str, str], tuple[str, ...]]:
    if (test_inputs is None) != (test_outputs is None):
        raise BadInput("test inputs and test outputs", "named both or neither", f"{test_inputs} and {test_outputs}")
    test = () if test_inputs is None or test_outputs is None else (test_inputs, test_outputs)
    if inputs is not None and outputs is not None:
        return (inputs, outputs), test
    if path.suffix.lower() == ".csv":
        return _choose_columns(path, entries, inputs, outputs), test
    if inputs is not None or outputs is not None:
        raise BadInput("inputs and outputs", "named both or neither", f"{inputs} and {outputs}", _has(entries))
    lower = {key.lower(): key for key in entries}
    for first, second in PAIRS:
        if first in lower and second in lower:
            found = next((pair for pair in TESTS if pair[0] in lower and pair[1] in lower), None)
            if found is not None and not test:
                test = (lower[found[0]], lower[found[1]])
            return (lower[first], lower[second]), test
    raise BadInput(
        f"arrays of {path}", "named (inputs=..., outputs=...), as no usual names are there", "none", _has(entries)
    )


def _choose_columns(path: Path, entries: Entries, inputs: str | None, outputs: str | None) -> tuple[str, str]:
    chosen = [_x_columns(entries, "x|inputs?"), _x_columns(entries, "y|outputs?")]
    for place, given in enumerate((inputs, outputs)):
        if given is not None:
            chosen[place] = [given]
            others = set(_columns(entries, given))
            chosen[1 - place] = [name for name in entries if name not in others]
    if not all(chosen):
        raise BadInput(f"columns of {path}", "named (inputs=..., outputs=...)", "none", _has(entries))
    return ",".join(chosen[0]), ",".join(chosen[1])


def _x_columns(entries: Entries, stem: str) -> list[str]:
    return [name for name in entries if re.fullmatch(rf"({stem})[_ ]?\d*", name, re.IGNORECASE)]


def _columns(entries: Entries, name: str) -> list[str]:
    return [name] if name in entries else [part.strip() for part in name.split(",")]


def _has(entries: Entries) -> str:
    names = list(entries)
    return f"The file has {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}."


def _read(path: Path, entries: Entries, name: str) -> np.ndarray:
    parts = _columns(entries, name) if path.suffix.lower() == ".csv" else [name]
    for part in parts:
        if part not in entries:
            raise BadInput("name", f"one of an array of {path}", repr(part), _has(entries))
    try:
        arrays = [np.asarray(entries[part]()) for part in parts]
    except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        pickled = "pickle" in str(error).lower()
        why = "pickled objects, which can run code and are never loaded" if pickled else f"damage ({error})"
        raise BadInput(f"{name} of {path}", "a plain array of numbers", why) from error
    array = arrays[0] if path.suffix.lower() != ".csv" else np.stack(arrays, axis=1)
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{name} of {path}", "real numbers", f"the dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise BadInput(f"{name} of {path}", "one row per input", f"the shape {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        at = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise BadInput(
            f"{name} of {path}", "finite", f"{int((~finite).sum())} NaN or infinite entries, the first at {at}"
        )
    return array


def _one_dtype(arrays: list[np.ndarray]) -> list[np.ndarray]:
    narrow = all(array.dtype in (np.float16, np.float32) for array in arrays)
    return [np.ascontiguousarray(array, dtype=np.float32 if narrow else np.float64) for array in arrays]


def _check_rows(path: Path, x_name: str, x: np.ndarray, y_name: str, y: np.ndarray) -> None:
    if len(x) == len(y):
        return
    advice = ""
    for name, array, rows in ((y_name, y, len(x)), (x_name, x, len(y))):
        if array.ndim > 1 and array.shape[-1] == rows:
            advice = f"The last axis of {name} has {rows}: it is transposed. Store it with one row per input."
    raise BadInput(
        f"{y_name} of {path}", f"of as many rows as {x_name} (shape {x.shape})", f"the shape {y.shape}", advice
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Entries]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput("data file", f"one of the kinds {', '.join(SUFFIXES)}", path)
    if not path.is_file():
        raise BadInput("data file", "an existing file", path)
    readers = {".npz": _open_npz, ".csv": _open_csv, ".nc": _open_netcdf}
    with contextlib.ExitStack() as stack:
        try:
            entries = stack.enter_context(readers.get(suffix, _open_hdf5)(path))
        except (OSError, zipfile.BadZipFile, ValueError, EOFError, csv.Error) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path}", f"a readable {suffix} file", f"{type(error).__name__}: {error}") from error
        if not entries:
            raise BadInput(f"{path}", "a file with arrays", "none in it")
        yield entries


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Entries]:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path}", "a .npz file, whole", "something else, a pickle or a truncated copy")
    with np.load(path, allow_pickle=False) as archive:
        yield {name: partial(archive.__getitem__, name) for name in archive.files}


@contextlib.contextmanager
def _open_hdf5(path: Path) -> Iterator[Entries]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "data", f"reading {path}") from error
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        yield {name: partial(lambda name: file[name][()], name) for name in found}


@contextlib.contextmanager
def _open_netcdf(path: Path) -> Iterator[Entries]:
    try:
        import netCDF4
    except ImportError as error:
        raise MissingExtra("netCDF4", "data", f"reading {path}") from error

    def read(name: str) -> np.ndarray:
        values = file.variables[name][...]
        if not np.ma.isMaskedArray(values) or not np.ma.getmaskarray(values).any():
            return np.ma.getdata(values)
        return np.ma.filled(values.astype(np.float64), np.nan)

    with netCDF4.Dataset(path) as file:
        yield {name: partial(read, name) for name in file.variables}


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[Entries]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        delimiter = max(",;\t", key=first.count)
        file.seek(0)
        lines = [(line, row) for line, row in enumerate(csv.reader(file, delimiter=delimiter), start=1) if row]
    if not lines:
        raise BadInput(f"{path}", "a table with rows", "an empty file")
    head = [cell.strip() for cell in lines[0][1]]
    if all(_is_number(cell) for cell in head):
        names = [str(place) for place in range(len(head))]
    else:
        names, lines = head, lines[1:]
        if len(set(names)) < len(names) or not all(names):
            raise BadInput(f"header of {path}", "of distinct, non-empty names", ", ".join(map(repr, names)))
    for line, row in lines:
        if len(row) != len(names):
            raise BadInput(f"line {line} of {path}", f"of {len(names)} cells", len(row))

    def column(place: int) -> np.ndarray:
        values = np.empty(len(lines))
        for index, (line, row) in enumerate(lines):
            cell = row[place].strip()
            if not _is_number(cell):
                got = f"{cell!r} in line {line}" if cell else f"a missing value in line {line}"
                raise BadInput(f"column {names[place]!r} of {path}", "of numbers", got)
            values[index] = float(cell)
        return values

    yield {name: partial(column, place) for place, name in enumerate(names)}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
