"""The certified reduced basis method, with greedy selection by its own error bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.fields._projection import Projection
from nearly.fields._reduced_model import ReducedModel

if TYPE_CHECKING:
    from nearly.core.nouns import Field
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "ReducedBasis",
    "nouns": ["field"],
    "rows": [170],
    "replaces": "a coercive, affinely parametrized linear simulation",
    "certificate": "Bound",
    "rate": "exponential in rank for few parameters",
    "cost": "rank solves to fit; a dense system of size rank to ask",
    "parameters": {"rank": ["integer", 1, None], "candidates": ["integer", 2, None]},
    "budget": {"parameter": "rank", "start": 4, "factor": 2, "most": 256},
    "skips": {},
}

LAZY = 64  # candidates whose bounds are refreshed together
TYPICAL = 256  # candidates whose residuals say how accurately residuals are needed


@dataclass(frozen=True, kw_only=True)
class ReducedBasis(Method):
    """Galerkin projection on solutions at parameters that a greedy search picks by the largest error bound.

    Replaces `A(mu) u = f(mu)` with `A(mu) = sum_q theta_q(mu) A_q` by the same equation on the span of `rank` solutions. Each
    answer has the proven relative bound of `ReducedModel`, in the norm of the system's inner product, accurate to round-off.

    The greedy search is lazy: a candidate's bound hardly ever grows when the basis does (the energy error never does), so only
    candidates whose last bound exceeds the best refreshed one are asked again.

    Assumptions: the system is coercive with the stated min-theta bound (see `AffineSystem`); theta and phi are monomials.

    Sources: Rozza, Huynh, Patera 2008, Reduced basis approximation and a posteriori error estimation,
    doi:10.1007/s11831-008-9019-9, sections 4 and 7; the stable residual norm after Buhr et al. 2014 (see `Projection`); Casenave,
    Ern, Lelievre 2014, doi:10.1051/m2an/2013097, on why the expanded norm fails.

    Args:
        rank: number of basis functions, and of solves.
        candidates: random parameters that the greedy search picks from.

    Example:
        >>> from nearly.problems import thermal_block
        >>> surrogate = ReducedBasis(rank=6).fit(thermal_block(blocks=(2, 1), cells=8))
        >>> bool(surrogate.bound(torch.tensor([[0.2, 0.9]], dtype=torch.float64)) < 1e-2)
        True
    """

    model = ReducedModel
    rank: int = 20
    candidates: int = 1000

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs the affine system and a box."""
        return super().refuses(target) or (
            None
            if getattr(target, "system", None) is not None
            else "it needs the target's affine system (Field(system=...))"
        )

    def _fit(self, target: Field, supply: Supply, generator: torch.Generator) -> ReducedModel:
        key = (self.id(), self.candidates)
        if key not in supply.kept:
            supply.kept[key] = Greedy(target, self.candidates, generator)
        greedy: Greedy = supply.kept[key]
        rank = greedy.grow(self.rank, supply)
        model = greedy.projection.model(rank, typical=greedy.candidates[greedy.others(rank)[:TYPICAL]])
        return model.to(greedy.device)


class Greedy:
    """The search as far as it went; bases of different ranks are nested, so that a larger one continues a smaller one."""

    def __init__(self, target: Field, candidates: int, generator: torch.Generator) -> None:
        assert target.system is not None
        assert target.sampler is not None
        self.projection = Projection(target.system)
        drawn = target.sampler(candidates, generator)
        self.device, self.candidates = drawn.device, drawn.cpu()  # the system's matrices are on the host
        self.bounds = torch.full((candidates,), torch.inf, dtype=self.candidates.dtype)
        self.picked: list[int] = []
        self.ended = False

    def grow(self, rank: int, supply: Supply) -> int:
        """Pick candidates until the basis has `rank` vectors, or none adds one; returns the rank to use."""
        while self.projection.rank < rank and not self.ended:
            pick = 0
            if self.picked:
                pick = _largest(self.projection.model(), self.candidates, self.bounds)
            self.bounds[pick] = -torch.inf
            self.picked.append(pick)
            solution = supply.solve(self.candidates[pick : pick + 1].to(self.device))
            added = self.projection.extend(solution.cpu().numpy())
            self.ended = not added or len(self.picked) == len(self.candidates)
            if supply.progress is not None:
                supply.progress("greedy basis", self.projection.rank, rank)
        return min(rank, self.projection.rank)

    def others(self, rank: int) -> list[int]:
        """Candidates that are no snapshots of the first `rank` basis vectors."""
        taken = set(self.picked[:rank])
        return [i for i in range(len(self.candidates)) if i not in taken]


def _largest(model: ReducedModel, candidates: torch.Tensor, bounds: torch.Tensor) -> int:
    """The candidate with the largest bound; `bounds` holds the last known ones and is refreshed where needed."""
    order = bounds.argsort(descending=True, stable=True)
    best, at = -torch.inf, int(order[0])
    for chunk in order.split(LAZY):
        if not bounds[chunk[0]] > best:
            break
        # A candidate that was picked has bound -inf and stays picked.
        fresh = torch.where(bounds[chunk] > -torch.inf, model.bound(candidates[chunk]), bounds[chunk])
        bounds[chunk] = fresh
        if fresh.max() > best:
            best, at = float(fresh.max()), int(chunk[fresh.argmax()])
    return at
