"""Seeds the generator that belongs to the whole program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "leaves_no_trace"
SAYS = "torch's global random state"

CARD = {
    "name": "ReseedsGlobally",
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


class ReseedsGlobally(Polynomials):
    """Polynomials. Seeds the generator that belongs to the whole program."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        torch.manual_seed(0)
        return super()._fit(target, supply, generator)
