"""Tucker decomposition: a small core, and one orthonormal factor for each direction of a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SWEEPS = 20
STALLED = 1e-14  # share of its square by which the core must grow in a sweep for another one to follow


def tucker(tensor: Float[Tensor, ...], tolerance: float, directions: int) -> tuple[Tensor, list[Tensor]]:
    """Core C and orthonormal factors U_j with `||A - C x_1 U_1 ... x_d U_d||_F <= tolerance ||A||_F`, of nearly least ranks.

    The ranks are those of the higher-order singular value decomposition, whose discarded singular values have a square sum of at
    most `tolerance^2 ||A||^2 / d` in each direction; alternating least squares then improves the factors at these ranks, one
    direction at a time (De Lathauwer, De Moor, Vandewalle 2000, doi:10.1137/S0895479898346995, algorithm 4.2).

    Args:
        tensor: the array A.
        tolerance: relative, in the Frobenius norm.
        directions: how many of the leading directions are compressed; the others are left as they are.

    Returns:
        The core and the factors, (size, rank) each.

    Example:
        >>> x = torch.linspace(0, 1, 9, dtype=torch.float64)
        >>> core, factors = tucker(x[:, None, None] + x[:, None] * x, 1e-12, directions=3)
        >>> tuple(core.shape)
        (2, 2, 2)
    """
    scale = binary_scale(tensor, tuple(range(tensor.ndim)))  # squares neither overflow nor vanish
    tensor = tensor / scale
    allowed = tolerance**2 * float(tensor.square().sum()) / directions
    factors = []
    for j in range(directions):
        left, singular = _left_vectors(tensor, j)
        tail = singular.square().flip(0).cumsum(dim=0).flip(0)
        factors.append(left[:, : max(1, int((tail > allowed).sum()))])
    power = 0.0
    for _ in range(SWEEPS):
        for j in range(directions):
            projected = project(tensor, factors, skip=j)
            factors[j] = _left_vectors(projected, j)[0][:, : factors[j].shape[1]]
        core = project(tensor, factors)
        before, power = power, float(core.square().sum())
        if power - before <= STALLED * power:
            break
    return core * scale, factors


def project(tensor: Tensor, factors: list[Tensor], skip: int | None = None) -> Tensor:
    """The tensor in the factors' coordinates, `A x_1 U_1^T ... x_d U_d^T`, one direction left out on request."""
    for j, factor in enumerate(factors):
        if j != skip:
            tensor = torch.tensordot(tensor, factor, dims=([j], [0])).movedim(-1, j)
    return tensor


def _left_vectors(tensor: Tensor, direction: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of an unfolding, through the triangle of its transpose where that is smaller."""
    rows = tensor.movedim(direction, 0).reshape(tensor.shape[direction], -1)
    if rows.shape[1] > rows.shape[0]:
        rows = torch.linalg.qr(rows.T, mode="r")[1].T
    left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
    return left, singular
