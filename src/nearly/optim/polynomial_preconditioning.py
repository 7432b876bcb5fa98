"""Gradient steps preconditioned by polynomials of the Hessian, which cut its largest eigenvalues' lead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim._newton import hessian
from nearly.optim._vectors import flat, parts, safe_ratio
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
    "settings": {"degree": 4, "lr": 0.5},
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
        basis, images, next_ = [], [], gradient
        for _ in range(min(self.degree + 1, len(gradient))):
            for _ in range(2):  # Gram and Schmidt twice, as once loses orthogonality
                for one in basis:
                    next_ = next_ - (one @ next_) * one
            basis.append(safe_ratio(next_, next_.norm()))
            next_ = flat(step.product(parts(basis[-1], updates)))
            images.append(next_)
        span = torch.stack(basis, 1)
        small = span.T @ torch.stack(images, 1)
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        # Directions beyond an invariant subspace are zeros or noise.
        least = len(gradient) * torch.finfo(values.dtype).eps * values.abs().amax()
        components = vectors.T @ (span.T @ gradient)
        found = torch.where(values.abs() > least, safe_ratio(components, values.abs()), 0.0)
        return parts(span @ (vectors @ found), updates)


@dataclass(frozen=True)
class _Symmetric(Transform):
    """The symmetric polynomial of a degree, and the length that is best for the quadratic model."""

    degree: int
    every: int
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The step."""
        if (step.number - 1) % self.every == 0:
            step.shared["sums"] = symmetric_sums(hessian(step), self.degree)
        gradient = flat(updates)
        direction = gradient
        for total in step.shared["sums"]:
            direction = total * gradient - flat(step.product(parts(direction, updates)))
        image = flat(step.product(parts(direction, updates)))
        length = safe_ratio(gradient @ direction, (direction @ image).abs())
        return parts(length * direction, updates)


def symmetric_sums(matrix: Tensor, degree: int) -> list[float]:
    """Elementary symmetric sums of the eigenvalues, of degrees 1 to `degree`, each over the largest eigenvalue's power.

    From the eigenvalues, as sums of positive numbers; by traces of powers leading digits cancel where few eigenvalues lead.
    """
    raise NotImplementedError
