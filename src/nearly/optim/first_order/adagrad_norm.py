"""One AdaGrad rate for all parameters: no knowledge of smoothness or noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from nearly.optim._vectors import dots, safe_ratio, scaled
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "AdaGradNorm",
    "rows": [266],
    "replaces": "torch.optim.SGD with a tuned and tuned-to-decay rate",
    "cost": "one norm and one elementwise pass",
    "needs": [],
    "state": {"matrix": {}, "vector": {}, "shared": {"1": 4}},
    "parameters": {"lr": ["at least", 0, None], "start": ["at least", 0, None]},
    "settings": {"lr": 2.0},
    "skips": {},
}


@dataclass(frozen=True)
class _Normalize(Transform):
    """Updates over the root of the sum of all their squared norms so far."""

    start: float

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, divided."""
        now = dots(updates, updates).sum()
        total = step.shared.get("total", self.start**2) + now
        step.shared["total"] = total
        return scaled(updates, safe_ratio(now.new_ones(()), total.sqrt()))


class AdaGradNorm(Optimizer):
    r"""SGD with AdaGrad step sizes, $\eta_t = \eta / \sqrt{\gamma^2 + \sum_{s \le t} |g_s|^2}$, one for all parameters.

    With high probability the loss's gap falls like $1/T$ where gradients have no additive noise and like $1/\sqrt T$ where they
    have, for any $\eta$ and $\gamma$, for smooth convex losses and gradients whose noise is bounded by
    $\sigma_0^2 + \sigma_1^2 |\nabla f|^2$ (theorem 2, for the mean of the iterates); for smooth losses that are not convex the
    least gradient falls so (theorem 1).

    Source: Attia, Koren 2023, "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters, Unbounded
    Gradients and Affine Variance", arXiv:2302.08783, equation 1.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: $\eta$, best of the order of the distance to the minimizer.
        start: $\gamma$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = AdaGradNorm([x], lr=2.5)
        >>> (x.square().sum() / 2).backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([1.5000, 2.0000])
    """

    joint: ClassVar[bool] = True

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1.0, start: float = 0.0, **options: Unpack[Options]
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The division."""
        return (_Normalize(group["start"]),)
