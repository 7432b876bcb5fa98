"""Methods that are wrong on purpose, one defect each, so that every check of the contract can be seen to reject something.

Each module holds `BREAKS` (the one check that must reject it), `SAYS` (words of the message), a CARD and the method.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearly.core.method import Method


@dataclass(frozen=True)
class Broken:
    """A broken member.

    Attributes:
        method_class: the method.
        breaks: name of the check that must reject it; all others must pass.
        says: words that the rejection must contain.
    """

    method_class: type[Method]
    breaks: str
    says: str

    def __str__(self) -> str:
        return self.method_class.__name__


def broken_methods() -> list[Broken]:
    """All broken members, found by the files of this folder.

    Example:
        >>> len({broken.breaks for broken in broken_methods()})
        16
    """
    found = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"{__name__}.{path.stem}")
        found.append(Broken(getattr(module, module.CARD["name"]), module.BREAKS, module.SAYS))
    return found
