"""AdaMuon: orthogonalized signs of momentum, divided by their second moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from torch import Tensor

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum, Orthogonalize, RMSAlign, SecondMoment, Sign

CARD = {
    "name": "AdaMuon",
    "rows": [87],
    "replaces": "torch.optim.Muon, with Adam's rates",
    "cost": "at most ten products of the matrix with one of its smaller side, and six elementwise passes",
    "needs": [],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "weight_decay": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "eps": ["real", 0, None],
        "size": ["real", 0, None],
        "signs": ["choice", True, False],
        "schedule": ["choice", "minimax", "muon", "newton_schulz", "svd"],
        "steps": ["integer", 1, None],
    },
    "settings": {"lr": 0.2, "rest": {"lr": 0.1}},
    "skips": {},
}


class AdaMuon(Optimizer):
    r"""Muon with a second moment for every entry: $O$ the polar factor of $\operatorname{sign}(m)$, $m \leftarrow \beta m + g$,

        $$v \leftarrow \beta v + (1 - \beta) O^2, \qquad \hat O = O / (\sqrt v + \epsilon), \qquad
          p \leftarrow (1 - lr \lambda) p - lr\, c\, \hat O / \operatorname{rms}(\hat O).$$

    Signs make $O$ the same for a gradient of any scale; c = 0.2 is about the root mean square of Adam's updates, so that Adam's
    rates and schedules hold.

    Source: Si, Zhang, Shen 2025, "AdaMuon: Adaptive Muon Optimizer", arXiv:2507.11005, algorithm 1.

    Args:
        params: tensors, named tensors or parameter groups; matrices and convolutions are the member's.
        lr: rate.
        weight_decay: $\lambda$.
        momentum: $\beta$, of both means.
        eps: $\epsilon$.
        size: c.
        signs: whether signs are taken, as in the paper; in our claim, a small transformer, the loss is lower without.
        schedule: see `nearly.optim.transforms.Orthogonalize`.
        steps: of the schedules `muon` and `newton_schulz`.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> import torch
        >>> x = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = AdaMuon([x], lr=0.1, schedule="svd")
        >>> (x * torch.tensor([[1.0, 3.0], [1.0, -1.0]])).sum().backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([[-0.0200, -0.0200],
                [-0.0200,  0.0200]])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        eps: float = 1e-8,
        size: float = 0.2,
        signs: bool = True,
        schedule: str = "minimax",
        steps: int = 5,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, signs, orthogonalized, divided by second moments, of Adam's size."""
        return (
            Momentum(group["momentum"]),
            *([Sign()] if group["signs"] else []),
            Orthogonalize(group["schedule"], group["steps"]),
            SecondMoment(group["momentum"], group["eps"], unbiased=False),
            RMSAlign(group["size"]),
        )
