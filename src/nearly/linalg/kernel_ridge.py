"""Kernel ridge regression with its length scale and ridge chosen by exact leave-one-out errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # in units of the median distance of the rows
RIDGES = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1e-1)  # in units of the kernel's value at distance 0


def matern(distance: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Matern kernel of smoothness 5/2 at scaled distances: `(1 + s + s^2 / 3) exp(-s)`, s = sqrt(5) distance."""
    s = 5**0.5 * distance
    return (1 + s + s * s / 3) * torch.exp(-s)


def fit_kernel_ridge(
    features: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, ""], Float[Tensor, ""]]:
    """Weights w of `y(x) = sum_i matern(|x - x_i| / length) w_i`, `w = (K + ridge I)^{-1} Y`.

    Length and ridge minimize the mean square leave-one-out error `(w_i / (K + ridge I)^{-1}_ii)^2` over a grid, exactly and from
    one eigendecomposition per length (Rasmussen and Williams 2006, Gaussian processes for machine learning, section 5.4.2).

    Args:
        features: scaled inputs.
        outputs: centered outputs.

    Returns:
        The weights, the length, and the leave-one-out root mean square error.

    Example:
        >>> x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
        >>> float(fit_kernel_ridge(x, torch.sin(3 * x))[2]) < 1e-3
        True
    """
    unit = binary_scale(outputs, (0, 1))
    outputs = outputs / unit  # squares of errors neither overflow nor vanish
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distance[distance > 0]
    middle = apart.median() if apart.numel() else torch.ones((), dtype=features.dtype, device=features.device)
    eps = torch.finfo(features.dtype).eps
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for factor in LENGTHS:
        values, turn = torch.linalg.eigh(matern(distance / (factor * middle)))
        values = values.clamp(min=0)
        rotated, squares = turn.T @ outputs, turn.square()
        for ridge in RIDGES:
            if ridge < eps * len(features):
                continue
            inverse = 1 / (values + ridge)
            weights = turn @ (inverse[:, None] * rotated)
            missed = (weights / (squares @ inverse)[:, None]).square().sum(dim=1).mean().sqrt()
            if best is None or missed < best[2]:
                best = weights, factor * middle, missed
    assert best is not None
    weights, length, missed = best
    return weights * unit, length, missed * unit[0, 0]


def apply_kernel_ridge(
    features: Float[Tensor, "n d"],
    references: Float[Tensor, "m d"],
    weights: Float[Tensor, "m k"],
    length: Float[Tensor, ""],
) -> Float[Tensor, "n k"]:
    """Predictions at scaled inputs."""
    distance = torch.cdist(features, references, compute_mode="donot_use_mm_for_euclid_dist")
    return matern(distance / length) @ weights
