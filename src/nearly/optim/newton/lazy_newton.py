"""Regularized Newton steps with a Hessian that is factorized once for many gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._vectors import flat, parts, safe_ratio
from nearly.optim.newton._newton import hessian
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "LazyNewton",
    "rows": [240],
    "replaces": "Newton's method with a new Hessian at each step",
    "cost": "N Hessian products and an eigendecomposition in each `every` steps, two products of an N x N matrix at others",
    "needs": ["curvature"],
    "state": {"matrix": {}, "vector": {}, "shared": {"NN": 4, "N": 4}},
    "largest": 5000,
    "parameters": {
        "lr": ["at least", 0, None],
        "constant": ["real", 0, None],
        "every": ["integer", 1, None],
        "regularization": ["choice", "cubic", "quadratic"],
    },
    "settings": {"every": 5, "constant": 0.1},
    "skips": {},
}
HALVINGS = 60  # of the interval that holds the cubic step's length: to the last digit of double precision


@dataclass(frozen=True)
class _LazyStep(Transform):
    """The regularized step with the last Hessian's eigenvectors."""

    constant: float
    every: int
    cubic: bool
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def wants(self, number: int) -> tuple[str, ...]:
        """Curvature at the first of each `every` steps."""
        return self.needs if (number - 1) % self.every == 0 else ()

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        if self.wants(step.number):
            step.shared["values"], step.shared["vectors"] = torch.linalg.eigh(hessian(step))
        values, vectors = step.shared["values"], step.shared["vectors"]
        components = vectors.T @ flat(updates)
        size = components.norm()
        # Where the Hessian is not positive definite, as far above as it lies below.
        lift = (-values[0]).clamp(min=0)
        if self.cubic:
            shift = self.constant / 2 * self._length(values, components, 2 * lift / self.constant)
        else:
            shift = lift + (self.constant * size).sqrt()
        return parts(vectors @ safe_ratio(components, values + shift), updates)

    def _length(self, values: Tensor, components: Tensor, least: Tensor) -> Tensor:
        """The step's length r >= least, of r = |(H + M r / 2)^-1 g|."""
        low, high = least, least + (2 / self.constant * components.norm()).sqrt()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            longer = safe_ratio(components, values + self.constant / 2 * middle).norm() > middle
            low, high = torch.where(longer, middle, low), torch.where(longer, high, middle)
        return high


class LazyNewton(Optimizer):
    r"""Newton steps regularized by the constant M, with a Hessian H that is taken anew at each `every`-th step only.

    "cubic" minimizes $\langle g, h \rangle + \tfrac12 h' H h + \tfrac M6 |h|^3$, also where H is indefinite;
    "quadratic" takes $h = -(H + \sqrt{M |g|}\, I)^{-1} g$. H is kept as its eigenvalues and eigenvectors, so that a
    step with an old H costs one gradient and two products with an N x N matrix, whatever the shift.

    With M of the order of `every` times the Hessian's Lipschitz constant the cubic steps converge from every start to second-order
    stationary points, the quadratic ones to the minimum of convex losses. Where a Hessian costs N gradients, refreshing once in N
    steps is best: a factor of $\sqrt N$ below refreshing at each step.

    Departure: the quadratic shift is raised by what H lies below 0.

    Source: Doikov, Chayti, Jaggi 2023, "Second-Order Optimization with Lazy Hessians", arXiv:2212.00781, algorithms 1 and 2.

    Args:
        params: tensors, named tensors or one parameter group, of N numbers in all.
        lr: times the step; 1 is the paper's.
        constant: M.
        every: steps for one Hessian.
        regularization: see above.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = LazyNewton([x], every=4, constant=1.0)
        >>> losses = [float(optimizer.step(lambda: (x.square() + 1).sqrt().sum()).detach()) for _ in range(20)]
        >>> bool(x.norm() < 1e-3)
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        constant: float = 1.0,
        every: int = 10,
        regularization: str = "quadratic",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The regularized step."""
        return (_LazyStep(group["constant"], group["every"], group["regularization"] == "cubic"),)
