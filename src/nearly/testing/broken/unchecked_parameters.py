"""Takes any parameter for good."""

from __future__ import annotations

from nearly.testing.broken._honest import Polynomials

BREAKS = "bad_parameters"
SAYS = "is accepted, not refused by name"

CARD = {
    "name": "UncheckedParameters",
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


class UncheckedParameters(Polynomials):
    """Polynomials. Takes any parameter for good."""

    def __post_init__(self) -> None:
        """Checks nothing."""
