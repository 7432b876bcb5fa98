"""Muon: momentum, orthogonalized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from torch import Tensor

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum, Orthogonalize, RMSAlign

CARD = {
    "name": "Muon",
    "rows": [2, 159],
    "replaces": "torch.optim.Muon",
    "cost": "ten products of the matrix's smaller side at most",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "nesterov": ["choice", True, False],
        "weight_decay": ["at least", 0, None],
        "route": ["choice", "minimax", "muon", "svd"],
    },
    "settings": {"lr": 0.2, "rest": {"lr": 0.1}},
    "skips": {},
}


class Muon(Optimizer):
    """Momentum, orthogonalized.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.ones(3, 2))
        >>> optimizer = Muon([x], lr=0.1)
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        route: str = "minimax",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "route": route},
            **options,
        )

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, orthogonalized, of Adam's size."""
        return (
            Momentum(group["momentum"], nesterov=group["nesterov"], average=True),
            Orthogonalize(group["route"]),
            RMSAlign(),
        )
