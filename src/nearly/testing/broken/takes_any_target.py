"""Takes targets that it cannot fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    from nearly.core.target import Target

BREAKS = "bad_targets"
SAYS = "not refused as a bad method"

CARD = {
    "name": "TakesAnyTarget",
    "nouns": ["function"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Probable",
    "rate": "that of polynomials",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 8, None]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 128},
    "skips": {},
}


class TakesAnyTarget(Polynomials):
    """Polynomials. Takes targets that it cannot fit."""

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Refuses nothing."""
        return None
