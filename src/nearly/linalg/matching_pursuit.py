"""Greedy least squares: terms are taken one by one, on several subsets of the rows at once, so that paths are cross-validated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

DEPENDENT = 1e-10  # share of a column's square below which what is left of it, beside the chosen ones, is round-off
EXACT = 1e-28  # share of the outputs' square below which a residual is round-off


def matching_pursuit(
    design: Float[Tensor, "n terms"],
    outputs: Float[Tensor, "n k"],
    parts: Float[Tensor, "f n"],
    most: int,
) -> tuple[Int[Tensor, "f m"], Float[Tensor, " m"]]:
    """The terms that orthogonal least squares takes on each part of the rows, and how well they do on the left-out rows.

    Every step takes the term that lowers the residual of the refitted least squares most, the first one being term 0:
    `argmax_j |p_j^T r|^2 / |p_j - Q Q^T p_j|^2`. Both are updated by the one product `q^T P` of the new orthonormal column q with
    all terms, so that a step on all parts is one matrix product of `2 f n terms` operations and nothing is fitted anew
    (Chen, Billings, Luo 1989, doi:10.1080/00207178908953472; Rebollo-Neira, Lowe 2002, doi:10.1109/LSP.2002.1001652). Columns are
    orthogonalized twice. The path ends early where it is exact, or long after the left-out error was least.

    Args:
        design: values of the terms, in float64.
        outputs: as many rows; the terms are shared by all outputs.
        parts: for each part, 1 for the rows that it is fitted on and 0 for those left out.
        most: the most terms; fewer than the rows of any part.

    Returns:
        The terms of each part in the order taken, and the sum of squares over all left-out rows after each step.

    Example:
        >>> x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
        >>> matching_pursuit(x ** torch.arange(5), x**3 - 1, torch.ones(1, 12, dtype=torch.float64), 2)[0].tolist()
        [[0, 3]]
    """
    count, n, every = len(parts), len(design), torch.arange(len(parts), device=design.device)
    square = parts @ design.square()  # of what is left of each term beside the chosen ones, on each part
    negligible = DEPENDENT * square
    residual = outputs.expand(count, *outputs.shape)
    aligned = (parts[:, :, None] * residual).transpose(1, 2) @ design
    exact = EXACT * (parts @ outputs.square()).sum(dim=1)
    columns = design.new_zeros(count, most, n)
    order, missed = [torch.zeros_like(every)], list[float]()
    least, least_at = float("inf"), 0
    for step in range(most):
        column, before = design.T[order[step]], columns[:, :step]
        for _ in range(2):
            inner = before @ (parts * column)[:, :, None]
            column = column - (inner.transpose(1, 2) @ before)[:, 0]
        column = column / (parts * column.square()).sum(dim=1, keepdim=True).sqrt()
        columns[:, step] = column
        fitted = parts * column
        weight = fitted[:, None] @ residual
        residual = residual - column[:, :, None] * weight
        overlap = fitted @ design
        aligned = aligned - weight.transpose(1, 2) * overlap[:, None]
        square = square - overlap.square()
        square[every, order[step]] = 0
        squares = residual.square().sum(dim=2)
        missed.append(float(((1 - parts) * squares).sum()))
        if missed[-1] < least:
            least, least_at = missed[-1], step
        # A path that has run half as far again as its best point, and some steps more, does not come back.
        if bool(((parts * squares).sum(dim=1) <= exact).all()) or step > 1.5 * least_at + 16:
            break
        usable = square > negligible
        if not bool(usable.any(dim=1).all()):
            break
        gain = aligned.square().sum(dim=1) / square.clamp(min=torch.finfo(square.dtype).tiny)
        order.append(gain.masked_fill(~usable, -1).argmax(dim=1))
    return torch.stack(order[: len(missed)], dim=1), torch.tensor(missed, dtype=design.dtype, device=design.device)
