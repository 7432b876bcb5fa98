"""Nesterov's method with the momentum that its theory names, for stochastic gradients under strong growth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Nesterov",
    "rows": [213, 230],
    "replaces": "torch.optim.SGD(nesterov=True) with a tuned momentum",
    "cost": "elementwise, one pass over parameters, gradients and momentum",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {"lr": ["at least", 0, None], "strong_convexity": ["at least", 0, None]},
    "settings": {"lr": 0.3},
    "skips": {},
}


@dataclass(frozen=True)
class _Accelerate(Transform):
    r"""The step of $y_k$ in units of gradients, from $m_k = (w_{k-1} - w_k) / \eta$."""

    contraction: float  # the root of eta mu, at most 1
    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        mean = step.state("momentum")
        torch._foreach_mul_(mean, self._momentum(step.number - 1))
        torch._foreach_add_(mean, updates)
        return list(torch._foreach_add(updates, mean, alpha=self._momentum(step.number)))

    def _momentum(self, number: int) -> float:
        if self.contraction:
            return (1 - self.contraction) / (1 + self.contraction)
        return max(number - 1, 0) / (number + 2)


class Nesterov(Optimizer):
    r"""Nesterov's acceleration of SGD with rate $\eta$ on a $\mu$-strongly convex (or, at $\mu = 0$, convex) loss.

        $$w_k = y_k - \eta g_k, \qquad y_{k+1} = w_k + \beta_k (w_k - w_{k-1}),$$

    $\beta_k = (1 - \sqrt{\eta\mu}) / (1 + \sqrt{\eta\mu})$, or $(k - 1) / (k + 2)$ at $\mu = 0$. The parameters hold $y_k$, where
    gradients are taken.

    For stochastic gradients under strong growth, $E|g|^2 \le \rho |\nabla f|^2$ (models that fit all data), the rate is
    $\eta = 1 / (\rho L)$ for an L-smooth loss: then the gap falls in expectation like $(1 - \sqrt{\mu / (\rho L)})^k$, so that
    steps grow like $\sqrt\rho$, those of SGD like $\rho$ (in the worst case of either).

    Departures: (1) $\alpha_0$ of the paper's recursion is its fixed point where $\mu > 0$, so that the momentum is constant; at
    $\mu = 0$ it is the closed form that meets the recursion's inequality; (2) at a rate of 0 nothing moves.

    Source: Mishkin, Pilanci, Schmidt 2024, "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation",
    arXiv:2404.02378, algorithm 1 with SGD as its primal step. As a discretized system: Parimi et al. 2025, "On the Dynamics of
    Acceleration in First order Gradient Methods", arXiv:2509.18346.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: $\eta$.
        strong_convexity: $\mu$, at most $1 / \eta$ (taken as that where it is more).
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Nesterov([x], lr=0.25, strong_convexity=1.0)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (x.square().sum() / 2).backward()
        ...     optimizer.step()
        >>> x.detach()
        tensor([0.4167, 0.4167])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-2,
        strong_convexity: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The recursion at the group's constants."""
        return (_Accelerate(min((group["lr"] * group["strong_convexity"]) ** 0.5, 1.0)),)
