"""Pairs of learning rate and weight decay that train alike: those of equal product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float


def equivalent_pairs(lr: float, weight_decay: float, rates: Iterable[float]) -> list[tuple[float, float]]:
    r"""Pairs (rate, decay) of decoupled weight decay that train as `(lr, weight_decay)` does: all with its product.

    It replaces the two-dimensional sweep of AdamW by one over the product, the effective learning rate. Under AdamW the weights'
    scale settles where decay balances the steps, at order sqrt(lr / weight_decay), and a scale-invariant layer then turns by
    sqrt(lr * weight_decay) each step, whatever the two are. An observation of the paper, not a theorem: it holds after about
    `1 / (lr * weight_decay)` steps, when the initial weights are forgotten. Before, loss curves follow `lr` alone.

    Assumes constant rates, AdamW's decoupled decay on all weights whose scale matters, and layers normalized before or after.

    Source: Li, Wen, Zhou, Zhu and Chen 2025, Efficient hyperparameter tuning via trajectory invariance principle, arXiv 2509.25049,
    section 3 (effective learning rate).

    Args:
        lr: of the known pair.
        weight_decay: of the known pair.
        rates: the learning rates to be paired.

    Returns:
        One pair per rate.

    Raises:
        BadInput: for numbers that are not above 0.

    Example:
        >>> equivalent_pairs(1e-3, 0.1, [5e-4, 2e-3])
        [(0.0005, 0.2), (0.002, 0.05)]
    """
    product = require_float("lr", lr, above=0) * require_float("weight_decay", weight_decay, above=0)
    return [(rate, product / require_float("rates", rate, above=0)) for rate in rates]


def trajectory_gap(losses: Float[Tensor, "runs steps"] | Any, *, window: int) -> float:
    r"""How far the loss curves of runs are apart: the greatest relative range of their smoothed values over the last half.

    Smoothed by the mean over `window` steps; at each step of the last half (greatest - least) / mean over the runs.

    Source: the overlap that Li et al. 2025, arXiv 2509.25049, show by pictures.

    Args:
        losses: one row per run.
        window: steps averaged.

    Returns:
        The gap, relative: 0.02 is two percent.

    Raises:
        BadInput: for losses that are not finite or not positive in the mean, and windows above half of the steps.

    Example:
        >>> trajectory_gap([[1.0, 1.0, 1.0, 1.0], [1.2, 1.2, 1.2, 1.2]], window=2)
        0.18...
    """
    curves = as_floating("losses", losses, dimensions=2)
    steps = curves.shape[1]
    if not 1 <= require_int("window", window, least=1) <= steps // 2:
        raise BadInput("window", f"at most half of the {steps} steps", window)
    smooth = curves.unfold(1, window, 1).mean(dim=2)[:, -(steps - steps // 2) :]
    center = smooth.mean(dim=0)
    if not bool((center > 0).all()):
        raise BadInput("losses", "positive in the mean over runs", describe(losses))
    return float(((smooth.amax(dim=0) - smooth.amin(dim=0)) / center).max())
