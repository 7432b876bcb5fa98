"""Its card keeps its rate to itself."""

from __future__ import annotations

from nearly.testing.broken._honest import Polynomials

BREAKS = "card_complete"
SAYS = "the card lacks 'rate'"

CARD = {
    "name": "IncompleteCard",
    "nouns": ["function"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Probable",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 8, None]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 128},
    "skips": {},
}


class IncompleteCard(Polynomials):
    """Polynomials. Its card keeps its rate to itself."""
