"""SGD whose step is corrected, in length and direction, by a quadratic model of each parameter from one trial step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import dots, elsewhere, safe_ratio
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "StochasticModelBuilding",
    "rows": [77],
    "replaces": "torch.optim.SGD with a tuned rate, and line searches",
    "cost": "two gradients a step, eight elementwise passes",
    "needs": ["closure"],
    "state": {"matrix": {}, "vector": {}},
    "parameters": {
        "lr": ["at least", 0, None],
        "shrink": ["real", 0, 1],
        "decrease": ["at least", 0, 1],
        "window": ["optional integer", 1, None],
    },
    "settings": {"lr": 1.0},
    "skips": {},
}

# The reference's schedule (https://github.com/sbirbil/SMB): a tenth down or up, by whether model steps were above 1 in 20.
CHANGE, FEW = 0.9, 0.05


@dataclass(frozen=True)
class _ModelStep(Transform):
    """The trial step where it decreases the loss enough, and each parameter's model step elsewhere; over the rate."""

    lr: float
    shrink: float
    decrease: float
    window: int | None
    needs: ClassVar[tuple[str, ...]] = ("closure",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step, over the group's rate."""
        factor = step.shared.get("factor", 1.0)
        rate = factor * self.lr
        if rate == 0:
            return updates
        loss, squares = step.loss, dots(updates, updates)
        trial, there = elsewhere(step, updates, rate)
        failed = not bool(trial <= loss - self.decrease * rate * squares.sum())
        if self.window is not None:
            self._schedule(step, self.window, factor, failed)
        found = self._modeled(updates, there, squares) if failed else updates
        return list(torch._foreach_mul(found, factor))

    @staticmethod
    def _schedule(step: Step, window: int, factor: float, failed: bool) -> None:
        """Larger rates after a window with few model steps, smaller ones after others."""
        failures = step.shared.get("failures", 0) + failed
        if step.number % window == 0:
            step.shared["factor"] = factor * CHANGE if failures > FEW * window else factor / CHANGE
            failures = 0
        step.shared["failures"] = failures

    def _modeled(self, updates: list[Tensor], there: list[Tensor], squares: Tensor) -> list[Tensor]:
        """The model's steps, over the rate, from the gradients here and there."""
        changes = list(torch._foreach_sub(there, updates))
        along, across = dots(changes, updates), dots(changes, changes)
        # The paper's s = -rate g, sigma and theta with the rate divided out: wide = (ys + 2 sigma) / rate,
        # tall = 2 sigma / rate, and theta / rate^2 = g'g area.
        wide = (squares * across).sqrt() + squares / self.shrink
        tall = wide + along
        area = 2 * (squares * across).sqrt() / self.shrink + squares / self.shrink**2
        gradient = safe_ratio(wide * along + across * squares, tall * area) + safe_ratio(squares, tall)
        change = safe_ratio(squares, area)
        kind = updates[0].dtype
        found = torch._foreach_mul(updates, list(gradient.to(kind).unbind()))
        torch._foreach_add_(found, torch._foreach_mul(changes, list(change.to(kind).unbind())))
        return list(found)


class StochasticModelBuilding(Optimizer):
    r"""SMB: where the trial step $s = -lr\, g$ fails $f(x + s) \le f - c\, lr |g|^2$, a quadratic model steps from both gradients.

    For each parameter tensor, with y the change of its gradient over s, the step $s'$ minimizes a model that is quadratic in $s'$:
    the linear models of the loss at x and at x + s, weighted by how far $s'$ goes along s, subject to
    $|s'|^2 + |s' - s|^2 \le |s|^2$. The multiplier is $\sigma = \tfrac12 (|s| (|y| + |g| / \eta) - y's)$, which keeps
    $|s'| \le \eta |s|$, and

        $$s' = c_g g + c_s s + c_y y, \quad c_g = -\frac{|s|^2}{2\sigma}, \quad
          c_s = \frac{c_g}{\theta} (|y|^2 s'g - (y's + 2\sigma) y'g), \quad
          c_y = \frac{c_g}{\theta} (|s|^2 y'g - (y's + 2\sigma) s'g),$$

    $\theta = (y's + 2\sigma)^2 - |s|^2 |y|^2$. The closure is called twice a step, on the same batch.

    Departure: the paper's experiments change the rate once in an epoch; `window` 1 makes rates that are 1,000 times off good within
    the first hundred steps.

    Source: Birbil, Martin, Onay, Öztoprak 2021, "Bolstering Stochastic Gradient Descent with Model Building", arXiv:2111.07058,
    algorithm 1 and equations 5 to 9.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: rate of the trial step.
        shrink: $\eta$, the most that a model step may keep of the trial step's length.
        decrease: c.
        window: steps after each of which the rate is scaled anew: by 0.9 where more than a twentieth of them were model steps, by
            1 / 0.9 elsewhere; None keeps it.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = StochasticModelBuilding([x], lr=8.0)
        >>> float(optimizer.step(lambda: x.square().sum() / 2).detach()), bool(x.abs() < 1)
        (0.5, True)
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.5,
        shrink: float = 0.99,
        decrease: float = 0.1,
        window: int | None = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The step of the model."""
        return (_ModelStep(group["lr"], group["shrink"], group["decrease"], group["window"]),)
