"""A coarse solve and a learned correction on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import SolverFailed
from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.fields._components import inner_product
from nearly.fields.coarse_solve import CoarseSolve, fidelity, solve_operations
from nearly.fields.kernel_regression import KernelModel

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.nouns import Field
    from nearly.core.nouns.field import Fidelity
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "CorrectedCoarseSolve",
    "nouns": ["field"],
    "rows": [],
    "replaces": "a simulation on a fine mesh, by a coarse one with what it misses learned",
    "certificate": "Probable",
    "rate": "that of kernel regression, times the coarse solve's error",
    "cost": "a coarse solve and a kernel regression",
    "parameters": {"level": ["integer", 1, None], "samples": ["integer", 4, None]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 1024},
    "skips": {"differentiable": "the target's coarse solver is called, whose derivatives nobody can know"},
}


class CorrectedModel(Model):
    """`u_coarse + correction(u_coarse)`, the correction by kernel regression."""

    needs_target = True

    def __init__(self, *, level: int, unknowns: int, fidelity: Fidelity, correction: KernelModel) -> None:
        super().__init__(level=level, unknowns=unknowns)
        self.fidelity, self.correction = fidelity, correction
        self.settings["correction"] = correction.settings

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> CorrectedModel:
        """Take the fidelity of the recorded level from the target."""
        parts: dict[str, Any] = {name.removeprefix("correction."): tensor for name, tensor in tensors.items()}
        return cls(
            level=settings["level"],
            unknowns=settings["unknowns"],
            fidelity=fidelity(target, settings["level"]),
            correction=KernelModel(**settings["correction"], **parts),
        )

    @property
    def operations(self) -> int:
        """Coarse solve and correction."""
        return solve_operations(self.unknowns) + self.correction.operations

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Coarse solutions, corrected."""
        coarse = self.fidelity(inputs)
        return coarse + self.correction(coarse)


@dataclass(frozen=True, kw_only=True)
class CorrectedCoarseSolve(Method):
    """Learns what a coarse solve misses, as a function of the coarse solution itself (its principal axes).

    Args:
        level: which fidelity, 1 being the coarsest.
        samples: pairs of coarse and fine solutions to fit.

    Example:
        >>> from nearly.problems import thermal_block
        >>> block = thermal_block(blocks=(2, 1), cells=8)
        >>> surrogate, x = CorrectedCoarseSolve(samples=40).fit(block), block.sample(20, 1)
        >>> bool(block.error(block(x), surrogate(x)).median() < 0.02)
        True
    """

    model = CorrectedModel
    level: int = 1
    samples: int = 128

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs a coarser fidelity."""
        return super().refuses(target) or CoarseSolve.refuses(target)

    def _fit(self, target: Field, supply: Supply, generator: torch.Generator) -> CorrectedModel:
        chosen = fidelity(target, self.level)
        pairs = supply.fitting(self.samples)
        coarse = chosen(pairs.inputs)
        solved = coarse.flatten(1).isfinite().all(dim=1)
        if int(solved.sum()) < 4:
            raise SolverFailed(
                f"the coarse solver of level {self.level} returned NaN or infinite entries at "
                f"{int((~solved).sum())} of {len(solved)} inputs; another level may do"
            )
        product = inner_product(target, pairs.outputs)
        correction = KernelModel.from_pairs(coarse[solved], (pairs.outputs - coarse)[solved], product)
        return CorrectedModel(level=self.level, unknowns=chosen.unknowns, fidelity=chosen, correction=correction)
