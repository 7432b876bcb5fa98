"""K-FAC by products alone: factors of its inverses follow natural gradients in coordinates of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.optim._matrices import gathered, spread_like
from nearly.optim._ranks import average, groups_of
from nearly.optim._vectors import wide
from nearly.optim.matrices._linear import LinearOptimizer, rows
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum

if TYPE_CHECKING:
    from nearly.optim.optimizer import Options
    from nearly.optim.step import Step

CARD = {
    "name": "InverseFreeNaturalGradient",
    "rows": [40],
    "replaces": "K-FAC, where half precision is to do or inverses cost too much",
    "cost": "some eight products of square matrices for each side of a layer's weight, and four with it; no inverse, no root",
    "needs": ["layers"],
    "state": {"matrix": {"mn": 4, "mm": 8, "nn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "momentum": ["at least", 0, 1],
        "factor_lr": ["real", 0, None],
        "factor_momentum": ["at least", 0, 1],
        "damping": ["at least", 0, None],
        "every": ["integer", 1, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.1, "rest": {"lr": 0.1}},
    "skips": {},
}

LONGEST = 0.5  # of a factor's relative step, in Frobenius norm: the factor stays far from singular


@dataclass(frozen=True)
class _LocalFactors(Transform):
    """Gradients between products of factors that follow the covariances' inverses."""

    rate: float
    momentum: float
    damping: float
    every: int
    needs: ClassVar[tuple[str, ...]] = ("layers",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        factors = step.state("inputs factor", _eye(1)), step.state("outputs factor", _eye(0))
        moves = step.state("inputs momentum", _eye(1, 0.0)), step.state("outputs momentum", _eye(0, 0.0))
        if (step.number - 1) % self.every == 0:
            groups = groups_of(updates[0], step.process_group)
            for place, *pair in rows(step):
                self._update([side[place] for side in factors], [side[place] for side in moves], pair, groups)
        return [
            spread_like(left @ (left.mT @ gathered(update) @ right) @ right.mT, update)
            for update, right, left in zip(updates, *factors, strict=True)
        ]

    def _update(self, factors: list[Tensor], moves: list[Tensor], seen: list[Tensor], groups: list[Any]) -> None:
        kind = factors[0].dtype
        whitened = [part.to(kind) @ factor / len(part) ** 0.5 for part, factor in zip(seen, factors, strict=True)]
        covariances = [part.mT @ part for part in whitened]  # K^T U K and C^T G C
        average(covariances, groups)
        traces = [covariance.diagonal().sum() for covariance in covariances]
        sizes = [factor.square().sum() for factor in factors]
        for mine, other in ((0, 1), (1, 0)):
            count = len(factors[other])
            force = traces[other] / count * covariances[mine]
            force += self.damping * sizes[other] / count * (factors[mine].mT @ factors[mine])
            force.diagonal().sub_(1.0)
            moves[mine].mul_(self.momentum).add_(force, alpha=0.5)
        for factor, move in zip(factors, moves, strict=True):
            length = torch.linalg.vector_norm(move, dtype=wide(kind))
            shortened = (LONGEST / length).clamp(max=self.rate).to(kind)
            factor.sub_(factor @ (shortened * move))


def _eye(side: int, start: float = 1.0) -> Any:
    def make(parameter: Tensor) -> Tensor:
        return start * torch.eye(parameter.shape[side], dtype=parameter.dtype, device=parameter.device)

    return make


class InverseFreeNaturalGradient(LinearOptimizer):
    r"""K-FAC's directions $C C^T G\, K K^T$ with $K K^T$ near $A^{-1}$ and $C C^T$ near $B^{-1}$, by products alone.

    A and B are the covariances of `KFAC`. K and C minimize the divergence between Gaussians of covariances $K K^T \otimes C C^T$
    and $(A \otimes B)^{-1}$; each step moves them in coordinates in which the metric is the identity where they are, so that
    momentum needs no transport and the step no inverse. For K, with n inputs and m outputs (for C with sides exchanged):

        $$M \leftarrow \alpha M + \tfrac12 \left( \tfrac1m \mathrm{tr}(C^T B C)\, K^T A K + \tfrac\lambda m
        \mathrm{tr}(C^T C)\, K^T K - I \right), \quad K \leftarrow K (I - \beta M).$$

    All of it is in the dtype of the weights: bfloat16 is enough. All other parameters, biases too, go to AdamW (`rest`).

    Departures: (1) the exponential is cut after its first term, as in the authors' program; (2) $\beta ||M||_F$ is at most 1/2,
    in place of a schedule of $\beta$; (3) factors are dense; (4) no bias in the last column; (5) momentum of the weights is a
    running mean.

    Source: Lin, Duruisseaux, Leok, Nielsen, Khan, Schmidt 2023, "Simplifying Momentum-based Positive-definite Submanifold
    Optimization with Applications to Deep Learning", arXiv:2302.09738, section 4 and https://github.com/yorkerlin/StructuredNGD-DL.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate.
        momentum: decay rate of the directions' mean.
        factor_lr: $\beta$.
        factor_momentum: $\alpha$.
        damping: $\lambda$, of the product $A \otimes B$.
        every: steps between two steps of the factors.
        weight_decay: decoupled.
        options: see `Options`; `module` is needed. With `process_group` covariances are averaged over the ranks.

    Raises:
        BadInput: for values out of range, by name; without a module that has linear layers.

    Example:
        >>> model = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
        >>> optimizer = InverseFreeNaturalGradient(model.parameters(), module=model, lr=0.1)
        >>> model(torch.ones(4, 3, dtype=torch.bfloat16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        factor_lr: float = 0.1,
        factor_momentum: float = 0.5,
        damping: float = 1e-3,
        every: int = 1,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Directions, averaged."""
        direction = _LocalFactors(group["factor_lr"], group["factor_momentum"], group["damping"], group["every"])
        return (direction, Momentum(group["momentum"], average=True))
