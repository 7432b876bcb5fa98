"""Polyak's step size for momentum: the rate from the loss, its lower bound and the direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import dots, put, safe_ratio, scaled
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "MomentumPolyak",
    "rows": [280],
    "replaces": "a tuned rate of torch.optim.SGD with momentum, where the least loss is known",
    "cost": "two inner products and two elementwise passes",
    "needs": ["loss"],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {
        "lr": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "average": ["choice", True, False],
        "floor": ["real", None, None],
        "share": ["real", 0, None],
        "most": ["optional real", 0, None],
    },
    "settings": {"most": 1.0},
    "skips": {},
}


@dataclass(frozen=True)
class _HeavyBall(Transform):
    """Heavy ball: the last displacement is the state."""

    lr: float
    momentum: float
    floor: float
    share: float
    most: float
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The rate times the gradient, less momentum times the last displacement."""
        moved = step.state("displacement")
        gap = (step.loss - self.floor).clamp(min=0) / self.share
        toward = self.momentum * dots(updates, moved).sum()
        rate = safe_ratio(gap + toward, dots(updates, updates).sum()).clamp(min=0, max=self.most)
        found = torch._foreach_sub(scaled(updates, rate), moved, alpha=self.momentum)
        put(moved, torch._foreach_mul(found, -self.lr))
        return list(found)


@dataclass(frozen=True)
class _MovingSum(Transform):
    """Moving sum of gradients: the sum is the state."""

    momentum: float
    floor: float
    share: float
    most: float
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The rate times the sum."""
        total = step.state("momentum")
        torch._foreach_mul_(total, self.momentum)
        torch._foreach_add_(total, updates)
        gap = (step.loss - self.floor).clamp(min=0) / self.share
        return scaled(total, safe_ratio(gap, dots(total, total).sum()).clamp(max=self.most))


class MomentumPolyak(Optimizer):
    r"""Adaptive rates for momentum from $f^*$, a lower bound of the loss, which is 0 for most losses of models that fit.

    With `average` the direction is $d_t = \beta d_{t-1} + g_t$ and $\eta_t = (f_t - f^*) / (c |d_t|^2)$; without it, for heavy
    ball $x_{t+1} = x_t - \eta_t g_t + \beta (x_t - x_{t-1})$,

        $$\eta_t = \frac{(f_t - f^*) / c + \beta \langle g_t, x_t - x_{t-1} \rangle}{|g_t|^2}.$$

    Both minimize over $\eta$ a bound of the next distance to a minimizer, which holds for convex losses at c = 1, and for heavy
    ball on quadratic losses at c = 1/2 too, whose gap is half of $\langle g, x - x^* \rangle$.

    Departures: (1) rates below 0 are 0; (2) `lr` scales the whole displacement, momentum too; 1 is the paper's step.

    Source: Wang, Johansson, Zhang 2023, "Generalized Polyak Step Size for First Order Optimization with Momentum",
    arXiv:2305.12939, algorithms ALR-MAG and ALR-HB; with `most` their stochastic forms.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: see above.
        momentum: $\beta$.
        average: see above.
        floor: $f^*$.
        share: c.
        most: largest rate; None for no limit.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        >>> optimizer = MomentumPolyak([x], share=0.5)
        >>> float(optimizer.step(lambda: x.square().sum()).detach()), x.detach()
        (5.0, tensor([0., 0.]))
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        momentum: float = 0.9,
        average: bool = True,
        floor: float = 0.0,
        share: float = 1.0,
        most: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum of either kind, with its rate."""
        most = math.inf if group["most"] is None else group["most"]
        common = (group["momentum"], group["floor"], group["share"], most)
        return (_MovingSum(*common) if group["average"] else _HeavyBall(group["lr"], *common),)
