"""Tables of text: columns of numbers by name, columns of other text told apart, missing cells as NaN."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearly.core.errors import BadInput

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # cells that hold no value, without regard to case


@dataclass(frozen=True)
class Table:
    """The cells of a .csv file.

    Attributes:
        path: of the file.
        names: of the columns; their places where the file has no header.
        lines: the line of each row in the file.
        rows: of stripped cells.
    """

    path: Path
    names: tuple[str, ...]
    lines: tuple[int, ...]
    rows: tuple[list[str], ...]

    @property
    def texts(self) -> list[str]:
        """The columns of text, as dates are: their first cell with a value is no number."""
        return [name for place, name in enumerate(self.names) if not _is_number(self._first(place))]

    def _first(self, place: int) -> str:
        return next((row[place] for row in self.rows if row[place].lower() not in MISSING), "0")

    def column(self, name: str) -> np.ndarray:
        """The numbers of a column in float64, NaN where a cell is missing.

        Raises:
            BadInput: for a cell that is no number.
        """
        place = self.names.index(name)
        values = np.empty(len(self.rows))
        for index, row in enumerate(self.rows):
            cell = row[place]
            if cell.lower() in MISSING:
                values[index] = np.nan
            elif _is_number(cell):
                values[index] = float(cell)
            else:
                raise BadInput(f"column {name!r} of {self.path}", "of numbers", f"{cell!r} in line {self.lines[index]}")
        return values


def read_table(path: Path) -> Table:
    """Read a table with commas, semicolons or tabs between its cells; the first row may be a header.

    Args:
        path: of the file.

    Returns:
        The cells.

    Raises:
        BadInput: for an empty file, text in another encoding than UTF-8, names that are not distinct, or rows of different lengths.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            read = list(csv.reader(file, delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}", "text in UTF-8", f"a byte {error.object[error.start]:#x} that is none there"
        ) from error
    while read and not read[-1]:
        read.pop()
    # An empty line is nothing in a table, but a missing value in a single column.
    single = bool(read) and len(read[0]) == 1
    found = [(line, [cell.strip() for cell in row or [""]]) for line, row in enumerate(read, start=1) if row or single]
    if not found:
        raise BadInput(f"{path}", "a table with rows", "an empty file")
    head = found[0][1]
    if all(_is_number(cell) for cell in head):
        names = [str(place) for place in range(len(head))]
    else:
        names, found = head, found[1:]
        if len(set(names)) < len(names) or not all(names):
            raise BadInput(f"header of {path}", "of distinct, non-empty names", ", ".join(map(repr, names)))
    for line, row in found:
        if len(row) != len(names):
            raise BadInput(f"line {line} of {path}", f"of {len(names)} cells", len(row))
    return Table(path, tuple(names), tuple(line for line, _ in found), tuple(row for _, row in found))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
