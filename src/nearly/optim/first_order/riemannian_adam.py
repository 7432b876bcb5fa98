"""Adam, AMSGrad and Adagrad for points of Riemannian manifolds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.linalg.manifolds import Manifold
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "RiemannianAdam",
    "kind": "manifold",
    "rows": [244],
    "replaces": "Riemannian gradient descent with a tuned rate",
    "cost": "a step along the manifold, a transport and some ten elementwise passes",
    "needs": [],
    "state": {"matrix": {"mn": 4, "m": 8}, "vector": {"n": 4, "1": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "rule": ["choice", "adam", "amsgrad", "adagrad"],
        "flat": ["choice", True, False],
    },
    "settings": {"lr": 0.1},
    "skips": {"dtypes": "manifolds have no points in half precision"},
}


class Line:
    """Numbers, each a manifold by itself, on which the rules are those for Euclidean space."""

    dimensions = 0

    def gradient(self, point: Tensor, euclidean_gradient: Tensor) -> Tensor:
        """The derivative."""
        return euclidean_gradient

    def inner(self, point: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The product."""
        return u * v

    def retract(self, point: Tensor, tangent: Tensor) -> Tensor:
        """The sum."""
        return point + tangent

    def carry(self, point: Tensor, tangent: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, and the vector itself."""
        return point + tangent, vector


@dataclass(frozen=True)
class RiemannianMoments(Transform):
    """Tangent directions: running means of gradients over the root of one second moment for each point."""

    manifold: Manifold | Line
    betas: tuple[float, float]
    eps: float
    rule: str

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        first, second = self.betas
        pairs = list(zip(step.parameters, updates, strict=True))
        slopes = [self.manifold.gradient(point, update) for point, update in pairs]
        squares = [
            self.manifold.inner(point, slope, slope) for point, slope in zip(step.parameters, slopes, strict=True)
        ]
        square = step.state("square", self._one_each)
        if self.rule == "adagrad":
            torch._foreach_add_(square, squares)
            return self._divided(slopes, [one.sqrt() + self.eps for one in square])
        mean = step.state("mean")
        torch._foreach_lerp_(mean, slopes, 1 - first)
        torch._foreach_lerp_(square, squares, 1 - second)
        if self.rule == "amsgrad":
            largest = step.state("largest", self._one_each)
            torch._foreach_maximum_(largest, square)
            square = largest
        roots = torch._foreach_sqrt(torch._foreach_div(square, 1 - second**step.number))
        divisors = [(root + self.eps) * (1 - first**step.number) for root in roots]
        return self._divided(mean, divisors)

    def _one_each(self, parameter: Tensor) -> Tensor:
        shape = parameter.shape[: parameter.ndim - self.manifold.dimensions]
        return parameter.new_zeros(shape)

    def _divided(self, vectors: list[Tensor], divisors: Sequence[Tensor]) -> list[Tensor]:
        ones = (1,) * self.manifold.dimensions
        return [vector / below.reshape(*below.shape, *ones) for vector, below in zip(vectors, divisors, strict=True)]


class RiemannianAdam(Optimizer):
    r"""Adaptive steps for products of manifolds: each point has one second moment, of its gradients' Riemannian lengths.

        $$m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) |g|_x^2, \quad
          x \leftarrow R_x(-lr\, \hat m / (\sqrt{\hat v} + \epsilon)),$$

    g the Riemannian gradient, R the manifold's retraction, with which m is transported. `amsgrad` divides by the largest v so far,
    `adagrad` takes g for m and the sum of squares for v. A group with `"flat": True` is stepped entry by entry, as by Euclidean
    Adam (a product of lines).

    Assumptions of the regret bound: geodesically convex losses, curvature bounded below, bounded gradients and diameter, `amsgrad`.

    Departure: means are unbiased, as in Adam; the paper's are not.

    Source: Bécigneul, Ganea 2019, "Riemannian Adaptive Optimization Methods", arXiv:1810.00760, figure 1.

    Args:
        params: tensors, named tensors or parameter groups; a point fills the manifold's last dimensions.
        manifold: of `nearly.linalg.manifolds`.
        lr: rate.
        betas: see above.
        eps: see above.
        rule: "adam", "amsgrad" or "adagrad".
        flat: see above.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; for tensors that are no points.

    Example:
        >>> from nearly.linalg.manifolds import PoincareBall
        >>> x = torch.nn.Parameter(torch.tensor([[0.5, 0.0], [0.0, 0.9]]))
        >>> optimizer = RiemannianAdam([x], PoincareBall(), lr=0.1)
        >>> x.square().sum().backward()
        >>> optimizer.step()
        >>> x.detach().norm(dim=1)
        tensor([0.4616, 0.8901])
    """

    def __init__(
        self,
        params: Iterable[Any],
        manifold: Manifold,
        *,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        rule: str = "amsgrad",
        flat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(manifold, Manifold):
            raise BadInput("manifold", "one of nearly.linalg.manifolds", describe(manifold))
        self.manifold = manifold
        super().__init__(params, locals(), **options)
        for group in self.param_groups:
            if not group["flat"]:
                for parameter in group["params"]:
                    manifold.check(parameter.detach(), self._name(parameter))

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Moments on the group's manifold."""
        return (RiemannianMoments(self._of(group), group["betas"], group["eps"], group["rule"]),)

    def move(self, step: Step, updates: list[Tensor]) -> None:
        """Retract, and take the means along."""
        manifold, rate = self._of(step.group), step.group["lr"]
        if rate == 0:  # a retraction by nothing rounds
            return
        means = None if step.group["rule"] == "adagrad" else step.state("mean")
        for i, (point, update) in enumerate(zip(step.parameters, updates, strict=True)):
            tangent = -rate * update
            if means is None:
                point.copy_(manifold.retract(point, tangent))
                continue
            moved, mean = manifold.carry(point, tangent, means[i])
            point.copy_(moved)
            means[i].copy_(mean)

    def _of(self, group: dict[str, Any]) -> Manifold | Line:
        return Line() if group["flat"] else self.manifold
