"""AuON: momentum of bounded spectral norm, in linear time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform, norms, root_mean_squares, times
from nearly.optim.transforms import Momentum, Orthogonalize

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "AuON",
    "rows": [13],
    "replaces": "the orthogonalization of Muon, at cubic cost",
    "cost": "six elementwise passes; with hybrid three products of the matrix with one of its smaller side",
    "needs": [],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "weight_decay": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "gamma": ["real", 0, None],
        "hybrid": ["choice", True, False],
    },
    "settings": {"lr": 0.2, "rest": {"lr": 0.1}},
    "skips": {},
}


@dataclass(frozen=True)
class CoshScale(Transform):
    r"""$X / \operatorname{rms}(\cosh \gamma X)$, $X = u / ||u||_F$, of spectral norm $1 / \operatorname{rms} \le 1$ at most."""

    gamma: float
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, scaled."""
        sizes = norms(updates)
        inverse = torch.where(sizes > 0, 1 / sizes, 0.0)
        spikes = root_mean_squares(torch._foreach_cosh(times(updates, self.gamma * inverse)))
        return times(updates, inverse / spikes)


class AuON(Optimizer):
    r"""Momentum $m \leftarrow \mu m + (1 - \mu) g$, with Nesterov's look-ahead, scaled to a spectral norm of at most one.

        $$p \leftarrow (1 - lr \lambda) p - lr \frac{X}{\operatorname{rms}(\cosh \gamma X)}, \qquad X = m / ||m||_F.$$

    The directions are those of normalized descent, matrix by matrix: the root mean square of cosh, between 1 and $\cosh \gamma$,
    shortens steps whose norm sits in few entries. `hybrid` takes one step of Newton and Schulz first, which does raise small
    singular values beside large ones.

    Departures: (1) $\gamma$, 1 in the paper, is 1.5 by default as in the published code, which however divides $m$ and not X by the
    root mean square, so that no bound holds; (2) the published hybrid takes five steps, the paper's one.

    Source: Maity 2025, "AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates", arXiv:2509.24320, section 3.1.

    Args:
        params: tensors, named tensors or parameter groups; matrices and convolutions are the member's.
        lr: rate.
        weight_decay: $\lambda$.
        momentum: $\mu$.
        gamma: see above.
        hybrid: see above.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(2, 2))
        >>> optimizer = AuON([x], lr=1.0)
        >>> (x * torch.eye(2)).sum().backward()
        >>> optimizer.step()
        >>> bool(torch.linalg.matrix_norm(x.detach(), 2) < 1)
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        gamma: float = 1.5,
        hybrid: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum, scaled."""
        momentum = Momentum(group["momentum"], nesterov=True, average=True)
        if group["hybrid"]:
            return (momentum, Orthogonalize("muon", steps=1), CoshScale(group["gamma"]))
        return (momentum, CoshScale(group["gamma"]))
