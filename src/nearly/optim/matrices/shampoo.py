"""Shampoo: gradients between the inverse roots of their row and column moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from torch import Tensor

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Kronecker, Momentum
from nearly.optim.transforms.graft import grafted

CARD = {
    "name": "Shampoo",
    "rows": [286],
    "replaces": "AdamW, where fewer steps are worth four products a matrix and an eigendecomposition of each side now and then",
    "cost": "four products of a matrix and its sides a step; two eigendecompositions every so many steps",
    "needs": [],
    "state": {"matrix": {"mn": 8, "mm": 8, "nn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "graft": ["choice", "none", "gradient", "rmsprop", "adam"],
        "every": ["integer", 1, None],
        "block": ["integer", 1, None],
        "ridge": ["at least", 0, None],
        "damping": ["at least", 0, None],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.1, "rest": {"lr": 0.1}},
    "skips": {},
}


class Shampoo(Optimizer):
    r"""Shampoo: running means of directions $L^{-1/4} G R^{-1/4}$ of the size of another optimizer's steps.

    $L \leftarrow \beta_2 L + (1 - \beta_2) G G^T$ and $R \leftarrow \beta_2 R + (1 - \beta_2) G^T G$ are the two factors of what
    stands for the full matrix of second moments, $(L \otimes R)^{1/2}$; Adam keeps that matrix's diagonal. Directions have, tensor
    by tensor, the norm of the gradient ("gradient"), or of what RMSprop or Adam would subtract ("rmsprop", "adam"), whose rate
    then serves; with "none" the first step has spectral norm about 1. Vectors go to AdamW (`rest`).

    Beside gradients a float32 matrix (m, n) has a state of 8 (m^2 + n^2) bytes, 4 mn for momentum, and 4 mn for "rmsprop", 8 mn
    for "adam".

    Departures from Anil et al.: (1) convolutions and other tensors are matrices, their axes parted where the factors are smallest
    (mostly outputs against all else), not tensors with small sides merged; vectors have no factors; (2) the ridge is a fraction of
    the Frobenius norm, which is at least the largest eigenvalue that they take; (3) roots are made anew at the steps 1, 2, 4, ...
    at first, where they do without for some steps; (4) momentum is a running mean, so that it does not enlarge steps; (5) L and R
    are unbiased.

    Source: Gupta, Koren, Singer 2018, "Shampoo: Preconditioned Stochastic Tensor Optimization", arXiv:1802.09568, algorithm 1;
    Anil, Gupta, Koren, Regan, Singer 2020, "Scalable Second Order Optimization for Deep Learning", arXiv:2002.09018.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate; with "rmsprop" and "adam" that of Adam.
        betas: decay rates of momentum, and of L, R and the second moments whose size is taken.
        graft: see above.
        every: steps between two roots.
        block: most rows and columns that share factors; longer sides are cut.
        ridge: added to L and R, times the Frobenius norm of each.
        damping: added to L and R; what `nearly.optim.scaling.maximal_update` scales with width.
        eps: of "rmsprop" and "adam".
        weight_decay: decoupled.
        options: see `Options`; with `process_group` each rank finds its share of the roots.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.eye(2))
        >>> optimizer = Shampoo([x], lr=0.1, betas=(0.0, 0.999), graft="none", weight_decay=0.0)
        >>> (x * torch.tensor([[4.0, 0.0], [0.0, 1.0]])).sum().backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([[0.9000, 0.0000],
                [0.0000, 0.9000]])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        graft: str = "rmsprop",
        every: int = 20,
        block: int = 1024,
        ridge: float = 1e-6,
        damping: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Directions, resized, averaged."""
        first, second = group["betas"]
        chosen = {name: group[name] for name in ("ridge", "damping", "every", "block")}
        return (
            grafted(Kronecker(second, **chosen), group["graft"], group["betas"], group["eps"]),
            Momentum(first, average=True),
        )
