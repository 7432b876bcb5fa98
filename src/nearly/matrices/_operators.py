"""What members of this room say to matrices that are known by products alone."""

from __future__ import annotations

from typing import Any


def needs_entries(target: Any) -> str | None:
    """The reason why a method that reads the entries cannot fit an operator, or None."""
    return None if target.operator is None else "it needs the matrix's entries, and an operator has products alone"
