"""Momentum with steps of a length in any of three norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform, norms
from nearly.optim.transforms import Momentum, Orthogonalize, Sign

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "TrustRegion",
    "rows": [2],
    "replaces": "Muon, normalized and sign descent with momentum, each with its own code",
    "cost": "elementwise; in the spectral norm a singular value decomposition, or the products of a schedule",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "weight_decay": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "norm": ["choice", "spectral", "l2", "linf"],
        "schedule": ["choice", "minimax", "muon", "newton_schulz", "svd"],
    },
    "settings": {"lr": 0.1, "rest": {"lr": 0.1}},
    "skips": {},
}


@dataclass(frozen=True)
class Unit(Transform):
    """All updates of a group as one vector of length one; zeros stay zeros."""

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The vector's parts."""
        size = norms(updates).norm()
        return list(torch._foreach_mul(updates, torch.where(size > 0, 1 / size, 0.0).to(updates[0].dtype)))


class TrustRegion(Optimizer):
    r"""The step of length lr against momentum, in a norm.

        $$p \leftarrow (1 - lr \lambda) p + \arg\min_{\|d\| \le lr} \langle m, d \rangle$$

    $m \leftarrow \mu m + (1 - \mu) g$. In the `spectral` norm of each matrix this is Muon with exact polar factors, in `l2` of all
    parameters of a group normalized SGD, in `linf` sign descent, each with momentum. Weight decay is the prox of
    a trust region in the composite problem: iterates stay in the ball of radius $1 / \lambda$ of the norm.

    Assumptions of the convergence theorems: the gradient is Lipschitz from the norm to its dual, its noise has bounded variance.

    Source: Kovalev 2025, "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region Optimization",
    arXiv:2503.12645, algorithms 1 and 2.

    Args:
        params: tensors, named tensors or parameter groups. In the spectral norm vectors go to AdamW.
        lr: the step's length.
        weight_decay: $\lambda$.
        momentum: $\mu$.
        norm: see above.
        schedule: how polar factors are found, see `nearly.optim.transforms.Orthogonalize`.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = TrustRegion([x], lr=0.5, norm="l2")
        >>> (x * torch.tensor([3.0, 4.0])).sum().backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([0.7000, 0.6000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        norm: str = "spectral",
        schedule: str = "svd",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, of which the group's norm picks the matrices."""
        self._norm = param_group.get("norm", self.defaults["norm"]) if isinstance(param_group, dict) else None
        super().add_param_group(param_group)

    def takes(self, parameter: Tensor) -> bool:
        """In the spectral norm matrices and convolutions alone."""
        return self._norm != "spectral" or parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, and the step against it."""
        steps: dict[str, Transform] = {"spectral": Orthogonalize(group["schedule"]), "l2": Unit(), "linf": Sign()}
        return (Momentum(group["momentum"], average=True), steps[group["norm"]])
