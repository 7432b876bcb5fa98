"""Dense Hessians of a step's parameters, and Newton's equations with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.optim._vectors import flat, parts

if TYPE_CHECKING:
    from nearly.optim.step import Step


def hessian(step: Step, product: Callable[..., list[Tensor]] | None = None) -> Tensor:
    """The Hessian of all N parameters, (N, N), symmetric, in single precision at least, by N products.

    `product(vectors, parameters)` takes another matrix's products in the place of the Hessian's.

    One product at a time: of several in one batch (by `vmap`) only parameters by the thousand gain, and at most 3.5 times, and
    functions without a batching rule fail.
    """
    like = step.parameters
    start = flat(like)
    rows, unit = [], torch.zeros_like(start)
    for i in range(len(start)):
        unit[i] = 1
        vectors = parts(unit, like)
        rows.append(flat(step.product(vectors, check=False) if product is None else product(vectors, like)))
        unit[i] = 0
    found = torch.stack(rows)
    if product is not None:
        (found,) = step.averaged([found])
    step.require_curvature([found])  # at once: an accelerator is not waited for after every product
    if product is not None and step.group["maximize"]:
        found = -found
    return (found + found.T) / 2


def damped_factor(matrix: Tensor, shift: Tensor | float) -> Tensor:
    """The Cholesky factor of the matrix plus `shift` times the identity.

    Where that is not positive definite, the shift is larger: it lifts the least eigenvalue as far above 0 as it was below.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    shifted = matrix + shift * eye
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if bool(failed):
        values = torch.linalg.eigvalsh(shifted)
        # Half of the digits: what is singular but for rounding is moved by no more than the solve's own error.
        scale = values.abs().amax()
        margin = torch.finfo(matrix.dtype).eps ** 0.5 * torch.where(scale > 0, scale, 1.0)
        factor = torch.linalg.cholesky(shifted + (margin - 2 * values[0].clamp(max=0)) * eye)
    return factor


def solved(factor: Tensor, vector: Tensor) -> Tensor:
    """The solution of the system that has this Cholesky factor."""
    return torch.cholesky_solve(vector[:, None], factor)[:, 0]
