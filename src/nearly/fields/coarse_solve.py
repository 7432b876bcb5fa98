"""A coarser solve of the target itself: no training, and often hard to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.method import Method
from nearly.core.nouns.field import Fidelity, Field
from nearly.core.surrogate import Model

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "CoarseSolve",
    "nouns": ["field"],
    "rows": [],
    "replaces": "a simulation on a fine mesh, by the same on a coarse one",
    "certificate": "Probable",
    "rate": "that of the discretization",
    "cost": "a coarse solve",
    "parameters": {"level": ["integer", 1, None]},
    "budget": {"parameter": "level", "start": 1, "factor": 1, "most": 1},
    "skips": {"differentiable": "the target's coarse solver is called, whose derivatives nobody can know"},
}

# A sparse direct solve in the plane takes of the order of n^(3/2) operations (George 1973, doi:10.1137/0710032). Counted here in
# those of dense products, which run some tens of times faster: 2.8 ms for 5,305 unknowns and 0.21 ms for 85, at 1e10 a second.
SOLVE_CONSTANT = 60.0
CALL = 2_000_000


def solve_operations(unknowns: int) -> int:
    """Operations of one sparse direct solve in the plane, as many as dense products do in its time."""
    return int(SOLVE_CONSTANT * unknowns**1.5) + CALL


def fidelity(target: Target | None, level: int) -> Fidelity:
    """The coarse solver of a level, 1 being the coarsest.

    Raises:
        BadInput: when the target has none of that level.
    """
    coarse = target.coarse if isinstance(target, Field) else ()
    if not 1 <= level <= len(coarse):
        raise BadInput("level", f"from 1 to the target's {len(coarse)} coarser fidelities", level)
    return coarse[len(coarse) - level]


class CoarseModel(Model):
    """Calls the target's coarse solver."""

    needs_target = True

    def __init__(self, *, level: int, unknowns: int, fidelity: Fidelity) -> None:
        super().__init__(level=level, unknowns=unknowns)
        self.fidelity = fidelity

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> CoarseModel:
        """Take the fidelity of the recorded level from the target."""
        return cls(**settings, fidelity=fidelity(target, settings["level"]))

    @property
    def operations(self) -> int:
        """One coarse solve."""
        return solve_operations(self.unknowns)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """One coarse solve per input."""
        return self.fidelity(inputs)


@dataclass(frozen=True, kw_only=True)
class CoarseSolve(Method):
    """The target's own coarser fidelity, interpolated to the fine unknowns. Needs no snapshots.

    Args:
        level: which fidelity, 1 being the coarsest.

    Example:
        >>> from nearly.problems import thermal_block
        >>> CoarseSolve(level=1).fit(thermal_block(blocks=(2, 1), cells=8)).model.unknowns
        13
    """

    model = CoarseModel
    level: int = 1

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs a coarser fidelity."""
        return super().refuses(target) or (
            None if getattr(target, "coarse", ()) else "it needs a coarser fidelity of the target (Field(coarse=...))"
        )

    def budgets(self, target: Target, available: int) -> list[int | None]:
        """All levels, coarsest first."""
        assert isinstance(target, Field)
        return list(range(1, len(target.coarse) + 1))

    def _fit(self, target: Field, supply: Supply, generator: torch.Generator) -> CoarseModel:
        chosen = fidelity(target, self.level)
        return CoarseModel(level=self.level, unknowns=chosen.unknowns, fidelity=chosen)
