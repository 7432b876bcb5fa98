"""Bloop: an auxiliary loss lowered only where the main one does not mind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.optim._vectors import dots, safe_ratio, scaled
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Bloop",
    "kind": "two_losses",
    "rows": [90],
    "replaces": "a weighted sum of two losses, whose weight trades one for the other",
    "cost": "a second gradient, two inner products and four elementwise passes",
    "needs": ["auxiliary"],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {
        "lr": ["at least", 0, None],
        "weight": ["at least", 0, None],
        "decay": ["at least", 0, 1],
        "rule": ["choice", "descent", "adam"],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.95},
    "skips": {},
}

TWO_LOSSES = (
    "def closure(): return loss_function(model(inputs), targets), auxiliary_loss(model)\noptimizer.step(closure)"
)


class Pair:
    """A closure of two losses as one of the first, which keeps the other's gradients.

    Args:
        closure: returns both, with their graphs.
        parameters: of the optimizer.
    """

    def __init__(self, closure: Callable[[], Any], parameters: Sequence[Tensor]) -> None:
        self.closure = closure
        self.parameters = [one for one in parameters if one.requires_grad]
        self.slopes: dict[int, Tensor] = {}

    def __call__(self) -> Tensor:
        """The main loss.

        Raises:
            BadInput: where the closure returns anything else, or the other's gradients are not finite.
        """
        found = self.closure()
        tensors = isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, torch.Tensor) for one in found)
        if not tensors or found[0].numel() != 1 or found[1].numel() != 1:
            requirement = "one that returns the main loss and the auxiliary one, and does not call backward()"
            raise BadInput("closure", requirement, describe(found), f"Write\n{TWO_LOSSES}")
        main, other = (one.reshape(()) for one in found)
        flags: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        slopes = torch.autograd.grad(other, self.parameters, **flags)
        self.slopes = {id(parameter): slope for parameter, slope in zip(self.parameters, slopes, strict=True)}
        return main


@dataclass(frozen=True)
class Projected(Transform):
    """The main gradient, and the part of the auxiliary one that is perpendicular to the main ones' running mean."""

    weight: float
    decay: float
    pair: Pair | None
    needs: ClassVar[tuple[str, ...]] = ("auxiliary",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The sum."""
        assert self.pair is not None  # the base has refused a step without a closure
        mean = step.state("main")
        # The first mean is the first gradient, so that it never points elsewhere.
        torch._foreach_lerp_(mean, updates, 1 - self.decay if step.number > 1 else 1.0)
        others = step.averaged([self.pair.slopes[id(parameter)] for parameter in step.parameters])
        others = list(torch._foreach_neg(others)) if step.group["maximize"] else others
        along = safe_ratio(dots(others, mean).sum(), dots(mean, mean).sum())
        free = torch._foreach_sub(others, scaled(mean, along))
        return list(torch._foreach_add(updates, free, alpha=self.weight))


class Bloop(Optimizer):
    r"""Descends along $g + w (a - \frac{\langle a, \bar g \rangle}{|\bar g|^2} \bar g)$, g the main loss's gradient, a the other's.

    $\bar g$ is the running mean of g: to first order the auxiliary part leaves the main loss as it is, and where all
    main gradients vanish, as in an over-parameterized model that fits, the auxiliary loss is minimized among the fits. Projecting
    off the batch's own gradient (decay 0) is undone on average by the noise.

    Source: Hsieh, Thornton, Ndiaye, Klein, Cuturi, Ablin 2024, "Careful with that Scalpel: Improving Gradient Surgery with an EMA",
    arXiv:2402.02998, algorithm 1.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: rate.
        weight: w.
        decay: of the running mean.
        rule: "descent", or "adam" for Adam's steps along the direction, which has another 8 bytes of state for every number.
        weight_decay: decoupled.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; without a closure of two losses.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([2.0, 2.0]))
        >>> optimizer = Bloop([x], lr=0.1)
        >>> for _ in range(200):
        ...     losses = optimizer.step(lambda: ((x.sum() - 1).square(), (x[0] - x[1] - 3).square()))
        >>> x.detach()
        tensor([ 2.0000, -1.0000])
    """

    joint = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        weight: float = 1.0,
        decay: float = 0.9,
        rule: str = "descent",
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        self._pair: Pair | None = None
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The projected sum, and Adam where it is asked."""
        found = Projected(group["weight"], group["decay"], self._pair)
        return (found, Moments()) if group["rule"] == "adam" else (found,)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure returns both losses."""
        self._pair = None if closure is None else Pair(closure, self._tensors())
        try:
            return super().step(self._pair)
        finally:
            self._pair = None
