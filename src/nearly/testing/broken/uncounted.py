"""Asks the target behind the back of what counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "counted_cost"
SAYS = "evaluations were counted"

CARD = {
    "name": "Uncounted",
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


class Uncounted(Polynomials):
    """Polynomials. Asks the target behind the back of what counts."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        if target.domain is not None:
            target(target.sample(5, generator))
        return super()._fit(target, supply, generator)
