"""Momentum for positive definite matrices, in coordinates in which their curved space is flat where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.optim._vectors import wide
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Step, Transform
from nearly.optim.transforms import Momentum

CARD = {
    "name": "PositiveDefiniteMomentum",
    "kind": "positive_definite",
    "rows": [40],
    "replaces": "Riemannian gradient descent with momentum, its exponentials and parallel transports",
    "cost": "seven products of the matrix's size; a Cholesky factor at first",
    "needs": [],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}},
    "parameters": {"lr": ["at least", 0, None], "momentum": ["at least", 0, 1]},
    "settings": {"lr": 0.1, "rest": {"lr": 0.1}},
    "skips": {},
}


@dataclass(frozen=True)
class _LocalGradient(Transform):
    """Gradients in normal coordinates at P = A A^T: A^T sym(G) A."""

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The gradients."""
        found = []
        for factor, update in zip(step.state("factor", _cholesky), updates, strict=True):
            local = factor.mT @ update.to(factor.dtype) @ factor
            found.append(((local + local.mT) / 2).to(update.dtype))
        return found


def _cholesky(matrix: Tensor) -> Tensor:
    """The start's factor.

    Raises:
        BadInput: for a matrix that has none.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix.detach().to(wide(matrix.dtype)))
    if bool(failed.any()) or not bool(torch.isfinite(factor).all()):
        raise BadInput(
            "params",
            "positive definite, where they are square matrices",
            f"shape {tuple(matrix.shape)}, one that is not",
        )
    return factor


class PositiveDefiniteMomentum(Optimizer):
    r"""Riemannian gradient descent with momentum for positive definite $P = A A^T$, by products alone.

    In coordinates S of $P(S) = A e^S A^T$, S symmetric, the affine-invariant metric (`nearly.linalg.manifolds.PositiveDefinite`)
    is the identity at 0. There the gradient is $A^T \mathrm{sym}(G) A$, and the step, and the next coordinates, are

        $$M \leftarrow \alpha M + A^T \mathrm{sym}(G) A, \quad A \leftarrow A\, h(-lr\, M / 2), \quad
        h(X) = \left( \tfrac12 I + \tfrac12 (I + X / 4)^2 \right)^4 = e^X + O(X^3).$$

    With $h = \exp$ these are the steps of momentum with exact exponentials and parallel transports: M, in the coordinates of the
    new factor, is M transported. As h is positive definite for every M, so is P after any step (the paper cuts the series of the
    exponential itself, which for an eigenvalue of X below -1 turns back; h does below -4). Parameters whose last two sides
    are equal are such matrices, one or a batch; all others go to AdamW (`rest`). The factors are the optimizer's: what else
    changes the parameters between steps is lost.

    Source: Lin, Duruisseaux, Leok, Nielsen, Khan, Schmidt 2023, "Simplifying Momentum-based Positive-definite Submanifold
    Optimization with Applications to Deep Learning", arXiv:2302.09738, section 3.

    Args:
        params: tensors, named tensors or parameter groups; square ones positive definite.
        lr: rate.
        momentum: $\alpha$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; by the first step, for a matrix that is not positive definite.

    Example:
        >>> p = torch.nn.Parameter(torch.eye(2))
        >>> optimizer = PositiveDefiniteMomentum([p], lr=0.1, momentum=0.5)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     (p @ torch.tensor([[2.0, 0.0], [0.0, 1.0]]) - torch.eye(2)).square().sum().backward()
        ...     optimizer.step()
        >>> p.detach().round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.1, momentum: float = 0.9, **options: Unpack[Options]
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Square matrices, and batches of them."""
        return parameter.ndim >= 2 and parameter.shape[-1] == parameter.shape[-2]

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Momentum in local coordinates."""
        return (_LocalGradient(), Momentum(group["momentum"]))

    def move(self, step: Step, updates: list[Tensor]) -> None:
        """Move the factors, and with them the matrices."""
        for parameter, factor, update in zip(step.parameters, step.state("factor"), updates, strict=True):
            factor.copy_(factor @ _nearly_exponential(-step.group["lr"] / 2 * update.to(factor.dtype)))
            parameter.copy_(factor @ factor.mT)


def _nearly_exponential(x: Tensor) -> Tensor:
    quarter = x / 4
    found = quarter + quarter @ quarter / 2
    found.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return torch.linalg.matrix_power(found, 4)
