"""Second moments of matrices, kept as means over rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim._matrices import as_matrix, gathered, spread_like
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class FactoredMoment(Transform):
    r"""$u / \sqrt{\hat v}$ with $\hat v_{ij} = r_i c_j / \bar r$ of running means r and c of $u^2$ over columns and over rows.

    It is the matrix of rank one nearest to the full running mean in the generalized Kullback-Leibler divergence, exact where that
    has rank one. The decay is $1 - t^{-decay}$ at step t. Vectors keep their full means.

    Source: Shazeer, Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, sections 3, 7.2.

    Args:
        decay: power of the step's number.
    """

    decay: float = 0.8
    separate: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, divided."""
        share = step.number**-self.decay
        found = list(updates)
        flat = [i for i, update in enumerate(updates) if update.ndim < 2]
        if flat:
            square = step.subset(flat).state("square")
            given = [updates[i] for i in flat]
            torch._foreach_lerp_(square, torch._foreach_mul(given, given), share)
            for i, value in zip(flat, torch._foreach_div(given, _roots(square)), strict=True):
                found[i] = value
        matrices = [i for i, update in enumerate(updates) if update.ndim >= 2]
        if matrices:
            own = step.subset(matrices)
            whole = [as_matrix(gathered(updates[i])) for i in matrices]
            rows = own.state("rows", lambda one: as_matrix(gathered(one))[:, :1].clone().zero_())
            columns = own.state("columns", lambda one: as_matrix(gathered(one))[:1].clone().zero_())
            squares = torch._foreach_mul(whole, whole)
            torch._foreach_lerp_(rows, [square.mean(dim=1, keepdim=True) for square in squares], share)
            torch._foreach_lerp_(columns, [square.mean(dim=0, keepdim=True) for square in squares], share)
            del squares  # as long as all updates together
            means = [row.mean() for row in rows]
            across = _roots(torch._foreach_div(rows, [torch.where(mean > 0, mean, 1.0) for mean in means]))
            divided = torch._foreach_div(whole, across)
            torch._foreach_div_(divided, _roots(columns))
            for i, value in zip(matrices, divided, strict=True):
                found[i] = spread_like(value, updates[i])
        return found


def _roots(means: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Square roots, 1 in the place of 0, where all updates so far were 0."""
    return [torch.where(mean > 0, mean, 1.0).sqrt() for mean in means]
