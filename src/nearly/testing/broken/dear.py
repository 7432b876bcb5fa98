"""Costs more than what it replaces: its factors are filled up with zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from nearly.testing.broken._honest import SingularValues

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

BREAKS = "counted_cost"
SAYS = "and the target needs"

CARD = {
    "name": "Dear",
    "nouns": ["matrix"],
    "rows": [],
    "replaces": "nothing: it is wrong on purpose",
    "certificate": "Bound",
    "rate": "that of the singular values",
    "cost": "two thin products",
    "parameters": {"rank": ["integer", 1, None]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 16},
    "skips": {},
}


class Dear(SingularValues):
    """Truncated singular values. Costs more than what it replaces: its factors are filled up with zeros."""

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        model = super()._fit(target, supply, generator)
        more = 60 - self.rank
        model.left = nn.functional.pad(model.left, (0, more))
        model.right = nn.functional.pad(model.right, (0, 0, 0, more))
        return model
