"""Newton's method with a step size from the Newton decrement: global, and unit steps in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import elsewhere, flat, parts
from nearly.optim.newton._newton import damped_factor, hessian, solved
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "StepsizedNewton",
    "rows": [143],
    "replaces": "Newton's method with a constant damping or a line search on the loss",
    "cost": "N Hessian products and N^3 / 3 multiplications for N parameters; with backtracking about 2.5 gradients a step",
    "needs": ["closure", "curvature"],
    "state": {"matrix": {}, "vector": {}},
    "largest": 5000,
    "parameters": {
        "lr": ["at least", 0, None],
        "constant": ["optional real", 0, None],
        "exponent": ["at least", 0, 1],
        "growth": ["real", 1, None],
    },
    "settings": {},
    "skips": {},
}
TRIALS = 60  # of a step; growth^60 ends any search


@dataclass(frozen=True)
class _Stepsize(Transform):
    """The Newton direction times 1 / (1 + theta)."""

    constant: float | None
    exponent: float
    growth: float
    needs: ClassVar[tuple[str, ...]] = ("closure", "curvature")

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        gradient = flat(updates)
        factor = damped_factor(hessian(step), 0.0)
        direction = solved(factor, gradient)
        decrement = float(gradient @ direction) ** 0.5
        if self.constant is not None:
            theta = (9 * self.constant) ** (1 - self.exponent) * decrement**self.exponent
            return parts(direction / (1 + theta), updates)
        scale = step.shared.get("scale", 1.0)
        for _ in range(TRIALS):
            theta = scale * decrement**self.exponent
            trial = direction / (1 + theta)
            there = flat(elsewhere(step, parts(trial, updates))[1])
            if bool(2 * theta / (1 + theta) * (there @ direction) >= there @ solved(factor, there)):
                break
            scale *= self.growth
        else:  # gradients are at their rounding, and say nothing of the scale
            return [torch.zeros_like(update) for update in updates]
        step.shared["scale"] = scale / self.growth
        return parts(trial, updates)


class StepsizedNewton(Optimizer):
    r"""Newton's $x \leftarrow x - \alpha H^{-1} g$ with $\alpha = 1 / (1 + \theta)$ from the decrement $\delta^2 = g' H^{-1} g$.

    With `constant` M the step is explicit, $\theta = (9 M)^{1 - \beta} \delta^\beta$, where M bounds how fast the Hessian ($\beta
    = 1/2$) or the third derivative ($\beta = 2/3$) changes, in the Hessian's own norm. Without it $\theta = \sigma \delta^\beta$
    with $\sigma$ found by backtracking: it grows by `growth` until $2 \alpha \theta \langle \nabla f(x^+), H^{-1} g \rangle \ge
    |\nabla f(x^+)|^2_{H^{-1}}$, and is divided by it after each step. No constant is needed then, and the rate is that of the
    best constants.

    For convex losses with a positive definite Hessian the gap falls like $k^{-2}$ where M bounds the Hessian's change, and like
    $k^{-3}$ where it bounds the third derivative's; steps do not depend on the basis. In the end steps are Newton's own. Where
    the Hessian is not positive definite a multiple of the identity is added, and no theorem holds.

    Source: Hanzely, Abdukhakimov, Takáč 2024, "Newton Method Revisited: Global Convergence Rates up to O(k^-3) for Stepsize
    Schedules and Linesearch Procedures", arXiv:2405.18926: RN and UN.

    Args:
        params: tensors, named tensors or one parameter group, of N numbers in all; N^2 numbers must fit into memory.
        lr: times the step; 1 is the paper's.
        constant: M, or None.
        exponent: $\beta$.
        growth: see above.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = StepsizedNewton([x])
        >>> losses = [float(optimizer.step(lambda: (x.square() + 1).sqrt().sum()).detach()) for _ in range(8)]
        >>> bool(x.norm() < 1e-3)
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        constant: float | None = None,
        exponent: float = 2 / 3,
        growth: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The step size, of either kind."""
        return (_Stepsize(group["constant"], group["exponent"], group["growth"]),)
