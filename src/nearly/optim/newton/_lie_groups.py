"""Matrices of Lie groups that take O(N) numbers: products with them, and fits of them to the inverse of a curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from nearly.optim._vectors import safe_ratio


def times_low_rank(one: Tensor, other: Tensor, scale: Tensor, vector: Tensor) -> Tensor:
    """Q' Q x for Q = (I + U V') diag(d): U, V and d are `one`, `other` and `scale`."""
    image = scale * vector
    image = image + one @ (other.T @ image)
    return scale * (image + other @ (one.T @ image))


def fit_low_rank(
    one: Tensor, other: Tensor, scale: Tensor, vector: Tensor, product: Tensor, rate: float, *, first: bool
) -> None:
    """One step of d, and of U (`first`) or V, along the group for `E[h' P h + v' P^-1 v]`; in place."""
    image = scale * product
    image = image + one @ (other.T @ image)
    forth = scale * (image + other @ (one.T @ image))
    core = torch.eye(one.shape[1], dtype=one.dtype, device=one.device) + other.T @ one
    factor, pivots = torch.linalg.lu_factor(core)
    dual = vector / scale
    dual = dual - other @ torch.linalg.lu_solve(factor, pivots, (one.T @ dual)[:, None], adjoint=True)[:, 0]
    back = (dual - one @ torch.linalg.lu_solve(factor, pivots, (other.T @ dual)[:, None])[:, 0]) / scale
    # Bounds of the derivatives by Cauchy and Schwarz, so that no step leaves the group.
    most = (torch.hypot(forth, vector) * torch.hypot(product, back)).amax()
    scale.mul_(1 - rate * safe_ratio(forth * product - vector * back, most))
    pair, kept = torch.stack([image, dual], 1), other if first else one
    inner = pair.T @ kept
    most = (pair.norm(dim=0) * (kept @ inner.T).norm(dim=0)).sum()
    length = safe_ratio(torch.full_like(most, rate), most)
    signed = torch.stack([-length * inner[0], length * inner[1]])
    if first:
        one.addmm_(pair, signed @ core)
    else:
        other.add_((pair + other @ inner.T) @ signed)


def times_xmat(diagonal: Tensor, anti: Tensor, vector: Tensor) -> Tensor:
    """Q' Q x for Q with a diagonal and an antidiagonal."""
    both = diagonal * anti
    return (diagonal.square() + anti.square().flip(0)) * vector + (both + both.flip(0)) * vector.flip(0)


def fit_xmat(diagonal: Tensor, anti: Tensor, vector: Tensor, product: Tensor, rate: float) -> None:
    """One step of both diagonals along the group, as in `fit_low_rank`; in place."""
    image = diagonal * product + anti * product.flip(0)
    turned, crossed = diagonal.flip(0), anti.flip(0)
    dual = (turned * vector - crossed * vector.flip(0)) / (diagonal * turned - anti * crossed)
    most = (image.square() + dual.square()).amax()
    along = rate * safe_ratio(image.square() - dual.square(), most)
    across = rate * safe_ratio(image * image.flip(0) - dual * dual.flip(0), most)
    if len(across) % 2:
        across[len(across) // 2] = 0  # where the two diagonals cross
    change = along * diagonal + across * crossed
    anti.sub_(along * anti + across * turned)
    diagonal.sub_(change)
