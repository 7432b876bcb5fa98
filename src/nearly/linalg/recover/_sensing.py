"""Low-rank matrices from linear measurements: what all descents on their factors share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe
from nearly.linalg.promotion import promoted
from nearly.linalg.scaling import binary_scale
from nearly.linalg.two_factors import TwoFactors

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Factors = tuple["Tensor", "Tensor"]
Watch = Callable[[int, "Tensor"], None]
ADVICE = (
    "raise iterations=, lower step= if the residual grew, raise rank=, or take more measurements (some multiple of rank times "
    "(rows + columns)); noise in the values leaves a residual of its own size"
)


@dataclass(frozen=True)
class Sensing:
    """Measurements `y_i = <A_i, X>`, scaled so that they keep the mean square of X, and values so that `A^T y` has norm one.

    Attributes:
        matrix: the measurements as rows, of shape (m, rows * columns).
        shape: (rows, columns) of X.
        values: scaled, of shape (*batch, m).
        unit: per problem, what one of the scaled problem stands for in X, of shape (*batch, 1, 1).
    """

    matrix: Float[Tensor, "m entries"]
    shape: tuple[int, int]
    values: Float[Tensor, "*batch m"]
    unit: Float[Tensor, "*batch 1 1"]

    def measure(self, product: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch m"]:
        """`<A_i, X>`."""
        return product.flatten(-2) @ self.matrix.T

    def back(self, misfit: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch rows columns"]:
        """`sum_i misfit_i A_i`."""
        return (misfit @ self.matrix).unflatten(-1, self.shape)


def sensing(measurements: Tensor, values: Tensor, *, square: bool) -> Sensing:
    """Checked and scaled.

    Args:
        measurements: of shape (m, rows, columns), one A_i each.
        values: of shape (*batch, m).
        square: whether X must be square, and is symmetric: then only the symmetric part of the measurements matters.

    Returns:
        The scaled problem.

    Raises:
        BadInput: for wrong shapes, NaN, zeros throughout.
    """
    a = as_floating("measurements", measurements, dimensions=3).detach()
    a, y = promoted(a, as_floating("values", values, least_dimensions=1).detach())
    if y.shape[-1] != len(a):
        raise BadInput("values", f"of as many as there are measurements ({len(a)}) in the last dimension", describe(y))
    if square and a.shape[1] != a.shape[2]:
        raise BadInput("measurements", "of square matrices, as what is recovered is symmetric", describe(a))
    scale = binary_scale(a, (0, 1, 2))
    matrix = ((a / scale + (a / scale).mT) / 2 if square else a / scale).flatten(1)
    size = matrix.norm() / a[0].numel() ** 0.5
    if not float(size) > 0:
        raise BadInput("measurements", "nonzero" + (" in their symmetric part" if square else ""), "zeros")
    units = binary_scale(y, -1)
    matrix, scaled = matrix / size, y / units
    largest = torch.linalg.matrix_norm((scaled @ matrix).unflatten(-1, a.shape[1:]), 2)[..., None]
    if not bool((largest > 0).all()):
        raise BadInput("values", "nonzero, and not orthogonal to all that the measurements can take", "values that are")
    unit = (units / scale[0, 0]) * (largest / size)
    return Sensing(matrix, (a.shape[1], a.shape[2]), scaled / largest, unit[..., None])


def start(problem: Sensing, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gaussian factors of norm about `scale`, the same for every problem of a batch."""
    drawn = [
        torch.randn(side, rank, dtype=torch.float64, generator=generator).to(problem.matrix) * (scale / side**0.5)
        for side in problem.shape
    ]
    batch = problem.values.shape[:-1]
    return drawn[0].expand(*batch, -1, -1), drawn[1].expand(*batch, -1, -1)


def descend(
    name: str,
    problem: Sensing,
    factors: Factors,
    step: Callable[[Factors, Tensor, int], Factors],
    *,
    gauge: Callable[[Tensor, Tensor], Tensor],
    tolerance: float,
    iterations: int,
    watch: Watch | None,
    check: bool,
) -> Solution:
    """Repeat a step on all problems until each one's residual is within the tolerance.

    Args:
        name: of the method, for messages.
        problem: scaled.
        factors: to start with.
        step: from factors, misfit `A(X) - y` and the number of steps so far to the next factors.
        gauge: from misfit and values to the residual.
        tolerance: of the residual.
        iterations: steps at most.
        watch: called before each step with the steps so far and the current matrices.
        check: whether to raise.

    Returns:
        The factors, in the unscaled problem's units.
    """
    counts = torch.zeros(problem.values.shape[:-1], dtype=torch.int64, device=problem.values.device)
    for count in range(iterations + 1):
        product = factors[0] @ factors[1].mT
        if watch is not None:
            watch(count, product * problem.unit)
        misfit = problem.measure(product) - problem.values
        residual = gauge(misfit, problem.values)
        live = residual > tolerance  # what has become NaN has ended
        left = 0 if count == iterations else int(live.sum())
        if not left:
            break
        counts += live
        moved = step(factors, misfit, count)
        if left == live.numel():
            factors = moved
        else:
            keep = live[..., None, None]
            factors = torch.where(keep, moved[0], factors[0]), torch.where(keep, moved[1], factors[1])
    value = TwoFactors(factors[0] * problem.unit, factors[1].mT)
    finite = torch.isfinite(value.matrix).all(dim=(-2, -1))
    return conclude(
        name,
        value,
        residual=torch.where(finite, residual, torch.nan),
        tolerance=tolerance,
        iterations=counts,
        advice=ADVICE,
        check=check,
    )


def relative_misfit(misfit: Float[Tensor, "*batch m"], values: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch"]:
    """`||A(X) - y|| / ||y||`, 2-norms."""
    return misfit.norm(dim=-1) / values.norm(dim=-1)
