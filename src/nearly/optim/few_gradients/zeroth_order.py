"""Descent by values of the loss alone: along random directions, or coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import parts, put, wide
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "ZerothOrder",
    "rows": [386],
    "replaces": "backpropagation, where the loss is a black box",
    "cost": "one value of the loss for each coordinate or direction, and one more",
    "needs": ["values"],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {
        "lr": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "spread": ["real", 0, None],
        "rule": ["choice", "coordinates", "directions"],
        "count": ["integer", 1, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.15, "count": 200},
    "skips": {
        "dtypes": "a coordinate's change is below the rounding of half precision",
    },
}


@dataclass(frozen=True)
class Differences(Transform):
    """Gradients from finite differences of the loss."""

    spread: float
    rule: str
    count: int
    needs: ClassVar[tuple[str, ...]] = ("values",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The estimate; there are no updates to transform."""
        total, like = sum(parameter.numel() for parameter in step.parameters), step.parameters
        found = torch.zeros(total, dtype=wide(like[0].dtype), device=like[0].device)
        draw = step.generator()
        if self.rule == "directions":
            for _ in range(self.count):
                direction = torch.randn(total, dtype=found.dtype, generator=draw).to(found.device)
                slope = (probe(step, parts(direction, like), self.spread) - step.loss) / self.spread
                found.addcmul_(direction, slope.to(found), value=1 / self.count)
            return parts(found, like)
        chosen = torch.randperm(total, generator=draw)[: self.count]
        first = 0
        for parameter in like:
            places = chosen[(chosen >= first) & (chosen < first + parameter.numel())]
            if len(places):
                entries = torch.atleast_1d(parameter)
                indices = torch.stack(torch.unravel_index(places - first, entries.shape), dim=1).tolist()
                slopes = torch.stack([self._slope(step, entries[tuple(index)]) for index in indices])
                found[places.to(found.device)] = slopes.to(found)
            first += parameter.numel()
        return parts(found, like)

    def _slope(self, step: Step, entry: Tensor) -> Tensor:
        kept = entry.clone()
        entry += self.spread
        try:
            return (step.value() - step.loss) / self.spread
        finally:
            entry.copy_(kept)


def probe(step: Step, direction: list[Tensor], size: float) -> Tensor:
    """The loss a way off; the parameters come back bit for bit."""
    kept = [parameter.clone() for parameter in step.parameters]
    torch._foreach_add_(step.parameters, direction, alpha=size)
    try:
        return step.value()
    finally:
        put(step.parameters, kept)


class ZerothOrder(Optimizer):
    r"""$g_i = (L(p + \mu e_i) - L(p)) / \mu$ for as many coordinates i as are asked, drawn anew at each step, and momentum.

    With `rule="directions"` instead $g = \frac1n \sum_k \frac{L(p + \mu u_k) - L(p)}{\mu} u_k$ for normal directions: its error in
    d dimensions is $\sqrt{d / n}$ times the gradient, but falls on all coordinates alike, and a descent whose rate is small
    averages it out. Coordinates give the part of the gradient that they ask for up to the error of the difference; asked for all,
    they take the gradient's place at any rate. For perceptrons, `coordinate_gradient` finds the same in a part of the time.

    Source: Chen et al. 2024, "DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training", arXiv:2310.02025, equations
    1 and 2.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: rate.
        momentum: as in `torch.optim.SGD`.
        spread: $\mu$.
        rule: "coordinates" or "directions".
        count: of either.
        weight_decay: decoupled.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; without a closure, or with one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = ZerothOrder([x], lr=0.25, momentum=0.0)
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
        momentum: float = 0.9,
        spread: float = 1e-3,
        rule: str = "coordinates",
        count: int = 100,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Differences, and momentum."""
        return (Differences(group["spread"], group["rule"], group["count"]), Momentum(group["momentum"]))
