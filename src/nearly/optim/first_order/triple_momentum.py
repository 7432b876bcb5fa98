"""The triple momentum method: the fastest known fixed recursion for strongly convex losses."""

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
    "name": "TripleMomentum",
    "rows": [230],
    "replaces": "Nesterov's method and heavy ball, where smoothness and strong convexity are known",
    "cost": "elementwise, one pass over parameters, gradients and momentum",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {"lr": ["at least", 0, None], "strong_convexity": ["real", 0, None]},
    "settings": {"lr": 0.3, "strong_convexity": 0.03},
    "skips": {},
}


@dataclass(frozen=True)
class _Triple(Transform):
    r"""The step of $y_k$ in units of gradients, from $m_k = (\xi_{k-1} - \xi_k) / \alpha$."""

    rate: float
    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        r = self.rate
        decay, look = r**2 / (2 - r), r**2 / ((1 + r) * (2 - r))
        mean = step.state("momentum")
        found = torch._foreach_mul(mean, -(1 + r) * look)
        torch._foreach_mul_(mean, decay)
        torch._foreach_add_(mean, updates)
        torch._foreach_add_(found, mean, alpha=(1 + r) * (1 + look))
        return list(found)


class TripleMomentum(Optimizer):
    r"""Triple momentum, of rate $\rho = 1 - \sqrt{\mu / L}$ for every $\mu$-strongly convex, L-smooth loss; `lr` is 1 / L.

        $$\xi_{k+1} = \xi_k + \beta (\xi_k - \xi_{k-1}) - \alpha \nabla f(y_k), \qquad y_k = \xi_k + \gamma (\xi_k - \xi_{k-1}),$$

    $\alpha = (1 + \rho) / L$, $\beta = \rho^2 / (2 - \rho)$, $\gamma = \rho^2 / ((1 + \rho)(2 - \rho))$. Nesterov's method has the
    rate $\sqrt{1 - \sqrt{\mu / L}}$, half as many digits a step. Heavy ball with the constants that are best for quadratic
    losses need not converge for others at all.

    The parameters hold $y_k$, where gradients are taken, whose distance to the minimizer falls at the same rate; it may grow
    at first.

    Source: Van Scoy, Freeman, Lynch 2018, "The Fastest Known Globally Convergent First-Order Method for Minimizing Strongly Convex
    Functions", IEEE Control Systems Letters 2, equations 3 to 5, https://doi.org/10.1109/LCSYS.2017.2722406; as a discretized
    system in Parimi et al. 2025, "On the Dynamics of Acceleration in First order Gradient Methods", arXiv:2509.18346.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: 1 / L.
        strong_convexity: $\mu$, at most L (taken as L where it is more).
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = TripleMomentum([x], lr=1.0, strong_convexity=1.0)
        >>> (x.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([0., 0.])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-2,
        strong_convexity: float = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The recursion at the group's constants."""
        return (_Triple(max(1 - (group["lr"] * group["strong_convexity"]) ** 0.5, 0.0)),)
