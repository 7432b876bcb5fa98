"""Optimizers that are wrong on purpose, one defect each, so that every check of the contract can be seen to reject something.

All are gradient descent with momentum, with one line changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Step, Transform
from nearly.optim.transforms import Momentum

CARD: dict[str, Any] = {
    "name": "Descent",
    "rows": [],
    "replaces": "a correct optimizer, to show what the contract rejects",
    "cost": "elementwise",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {"lr": ["at least", 0, None], "momentum": ["at least", 0, 1]},
    "settings": {"lr": 0.15},
    "skips": {},
}

# The check that must reject each defect, and words of the rejection.
DEFECTS = {
    "incomplete card": ("card_complete", "lacks 'cost'"),
    "unchecked momentum": ("bad_parameters", "not refused by name"),
    "takes results": ("bad_tensors", "no leaf is accepted"),
    "takes NaN": ("bad_gradients", "accepted, not refused by name"),
    "forgets the loss": ("asks", "does not return the loss"),
    "slow": ("falls", "only in"),
    "hidden state": ("resumes", "the resumed run differs"),
    "takes any state": ("bad_state", "not refused by name"),
    "spare state": ("state_declared", "declared"),
    "favors the first group": ("groups", "in a group apart"),
    "fixed rate": ("rate_obeyed", "the parameters move"),
    "only descends": ("maximizes", "maximizing minus the loss"),
    "draws globally": ("leaves_no_trace", "global random state"),
    "promotes": ("dtypes", "end in"),
    "draws on the host": ("follows_device", "on another device it fails"),
    "decays all": ("without_gradient", "without gradient moves"),
    "divides by zero": ("zero_gradients", "leave NaN"),
}


@dataclass(frozen=True)
class BrokenOptimizer:
    """A broken member.

    Attributes:
        member: the class.
        breaks: name of the check that must reject it; all others must pass.
        says: words that the rejection must contain.
        defect: what is wrong with it.
    """

    member: type[Optimizer]
    breaks: str
    says: str
    defect: str

    def __str__(self) -> str:
        return self.defect


def broken_optimizers() -> list[BrokenOptimizer]:
    """All broken members.

    Example:
        >>> len(broken_optimizers())
        17
    """
    return [BrokenOptimizer(descent_with(defect), *what, defect) for defect, what in DEFECTS.items()]


@dataclass(frozen=True)
class _Scale(Transform):
    """The updates times a factor for each group, or times their norm over itself."""

    factor: Callable[[Tensor, Step], Tensor | float]

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        return [self.factor(update, step) * update for update in updates]


@dataclass(frozen=True)
class _Keep(Transform):
    """Momentum whose means are kept in a dictionary, or spare state beside it."""

    decay: float
    means: dict[int, Tensor] | None

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        if self.means is None:
            step.state("spare")
            return updates
        for parameter, update in zip(step.parameters, updates, strict=True):
            self.means[id(parameter)] = self.decay * self.means.get(id(parameter), 0.0) + update
        return [self.means[id(parameter)] for parameter in step.parameters]


def descent_with(defect: str) -> type[Optimizer]:
    """The optimizer with a defect; right for any other word."""

    class Descent(Optimizer):
        """Gradient descent with momentum."""

        def __init__(
            self, params: Iterable[Any], *, lr: float = 0.1, momentum: float = 0.9, **options: Unpack[Options]
        ) -> None:
            given = {"lr": lr} if defect == "unchecked momentum" else {"lr": lr, "momentum": momentum}
            super().__init__(params, given, **options)
            self.means: dict[int, Tensor] = {}
            self.rate = lr
            for group in self.param_groups:
                group.setdefault("momentum", momentum)
                if defect == "takes NaN":
                    group["nonfinite"] = "ignore"
                if defect == "only descends":
                    group["maximize"] = False

        def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
            decay = group["momentum"]
            if defect == "hidden state":
                return (_Keep(decay, self.means),)
            if defect == "spare state":
                return (_Keep(decay, None), Momentum(decay))
            if defect == "favors the first group":
                return (_Scale(lambda _, step: 1.0 if step.group is self.param_groups[0] else 1.01), Momentum(decay))
            if defect == "draws on the host":
                return (_Scale(lambda update, _: torch.ones(update.shape, dtype=update.dtype)), Momentum(decay))
            if defect == "divides by zero":
                return (
                    _Scale(lambda update, step: update.norm() / update.norm() if step.number == 1 else 1.0),
                    Momentum(decay),
                )
            return (Momentum(decay),)

        def move(self, step: Step, updates: list[Tensor]) -> None:
            rate = self.rate if defect == "fixed rate" else step.group["lr"]
            rate = 1e-3 * rate if defect == "slow" else rate
            if defect == "draws globally":
                torch.rand(1)
            if defect == "promotes":
                for parameter in step.parameters:
                    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            torch._foreach_add_(step.parameters, updates, alpha=-rate)

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = super().step(closure)
            if defect == "decays all":
                for parameter in self._tensors():
                    if parameter.grad is None:
                        parameter.data.mul_(1 - 1e-6)
            return None if defect == "forgets the loss" else loss

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            if defect == "takes results" and isinstance(param_group, dict) and "params" in param_group:
                params = param_group["params"]
                listed = [params] if isinstance(params, Tensor) else list(params)
                param_group = param_group | {"params": [_leaf(entry) for entry in listed]}
            super().add_param_group(param_group)

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            if defect == "takes any state":
                torch.optim.Optimizer.load_state_dict(self, dict(state_dict))
            else:
                super().load_state_dict(state_dict)

    card = dict(CARD)
    if defect == "incomplete card":
        del card["cost"]
    if defect == "hidden state":
        card["state"] = {"matrix": {}, "vector": {}}
    Descent.card = card
    return Descent


def _leaf(entry: Any) -> Any:
    takes = isinstance(entry, Tensor) and entry.is_floating_point() and not entry.is_leaf
    return entry.detach().requires_grad_() if takes else entry
