"""Gradient steps preconditioned by polynomials of the Hessian, which cut its largest eigenvalues' lead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.linalg.lanczos import ritz_pairs
from nearly.optim._vectors import flat, parts, safe_ratio
from nearly.optim.newton._newton import hessian
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "PolynomialPreconditioning",
    "rows": [172],
    "replaces": "gradient descent on losses with a few large eigenvalues",
    "cost": "degree + 1 Hessian products; with symmetric N of them in each `every` steps beside",
    "needs": ["curvature"],
    "state": {"matrix": {}, "vector": {}},
    "parameters": {
        "lr": ["at least", 0, None],
        "degree": ["integer", 0, None],
        "polynomial": ["choice", "krylov", "symmetric"],
        "every": ["integer", 1, None],
    },
    "settings": {"lr": 0.5},
    "skips": {},
}


@dataclass(frozen=True)
class _Krylov(Transform):
    """The best polynomial for this gradient: the quadratic model's minimum in the Krylov subspace."""

    degree: int
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        gradient = flat(updates)
        values, vectors = ritz_pairs(lambda x: flat(step.product(parts(x, updates))), gradient, self.degree + 1)
        # Directions beyond an invariant subspace are zeros or noise.
        least = len(gradient) * torch.finfo(values.dtype).eps * values.abs().amax()
        found = torch.where(values.abs() > least, safe_ratio(vectors.T @ gradient, values.abs()), 0.0)
        return parts(vectors @ found, updates)


@dataclass(frozen=True)
class _Symmetric(Transform):
    """The symmetric polynomial of a degree, and the length that is best for the quadratic model."""

    degree: int
    every: int
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        if (step.number - 1) % self.every == 0:
            values = torch.linalg.eigvalsh(hessian(step)).clamp(min=0)
            step.shared["largest"] = values[-1]
            step.shared["sums"] = symmetric_sums(safe_ratio(values, values[-1]), self.degree)
        largest, gradient = step.shared["largest"], flat(updates)
        direction = gradient
        for total in step.shared["sums"]:
            image = flat(step.product(parts(direction, updates)))
            direction = total * gradient - safe_ratio(image, largest)
        image = flat(step.product(parts(direction, updates)))
        length = safe_ratio(gradient @ direction, (direction @ image).abs())
        return parts(length * direction, updates)


def symmetric_sums(values: Tensor, degree: int) -> Tensor:
    """Elementary symmetric sums of these numbers, of degrees 1 to `degree`: coefficients of the product of all 1 + v x.

    Taken in pairs, as sums of positive numbers: from traces of powers the leading digits cancel where few numbers lead.

    Example:
        >>> symmetric_sums(torch.tensor([1.0, 2.0, 3.0]), 4)
        tensor([ 6., 11.,  6.,  0.])
    """
    factors = values.new_zeros(len(values), degree + 2)
    factors[:, 0], factors[:, 1] = 1, values
    factors = factors[:, : degree + 1]
    while len(factors) > 1:
        half = len(factors) // 2
        first, second, rest = factors[:half], factors[half : 2 * half], factors[2 * half :]
        product = torch.zeros_like(first)
        for i in range(degree + 1):
            product[:, i:] += first[:, i : i + 1] * second[:, : degree + 1 - i]
        factors = torch.cat([product, rest])
    return factors[0, 1:]


class PolynomialPreconditioning(Optimizer):
    r"""Gradient descent preconditioned by a polynomial of the Hessian B, $x \leftarrow x - P(B) g$, of degree $\tau$.

    "symmetric" takes $P_0 = I$, $P_k = \sigma_k I - B P_{k-1}$ with the elementary symmetric sums $\sigma_k$ of B's eigenvalues,
    times the length that minimizes the quadratic model. $P_\tau B$ has the eigenvalues $\lambda_i \sigma_\tau(\lambda_{-i})$, with
    the sum over all eigenvalues but the i-th: gaps between the $\tau$ largest eigenvalues and the others are cut, and the
    condition number is

        $$\kappa_\tau = \frac{\lambda_1 \sigma_\tau(\lambda_{-1})}{\lambda_N \sigma_\tau(\lambda_{-N})}.$$

    "krylov" takes the polynomial that minimizes the quadratic model for this gradient, in the span of $g, B g, \ldots, B^\tau g$:
    at least as good at each step, without the sums.

    Departures: (1) B is the Hessian where gradients are taken, not a matrix that bounds it, so that steps have no rate to be tuned,
    and no theorem either where the loss is not quadratic; (2) negative curvatures count by their size; (3) the sums are taken
    from eigenvalues, at each `every`-th step.

    Source: Doikov, Rodomanov 2023, "Polynomial Preconditioning for Gradient Methods", arXiv:2301.13194, equations 8 and 9 and
    sections 3 and 5.

    Args:
        params: tensors, named tensors or one parameter group.
        lr: times the step.
        degree: $\tau$.
        polynomial: see above.
        every: steps between two sets of sums, with "symmetric".
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; where `step` gets no closure, or one that calls `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
        >>> optimizer = PolynomialPreconditioning([x], degree=1)
        >>> loss = optimizer.step(lambda: 500 * x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
        >>> bool(x.norm() < 1e-3)
        True
    """

    joint: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1.0,
        degree: int = 2,
        polynomial: str = "krylov",
        every: int = 10,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """The polynomial asked for."""
        if group["polynomial"] == "krylov":
            return (_Krylov(group["degree"]),)
        return (_Symmetric(group["degree"], group["every"]),)
