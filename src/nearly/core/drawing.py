"""Figures of matplotlib, outside its global state, and their files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from nearly.core.errors import BadInput, MissingExtra
from nearly.core.files import check_file, write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def new_figure(width: float, height: float, purpose: str) -> Figure:
    """An empty figure.

    Args:
        width: in inches.
        height: in inches.
        purpose: what is drawn, for the message where matplotlib is missing.

    Returns:
        The figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", purpose) from error
    return Figure(figsize=(width, height), layout="constrained")


def check_picture(path: str | Path) -> Path:
    """See that a picture can be written there.

    Raises:
        BadInput: for a file that is neither .png nor .svg.
    """
    file = check_file(path)
    if file.suffix.lower() not in (".png", ".svg"):
        raise BadInput("path", "a .png or .svg file", file)
    return file


def write_figure(figure: Figure, file: Path) -> Path:
    """Write a figure into a file that `check_picture` has seen."""
    content = BytesIO()
    figure.savefig(content, format=file.suffix.lower().removeprefix("."), dpi=DPI)
    write_files({file: content.getvalue()})
    return file
