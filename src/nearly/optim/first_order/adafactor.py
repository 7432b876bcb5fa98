"""Adafactor: second moments in the memory of rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform, root_mean_squares, times
from nearly.optim.transforms import ClipRMS, FactoredMoment

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Adafactor",
    "rows": [10],
    "replaces": "torch.optim.Adafactor, and Adam's memory",
    "cost": "seven elementwise passes",
    "needs": [],
    "state": {"matrix": {"m": 4, "n": 4}, "vector": {"n": 4}},
    "parameters": {
        "lr": ["at least", 0, None],
        "beta2_decay": ["real", 0, 1],
        "floor": ["real", 0, None],
        "clip": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 1.0, "floor": 0.1},
    "skips": {},
}


@dataclass(frozen=True)
class RelativeStep(Transform):
    r"""Every update times $\max(floor, \operatorname{rms}(p)) \min(1, t^{-1/2} / lr)$ at step t: lr is relative to p."""

    lr: float
    floor: float
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        slowed = min(1.0, step.number**-0.5 / self.lr) if self.lr > 0 else 0.0
        return times(updates, slowed * root_mean_squares(step.parameters).clamp(min=self.floor))


class Adafactor(Optimizer):
    r"""Updates $u = g / \sqrt{\hat v}$ with factored second moments, clipped to a root mean square, relative to the parameter's.

        $$p \leftarrow (1 - lr \lambda) p - \frac{\min(lr, t^{-1/2}) \max(floor, \operatorname{rms}(p))}
          {\max(1, \operatorname{rms}(u) / clip)}\, u$$

    An m x n matrix keeps m + n numbers. The rates and defaults are those of `torch.optim.Adafactor`, whose steps it takes; a
    convolution is a matrix of outputs against inputs and places here, and many matrices there.

    Source: Shazeer, Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, algorithm 5.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: largest relative step.
        beta2_decay: the second moment's decay is $1 - t^{-beta2\_decay}$.
        floor: smallest size of parameters that steps are relative to.
        clip: see above.
        weight_decay: $\lambda$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.ones(3, 2))
        >>> optimizer = Adafactor([x], lr=0.1)
        >>> x.square().sum().backward()
        >>> optimizer.step()
        >>> x.detach()[0]
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-2,
        beta2_decay: float = 0.8,
        floor: float = 1e-3,
        clip: float = 1.0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Divided by factored moments, clipped, made relative."""
        return (
            FactoredMoment(group["beta2_decay"]),
            ClipRMS(group["clip"]),
            RelativeStep(group["lr"], group["floor"]),
        )
