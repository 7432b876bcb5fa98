"""Dense Hessians of a step's parameters, and Newton's equations with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.optim._vectors import flat, parts

if TYPE_CHECKING:
    from nearly.optim.step import Step

GROWTH = 4.0  # of a shift that was too small; any factor above 1 ends after few trials
FIRST = 1e-3  # least shift of a Hessian that is not positive definite, over its largest entry; the usual start of such searches


def hessian(step: Step) -> Tensor:
    """The Hessian of all N parameters, (N, N), symmetric, in single precision at least, by N products.

    One product at a time: of several in one batch (by `vmap`) only parameters by the thousand gain, and at most 1.5 times, and
    functions without a batching rule fail.
    """
    like = step.parameters
    start = flat(like)
    rows, unit = [], torch.zeros_like(start)
    for i in range(len(start)):
        unit[i] = 1
        rows.append(flat(step.product(parts(unit, like))))
        unit[i] = 0
    found = torch.stack(rows)
    return (found + found.T) / 2


def damped_factor(matrix: Tensor, shift: Tensor | float) -> Tensor:
    """The Cholesky factor of the matrix plus `shift` times the identity, or a larger shift where that is not positive definite."""
    shift = torch.as_tensor(shift, dtype=matrix.dtype, device=matrix.device)
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye)
    if bool(failed):
        scale = matrix.abs().max()
        shift = torch.maximum(shift, FIRST * torch.where(scale > 0, scale, 1.0))
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye)
    while bool(failed):
        shift = GROWTH * shift
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye)
    return factor


def damped_solve(matrix: Tensor, vector: Tensor, shift: Tensor | float) -> Tensor:
    """The solution of (matrix + shift I) s = vector, with a larger shift where the sum is not positive definite."""
    return torch.cholesky_solve(vector[:, None], damped_factor(matrix, shift))[:, 0]
