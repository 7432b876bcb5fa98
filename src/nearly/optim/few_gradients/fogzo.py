"""FOGZO: zeroth-order directions guided by a straight-through gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import flat, parts
from nearly.optim.few_gradients.zeroth_order import probe
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Fogzo",
    "rows": [234],
    "replaces": "the straight-through gradient of quantized networks, which is biased",
    "cost": "two values of the loss beside the gradient, for each direction",
    "needs": ["trials"],
    "state": {"matrix": {}, "vector": {}},
    "parameters": {
        "lr": ["at least", 0, None],
        "share": ["at least", 0, 1],
        "spread": ["real", 0, None],
        "count": ["integer", 1, None],
        "rule": ["choice", "descent", "adam"],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.95},
    "skips": {"dtypes": "differences over a short way are lost in half precision's rounding"},
}


@dataclass(frozen=True)
class Guided(Transform):
    """Mean of `difference * direction` over directions near the gradient."""

    share: float
    spread: float
    count: int
    needs: ClassVar[tuple[str, ...]] = ("trials",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The estimate."""
        guide = flat(updates)
        size = guide.norm()
        guide = guide / torch.where(size > 0, size, 1.0)
        draw = step.generator()
        found = torch.zeros_like(guide)
        for _ in range(self.count):
            noise = torch.rand(len(guide), dtype=guide.dtype, generator=draw).to(guide.device)
            sign = 2 * int(torch.randint(2, (), generator=draw)) - 1
            # Uniform on (-3^(1/2), 3^(1/2)), of variance one.
            direction = (12 * (1 - self.share)) ** 0.5 * (noise - 0.5) + sign * self.share**0.5 * guide
            pieces = parts(direction, updates)
            slope = (probe(step, pieces, self.spread) - probe(step, pieces, -self.spread)) / (2 * self.spread)
            found.addcmul_(direction, slope.to(found), value=1 / self.count)
        return parts(found, updates)


class Fogzo(Optimizer):
    r"""$g = \frac1n \sum_k \frac{L(p + \epsilon u_k) - L(p - \epsilon u_k)}{2 \epsilon} u_k$ for directions near a gradient.

    In $u = \sqrt\beta\, s\, \hat g + \sqrt{1 - \beta}\, z$, $\hat g$ is the straight-through gradient, of length one, s a random
    sign, z uniform with variance one. The differences see the quantized loss itself, smoothed by the steps $\epsilon u$; the guide
    makes them worth taking. With $\beta = 0$ this is n-SPSA, whose error is $\sqrt{d / n}$ times the gradient; with $\beta$ near
    one it is the straight-through direction with a measured slope, turned around where that is wrong. The paper lowers $\beta$
    linearly from one, to 0.999 or nearer to one, while the rate falls: set the group's `share`.

    Rounding to multiples of $\alpha$ under noise uniform on $(-\alpha/2, \alpha/2)$ is the identity in the mean, which is what the
    straight-through gradient differentiates: hence $\epsilon = \alpha / \sqrt{12}$ and the noise's distribution.

    Source: Yang, Aamodt 2025, "Improving the Straight-Through Estimator with Zeroth-Order Information", arXiv:2510.23926.

    Departures:
        1. The noise fits the identity as straight-through function alone; the paper has others, for tanh and its like.
        2. One $\epsilon$ and one length of the gradient for all parameters: let those be quantized with one step, or give other
           parameters to an optimizer of their own.

    Args:
        params: tensors, named tensors or one parameter group, of a module whose forward pass quantizes them.
        lr: rate.
        share: $\beta$, in [0, 1).
        spread: $\epsilon$, 0.29 quantization steps.
        count: n.
        rule: "descent", or "adam" for Adam's steps along the estimate, which has 8 bytes of state for every number.
        weight_decay: decoupled.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; without a closure, or with one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = Fogzo([x], lr=0.25)
        >>> for _ in range(30):
        ...     loss = optimizer.step(lambda: x.square().sum())
        >>> bool(x.abs().max() < 0.01)
        True
    """

    joint = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-2,
        share: float = 0.999,
        spread: float = 1e-2,
        count: int = 1,
        rule: str = "descent",
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Guided differences, and Adam where it is asked."""
        guided = Guided(group["share"], group["spread"], group["count"])
        return (guided, Moments()) if group["rule"] == "adam" else (guided,)
