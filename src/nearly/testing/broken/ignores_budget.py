"""Asks for more and more samples and fits to the first few."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "error_falls"
SAYS = "do not fall"

CARD = {
    "name": "IgnoresBudget",
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


class IgnoresBudget(Polynomials):
    """Polynomials. Asks for more and more samples and fits to the first few."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        supply.fitting(self.samples)
        return Polynomials._fit(replace(self, samples=8), target, supply, generator)
