"""Draws from a generator that nobody seeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "same_seed_same_bits"
SAYS = "two fits with one seed differ in model.coefficients"

CARD = {
    "name": "Unseeded",
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


class Unseeded(Polynomials):
    """Polynomials. Draws from a generator that nobody seeded."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        model = super()._fit(target, supply, generator)
        stray = torch.Generator()
        stray.seed()
        model.coefficients.add_(1e-12 * torch.rand(model.coefficients.shape, generator=stray))
        return model
