"""AdamW, which the others are measured against and which steps what they do not take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Moments, QuantizedMoments

CARD = {
    "name": "AdamW",
    "rows": [],
    "replaces": "torch.optim.AdamW, with the same steps",
    "cost": "elementwise, one pass over parameters, gradients and state",
    "needs": [],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
        "bits": ["choice", 32, 8],
    },
    "settings": {"lr": 0.1},
    "skips": {},
}


class AdamW(Optimizer):
    r"""Adam's direction with decoupled weight decay: $p \leftarrow (1 - lr \lambda) p - lr \hat m / (\sqrt{\hat v} + \epsilon)$.

    Source: Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate.
        betas: decay rates of the means of gradients and of their squares.
        eps: added to the root of the mean square.
        weight_decay: $\lambda$.
        bits: 8 keeps moments in one byte each, and one scale for 256 (see `nearly.optim.transforms.QuantizedMoments`); 32 in the
            parameters' own precision.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = AdamW([x], lr=0.1, weight_decay=0.0)
        >>> x.square().sum().backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        bits: int = 32,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Moments alone."""
        kept = QuantizedMoments if group["bits"] == 8 else Moments
        return (kept(group["betas"], group["eps"]),)
