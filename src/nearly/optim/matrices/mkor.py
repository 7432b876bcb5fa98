"""MKOR: K-FAC whose inverses are updated by one vector a step, at quadratic cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.optim._matrices import gathered, spread_like
from nearly.optim._ranks import average, groups_of
from nearly.optim.matrices._linear import LinearOptimizer, rows, square
from nearly.optim.step import Transform
from nearly.optim.transforms import Graft, Moments, Momentum

if TYPE_CHECKING:
    from nearly.optim.optimizer import Options
    from nearly.optim.step import Step

CARD = {
    "name": "MKOR",
    "rows": [268],
    "replaces": "K-FAC, where inverses cost more than the steps that they save",
    "cost": "two products of a layer's weight with square matrices a step; updates of these at quadratic cost",
    "needs": ["layers"],
    "state": {"matrix": {"mn": 4, "mm": 4, "nn": 4}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "rule": ["choice", "momentum", "adam"],
        "every": ["integer", 1, None],
        "limit": ["real", 1, None],
        "shrink": ["real", 0, 1],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 2.0, "rest": {"lr": 0.1}},
    "skips": {},
}


SQUARES = 0.999  # decay of Adam's second moments, its paper's


@dataclass(frozen=True)
class _RankOne(Transform):
    """Gradients between the inverses of running means of rank-one covariances."""

    decay: float
    every: int
    limit: float
    shrink: float
    needs: ClassVar[tuple[str, ...]] = ("layers",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        inverses = step.state("inputs inverse", square(1, 1.0)), step.state("outputs inverse", square(0, 1.0))
        if (step.number - 1) % self.every == 0:
            seen = [(place, pair[0].mean(dim=0), pair[1].mean(dim=0)) for place, *pair in rows(step)]
            average([vector for _, *pair in seen for vector in pair], groups_of(updates[0], step.process_group))
            for place, *pair in seen:
                for side, vector in zip(inverses, pair, strict=True):
                    self._update(side[place], vector)
        return [
            spread_like((left @ gathered(update).to(left.dtype) @ right).to(update.dtype), update)
            for update, right, left in zip(updates, *inverses, strict=True)
        ]

    def _update(self, inverse: Tensor, vector: Tensor) -> None:
        # The largest entry of a positive definite matrix is on its diagonal; one that rounding made indefinite starts anew.
        least, most = inverse.diagonal().aminmax()
        kept = torch.where(most > self.limit, self.shrink, 1.0) * (least > 0)
        inverse.mul_(kept).diagonal().add_(1 - kept)
        vector = vector.to(inverse.dtype)
        image = inverse @ vector
        size = torch.dot(image, vector).clamp(min=0)
        weight = (1 - self.decay) / (self.decay + (1 - self.decay) * size)
        image = image * weight.sqrt()
        inverse.addr_(image, image, beta=1 / self.decay, alpha=-1 / self.decay)


class MKOR(LinearOptimizer):
    r"""MKOR: steps from $B^{-1} G A^{-1}$, of the gradient's norm, with inverses that follow one vector a step.

    $A \leftarrow \gamma A + (1 - \gamma)\, \bar a \bar a^T$ with $\bar a$ the mean of a layer's inputs, B likewise of gradients of
    its outputs, both from the identity; their inverses follow by Sherman and Morrison:

        $$A^{-1} \leftarrow \frac1\gamma \left( A^{-1} - \frac{(1 - \gamma)\, u u^T}{\gamma + (1 - \gamma)\, \bar a^T u} \right),
        \quad u = A^{-1} \bar a.$$

    Directions never seen grow by $1 / \gamma$ a step: before an update, an inverse with an entry above `limit` becomes
    $\zeta A^{-1} + (1 - \zeta) I$, and one that rounding left with a diagonal entry of 0 or less becomes I. All other
    parameters, biases too, go to AdamW (`rest`).

    Departures: (1) the formula is exact, where the paper's equations 5 and 6 have $\gamma A^{-1}$ and a sum, which is no inverse of
    any such mean; (2) no bias in the last column; (3) single precision at least; (4) no switch to first order (MKOR-H).

    Source: Mozaffari, Li, Zhang, Mehri Dehnavi 2023, "MKOR: Momentum-Enabled Kronecker-Factor-Based Optimizer Using Rank-1
    Updates", arXiv:2306.01685, algorithm 1.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate, as of gradient descent with momentum, or of Adam.
        betas: decay rates of momentum, and $\gamma$.
        rule: what the directions are given to, "momentum" or "adam", which has another 4 mn bytes of state.
        every: steps between two updates of the inverses.
        limit: see above.
        shrink: $\zeta$; below $\gamma$, or the limit does not hold.
        weight_decay: decoupled.
        options: see `Options`; `module` is needed. With `process_group` the two vectors of a layer are averaged over the ranks.

    Raises:
        BadInput: for values out of range, by name; without a module that has linear layers.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = MKOR(model.parameters(), module=model, lr=0.1)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.9),
        rule: str = "momentum",
        every: int = 1,
        limit: float = 100.0,
        shrink: float = 0.5,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Directions, resized, then averaged or given to Adam."""
        first, second = group["betas"]
        direction = Graft(_RankOne(second, group["every"], group["limit"], group["shrink"]))
        return (direction, Momentum(first, average=True) if group["rule"] == "momentum" else Moments((first, SQUARES)))
