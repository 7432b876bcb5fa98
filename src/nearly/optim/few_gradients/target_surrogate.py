"""Several cheap parameter steps for one expensive gradient, on a surrogate of the loss in the space of the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.optim._targets import Targets
from nearly.optim._vectors import dots, elsewhere
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from nearly.optim.step import Step

CARD = {
    "name": "TargetSurrogate",
    "rows": [184],
    "kind": "targets",
    "replaces": "SGD and Adam where the loss's gradient by the outputs costs far more than the model",
    "cost": "one gradient of the loss by the outputs a step; for each inner step about 1.5 passes through the model",
    "needs": ["closure"],
    "state": {"matrix": {}, "vector": {}},
    "parameters": {
        "lr": ["at least", 0, None],
        "inner": ["integer", 1, None],
        "decrease": ["real", 0, 1],
    },
    "settings": {"lr": 2.0},
    "skips": {},
}
TRIALS = 30  # of a line search; half of half ... ends any
SHRINK, GROW = 0.5, 2.0  # of inner rates, after trials that fail and inner steps that were taken


class _Surrogate(Targets):
    """At first the loss, with its gradient by the outputs taken once; from then on the surrogate around those outputs."""

    def __init__(self, closure: Callable[[], Any], member: str, rate: float, sign: float) -> None:
        super().__init__(closure, member)
        self.rate, self.sign = rate, sign
        self.center: Tensor | None = None

    def __call__(self) -> Tensor:
        """The surrogate's value, which is the loss at first."""
        outputs = self.read()
        if self.center is None:
            self.center = outputs.detach().requires_grad_()
            self.loss = self.function(self.center)
            (self.slope,) = torch.autograd.grad(self.loss, self.center)
            self.loss = self.loss.detach()
        away = outputs - self.center.detach()
        value = self.loss + (self.slope * away).sum()
        if self.rate > 0:
            rows = len(away) if away.ndim else 1
            value = value + self.sign * away.square().sum() / (2 * self.rate * rows)
        return value


@dataclass(frozen=True)
class _Descend(Transform):
    """The displacement of some steps of gradient descent on the surrogate, each with a line search."""

    lr: float
    inner: int
    decrease: float
    needs: ClassVar[tuple[str, ...]] = ("closure",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The displacement."""
        total = [torch.zeros_like(update) for update in updates]
        if self.lr == 0:
            return total
        value, slopes, rate = step.loss, updates, step.shared.get("rate", 1.0)
        for _ in range(self.inner):
            square = dots(slopes, slopes).sum()
            if not bool(square > 0):  # at the surrogate's minimum, where any rate would do, and grow for ever
                break
            slack = torch.finfo(value.dtype).eps * value.abs()  # a decrease that rounding hides counts as made
            for _ in range(TRIALS):
                trial = list(torch._foreach_add(total, slopes, alpha=rate))
                there, found = elsewhere(step, trial)
                if bool(there <= value - self.decrease * rate * square + slack):
                    break
                rate *= SHRINK
            else:
                break
            total, value, slopes, rate = trial, there, found, GROW * rate
        step.shared["rate"] = rate
        return total


class TargetSurrogate(Optimizer):
    r"""SSO: from the outputs $z_t = f(\theta_t)$ and one gradient of the loss by them, `inner` descent steps on

        $$g_t(\theta) = \ell(z_t) + \langle \nabla \ell(z_t), f(\theta) - z_t \rangle
          + \frac{1}{2 \eta n} |f(\theta) - z_t|^2,$$

    n the number of rows of the outputs. Where the loss is a mean over rows of losses that are L-smooth in their outputs and
    $\eta \le 1 / L$, $g_t$ lies above the loss and meets it at $\theta_t$, so that whatever lowers it lowers the loss, in
    full batches at every step, whatever the model. Inner steps have an Armijo line search; they pass through the model, never
    through the loss.

    The closure returns the outputs and a function of them, which is called once a step:

        def closure(): return model(inputs), lambda outputs: loss_function(outputs, targets)

    Departure: the first rate of a line search is twice the last one taken, not a constant.

    Source: Lavington, Vaswani, Babanezhad, Schmidt, Le Roux 2023, "Target-based Surrogates for Stochastic Optimization",
    arXiv:2302.02607, algorithms 1 and 2.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: $\eta$.
        inner: steps on each surrogate.
        decrease: c of Armijo's condition.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that does not return what is said above.

    Example:
        >>> model, inputs = torch.nn.Linear(3, 1), torch.eye(3)
        >>> optimizer = TargetSurrogate(model.parameters(), lr=0.5)
        >>> for _ in range(9):
        ...     loss = optimizer.step(lambda: (model(inputs), lambda outputs: (outputs - 1).square().mean()))
        >>> bool(loss < 1e-3)
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        inner: int = 20,
        decrease: float = 0.5,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` returns the outputs and a function of them.

        Raises:
            BadInput: without it.
        """
        if closure is None:
            return super().step(None)
        group = self.param_groups[0]
        return super().step(_Surrogate(closure, type(self).__name__, group["lr"], -1.0 if group["maximize"] else 1.0))

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Descent on the surrogate."""
        return (_Descend(group["lr"], group["inner"], group["decrease"]),)

    def move(self, step: Step, updates: list[Tensor]) -> None:
        """Subtract the displacement, in which the rates are."""
        torch._foreach_sub_(step.parameters, updates)
