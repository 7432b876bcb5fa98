"""Polyak's step in the norm of a preconditioner: no rate, and no matter how the parameters are scaled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import dots, flat, parts, scaled
from nearly.optim.newton._newton import damped_factor, hessian, solved
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms.hutchinson import hutchinson

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Sania",
    "rows": [81],
    "replaces": "Adam with a tuned rate, where the least loss is known and features are badly scaled",
    "cost": "three elementwise passes and an inner product; with hutchinson a Hessian product, with newton a dense Hessian",
    "needs": ["loss"],
    "state": {"matrix": {"mn": 4}, "vector": {"n": 4}},
    "parameters": {
        "lr": ["at least", 0, None],
        "preconditioner": ["choice", "adagrad", "adam", "hutchinson", "newton"],
        "decay": ["at least", 0, 1],
        "eps": ["at least", 0, None],
        "floor": ["real", None, None],
    },
    "settings": {"preconditioner": "adagrad", "eps": 0.1},
    "skips": {},
}


def _polyak(directions: list[Tensor], updates: list[Tensor], step: Step, floor: float) -> list[Tensor]:
    """The directions times the share of the preconditioned step whose quadratic model reaches the floor; whole if none does."""
    square = dots(directions, updates).sum()
    gap = (step.loss - floor).clamp(min=0)
    ratio = torch.where(square > 0, 2 * gap / torch.where(square > 0, square, 1.0), 1.0)
    return scaled(directions, 1 - (1 - ratio).clamp(min=0).sqrt())


def _divided(updates: list[Tensor], diagonal: list[Tensor], eps: float) -> list[Tensor]:
    divisors = torch._foreach_add(diagonal, eps)
    # Where a divisor is 0 no gradient was ever seen.
    return [torch.where(below == 0, 0.0, above / below) for above, below in zip(updates, divisors, strict=True)]


@dataclass(frozen=True)
class _Squares(Transform):
    """Preconditioned by sums, or running means, of squared gradients."""

    decay: float | None
    eps: float
    floor: float
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        total = step.state("square")
        weight = 1.0
        if self.decay is not None:
            torch._foreach_mul_(total, self.decay)
            weight = 1 - self.decay
        torch._foreach_addcmul_(total, updates, updates, weight)
        diagonal = total if self.decay is None else list(torch._foreach_div(total, 1 - self.decay**step.number))
        return _polyak(_divided(updates, diagonal, self.eps), updates, step, self.floor)


@dataclass(frozen=True)
class _Hutchinson(Transform):
    """Preconditioned by the size of a running mean of estimates of the Hessian's diagonal."""

    decay: float
    eps: float
    floor: float
    needs: ClassVar[tuple[str, ...]] = ("loss", "curvature")

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        diagonal = step.state("diagonal")
        torch._foreach_lerp_(diagonal, hutchinson(step), 1 - self.decay)
        sizes = torch._foreach_abs(torch._foreach_div(diagonal, 1 - self.decay**step.number))
        return _polyak(_divided(updates, list(sizes), self.eps), updates, step, self.floor)


@dataclass(frozen=True)
class _Newton(Transform):
    """Preconditioned by the Hessian."""

    eps: float
    floor: float
    needs: ClassVar[tuple[str, ...]] = ("loss", "curvature")

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        directions = parts(solved(damped_factor(hessian(step), self.eps), flat(updates)), updates)
        return _polyak(directions, updates, step, self.floor)


class Sania(Optimizer):
    r"""SANIA: $x \leftarrow x - \lambda B^{-1} g$, $\lambda$ from the loss and a lower bound of it, $f^*$.

    $\lambda$ is the least step at which the quadratic model with the preconditioner B as its Hessian reaches $f^*$:

        $$\lambda = 1 - \sqrt{1 - 2 (f - f^*) / |g|^2_{B^{-1}}} \text{ where the root is real, else } 1.$$

    B is diagonal, of sums of squared gradients ("adagrad", the paper's AdaGrad-SQR), of their running means ("adam", Adam-SQR) or
    of Hutchinson's estimates of the Hessian's diagonal ("hutchinson"), or the Hessian ("newton"). As no root of the squares is
    taken, with "adagrad" and "adam" and `eps` 0 steps do not depend on how parameters are scaled, with "newton" on no basis at all.

    Departures: (1) the loss's lower bound may be other than 0; (2) the running means of "hutchinson" are unbiased; (3) "newton"
    solves with the dense Hessian in place of conjugate gradients, shifted where it is not positive definite.

    Source: Abdukhakimov, Xiang, Kamzolov, Gower, Takáč 2023, "SANIA: Polyak-type Optimization Framework Leads to Scale Invariant
    Stochastic Algorithms", arXiv:2312.17369, sections 3 and 4.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: times $\lambda$; 1 is the paper's step.
        preconditioner: see above.
        decay: of running means.
        eps: added to B.
        floor: $f^*$.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
        >>> optimizer = Sania([x], preconditioner="newton")
        >>> float(optimizer.step(lambda: x.square().sum()).detach()), bool(x.norm() < 0.01)
        (10.0, True)
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        preconditioner: str = "adam",
        decay: float = 0.999,
        eps: float = 1e-8,
        floor: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The step with the preconditioner asked for."""
        eps, floor = group["eps"], group["floor"]
        if group["preconditioner"] == "newton":
            return (_Newton(eps, floor),)
        if group["preconditioner"] == "hutchinson":
            return (_Hutchinson(group["decay"], eps, floor),)
        return (_Squares(group["decay"] if group["preconditioner"] == "adam" else None, eps, floor),)
