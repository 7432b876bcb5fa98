"""Changes what belongs to the target: a corner of its box, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearly.testing.broken._honest import Polynomials

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "leaves_no_trace"
SAYS = "changes the target's domain.lower"

CARD = {
    "name": "MovesTarget",
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


class MovesTarget(Polynomials):
    """Polynomials. Changes what belongs to the target: a corner of its box, in place."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        if target.domain is not None:
            target.domain.get_buffer("lower").sub_(1e-9)
        return super()._fit(target, supply, generator)
