"""Open files of data as named arrays: .npz, .h5, .nc and .csv. Nothing in a file is executed."""

from __future__ import annotations

import contextlib
import csv
import difflib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nearly.core.csvfile import Table, read_table
from nearly.core.errors import BadInput, MissingExtra

SUFFIXES = (".npz", ".h5", ".hdf5", ".nc", ".csv")
Notes = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """An open file.

    Attributes:
        path: of the file.
        entries: how to get each array, by name.
        table: of a .csv.
    """

    path: Path
    entries: dict[str, Callable[[], np.ndarray]]
    table: Table | None = None

    @property
    def has(self) -> str:
        """What there is, for messages."""
        names = list(self.entries)
        return f"The file has {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}."

    def columns(self, name: str) -> list[str]:
        """The entries that a name stands for: itself, or the columns of a table with commas between.

        Raises:
            BadInput: for names that the file does not have.
        """
        whole = self.table is None or name in self.entries
        parts = [name] if whole else [part.strip() for part in name.split(",")]
        for part in parts:
            if part not in self.entries:
                near = difflib.get_close_matches(part, self.entries, n=3)
                advice = f"Near: {', '.join(near)}. " if near else ""
                raise BadInput("name", f"one of an array of {self.path}", repr(part), advice + self.has)
        return parts

    def numbers(self, notes: Notes, *, without: list[str] | None = None) -> list[str]:
        """All columns of numbers."""
        assert self.table is not None
        texts = [name for name in self.table.texts if name not in (without or [])]
        if texts:
            notes(f"note: {', '.join(texts)} of {self.path} holds text and is left out")
        return [name for name in self.entries if name not in texts and name not in (without or [])]

    def usual(self, stem: str) -> list[str]:
        """Columns named as inputs or outputs usually are: the stem, with a number or without."""
        return [name for name in self.entries if re.fullmatch(rf"({stem})[_ ]?\d*", name, re.IGNORECASE)]

    def default(self, notes: Notes, columns: Sequence[str] = ()) -> str:
        """The name of the inputs where none is given: in a table these columns, unless it has none of them.

        Raises:
            BadInput: where nothing tells, and where only some of the columns are there.
        """
        known = [name for name in columns if name in self.entries]
        if self.table is not None and known:
            if len(known) < len(columns):
                lacking = next(name for name in columns if name not in known)
                advice = f"Name the columns that are meant, in the order of those, with --key. {self.has}"
                raise BadInput(f"columns of {self.path}", f"{', '.join(columns)}, as fitted", f"no {lacking}", advice)
            return ",".join(columns)
        if self.table is not None and columns:
            notes(f"note: no column of {self.path} is named as those fitted, so they are taken in their order")
        if len(self.entries) == 1:
            return next(iter(self.entries))
        lower = {key.lower(): key for key in self.entries}
        usual = [lower[key] for key in ("inputs", "input", "x", "test_x", "x_test") if key in lower]
        if not usual and self.table is not None:
            usual = [",".join(self.usual("x|inputs?") or self.numbers(notes))]
        if not usual:
            raise BadInput(f"array of {self.path}", "named by --inputs (to predict, by --key)", "none", self.has)
        return usual[0]

    def read_all(self, names: tuple[str, ...], *, missing: bool = False) -> list[np.ndarray]:
        """As `read`; that all names are there is seen before anything is read."""
        for name in names:
            self.columns(name)
        return [self.read(name, missing=missing) for name in names]

    def read(self, name: str, *, missing: bool = False, droppable: bool = True) -> np.ndarray:
        """An array of finite real numbers, of at least one axis; NaN only where it is allowed.

        Args:
            name: of the array or columns.
            missing: whether NaN is allowed.
            droppable: whether it could be, for the message.

        Returns:
            The array.

        Raises:
            BadInput: for anything else.
        """
        parts = self.columns(name)
        try:
            arrays = [np.asarray(self.entries[part]()) for part in parts]
        except BadInput:
            raise
        except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
            pickled = "pickle" in str(error).lower()
            why = "pickled objects, which can run code and are never loaded" if pickled else f"damage ({error})"
            raise BadInput(f"{name} of {self.path}", "a plain array of numbers", why) from error
        array = arrays[0] if self.table is None else np.stack(arrays, axis=1)
        if array.dtype.kind not in "biuf":
            raise BadInput(f"{name} of {self.path}", "real numbers", f"the dtype {array.dtype}")
        if array.ndim == 0 or array.size == 0:
            raise BadInput(f"{name} of {self.path}", "one row per input", f"the shape {array.shape}")
        self._refuse(name, parts, np.isinf(array), "infinite")
        if not missing:
            advice = "--drop-missing (drop_missing = true) leaves out what touches them." if droppable else ""
            self._refuse(name, parts, np.isnan(array), "NaN" if self.table is None else "missing", advice)
        return array

    def _refuse(self, name: str, parts: list[str], bad: np.ndarray, what: str, advice: str = "") -> None:
        if not bad.any():
            return
        at = tuple(int(index) for index in np.argwhere(bad)[0])
        if self.table is None:
            got = f"{int(bad.sum())} {what} entries, the first at {at}"
            raise BadInput(f"{name} of {self.path}", "finite", got, advice)
        column, line = parts[at[1]], self.table.lines[at[0]]
        count = int(bad[:, at[1]].sum())
        got = f"{'an' if what == 'infinite' else 'a'} {what} value in line {line}" + (
            f", the first of {count}" if count > 1 else ""
        )
        raise BadInput(f"column {column!r} of {self.path}", "of numbers", got, advice)


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file of data.

    Args:
        path: a .npz, .h5, .nc or .csv file.

    Yields:
        What is in it.

    Raises:
        BadInput: for a file that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput("data file", f"one of the kinds {', '.join(SUFFIXES)}", path)
    if not os.path.isfile(path):
        raise BadInput("data file", "an existing file", path)
    readers = {".npz": _open_npz, ".csv": _open_csv, ".nc": _open_netcdf}
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(readers.get(suffix, _open_hdf5)(path))
        except BadInput:
            raise
        except (OSError, zipfile.BadZipFile, ValueError, EOFError, csv.Error) as error:
            raise BadInput(f"{path}", f"a readable {suffix} file", f"{type(error).__name__}: {error}") from error
        if not source.entries:
            raise BadInput(f"{path}", "a file with arrays", "none in it")
        yield source


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Source]:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path}", "a .npz file, whole", "something else, a pickle or a truncated copy")
    with np.load(path, allow_pickle=False) as archive:
        yield Source(path, {name: partial(archive.__getitem__, name) for name in archive.files})


@contextlib.contextmanager
def _open_hdf5(path: Path) -> Iterator[Source]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "data", f"reading {path}") from error
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        yield Source(path, {name: partial(lambda name: file[name][()], name) for name in found})


@contextlib.contextmanager
def _open_netcdf(path: Path) -> Iterator[Source]:
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
        yield Source(path, {name: partial(read, name) for name in file.variables})


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[Source]:
    table = read_table(path)
    yield Source(path, {name: partial(table.column, name) for name in table.names}, table)
