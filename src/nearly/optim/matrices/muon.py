"""Muon: momentum, orthogonalized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from torch import Tensor

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum, Orthogonalize, ShapeScale

CARD = {
    "name": "Muon",
    "rows": [2, 159],
    "replaces": "torch.optim.Muon",
    "cost": "at most ten products of the matrix with one of its smaller side, in bfloat16 where that is fast",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "weight_decay": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "nesterov": ["choice", True, False],
        "schedule": ["choice", "minimax", "muon", "newton_schulz", "svd"],
        "steps": ["integer", 1, None],
        "adjust_lr_fn": ["choice", "original", "match_rms_adamw", "spectral", "none"],
    },
    "settings": {"lr": 0.2, "rest": {"lr": 0.1}},
    "skips": {},
}


class Muon(Optimizer):
    r"""Steepest descent in the spectral norm of matrices: $m \leftarrow \mu m + (1 - \mu) g$ and $p \leftarrow p - lr\, s\, U V^T$.

    $U V^T$ is the polar factor of $m$, with `nesterov` of $(1 - \mu) g + \mu m$, or nearly: by `minimax` three products of the
    matrix leave singular values within some 20% of one, in half the time of the five of `muon`, which takes the steps of
    `torch.optim.Muon`; `svd` is exact. $s$ is a factor of the shape (`adjust_lr_fn`). Equal shapes are orthogonalized in one batch.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; as a trust-region method Kovalev 2025, arXiv:2503.12645.

    Args:
        params: tensors, named tensors or parameter groups. Matrices and convolutions (outputs against inputs and places) are
            Muon's, unless their group says `"rest": True`, as those of embeddings and heads should.
        lr: rate.
        weight_decay: decoupled.
        momentum: $\mu$.
        nesterov: see above.
        schedule: see `nearly.optim.transforms.Orthogonalize`.
        steps: of the schedules `muon` and `newton_schulz`.
        adjust_lr_fn: see `nearly.optim.transforms.ShapeScale`.
        options: see `Options`; `rest` holds the settings of AdamW for all else.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = Muon([x], lr=0.1, schedule="svd")
        >>> (x * torch.tensor([[0.0, 3.0], [1.0, 0.0]])).sum().backward()
        >>> optimizer.step()
        >>> x.detach().round(decimals=3).tolist()
        [[0.0, -0.1...], [-0.1..., 0.0]]
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        schedule: str = "minimax",
        steps: int = 5,
        adjust_lr_fn: str = "original",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, orthogonalized and scaled by shape."""
        return (
            Momentum(group["momentum"], nesterov=group["nesterov"], average=True),
            Orthogonalize(group["schedule"], group["steps"]),
            ShapeScale(group["adjust_lr_fn"]),
        )
