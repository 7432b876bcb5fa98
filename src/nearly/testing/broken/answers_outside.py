"""Answers outside its domain without being told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    from nearly.core.supply import Supply
    from nearly.core.surrogate import Surrogate
    from nearly.core.target import Target

BREAKS = "bad_inputs"
SAYS = "not refused with OutOfDomain"

CARD = {
    "name": "AnswersOutside",
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


class AnswersOutside(Polynomials):
    """Polynomials. Answers outside its domain without being told to."""

    def fit(self, target: Target, *, seed: int = 0, supply: Supply | None = None) -> Surrogate:
        """An honest fit, its guard lowered."""
        surrogate = super().fit(target, seed=seed, supply=supply)
        surrogate.outside = "warn"
        return surrogate
