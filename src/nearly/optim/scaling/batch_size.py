"""The square-root rule: hyperparameters of Adam and RMSprop for another batch size, and the gradients that simulate their limit."""

from __future__ import annotations

import math
from typing import TypedDict

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_float, require_int


class AdamSettings(TypedDict):
    """Arguments of `torch.optim.Adam`."""

    lr: float
    betas: tuple[float, float]
    eps: float


class RMSpropSettings(TypedDict):
    """Arguments of `torch.optim.RMSprop`."""

    lr: float
    alpha: float
    eps: float


def rescaled_adam(factor: float, *, lr: float, betas: tuple[float, float], eps: float) -> AdamSettings:
    r"""Adam's hyperparameters for batches `factor` times as large, with nearly the same trajectory.

    It replaces a new sweep: with k the factor,

        lr -> sqrt(k) lr,   beta -> 1 - k (1 - beta) for both,   eps -> eps / sqrt(k),

    and one step then does what k steps did: a step spans lr^2 of the limit's time. Both settings approximate one stochastic
    differential equation in the weak sense, to order lr.

    Assumes that noise dominates the gradients (its deviation over a batch is well above the gradient), as it does for small
    batches; with little noise no scaling of the rate is needed. The rule needs k (1 - beta) well below 1.

    Source: Malladi, Lyu, Panigrahi and Arora 2022, On the SDEs and scaling rules for adaptive gradient algorithms,
    arXiv 2205.10287, section 5 (square root scaling rule).

    Args:
        factor: new over old batch size; below 1 for smaller batches.
        lr: the learning rate.
        betas: the decay rates of both moments.
        eps: added to the root of the second moment.

    Returns:
        The keyword arguments.

    Raises:
        BadInput: for numbers out of range, and where a new beta would fall below 0.

    Example:
        >>> rescaled_adam(4, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        {'lr': 0.002, 'betas': (0.6, 0.996), 'eps': 5e-09}
    """
    lr, eps = _rate_and_eps(factor, lr, eps)
    first, second = (_beta(f"betas[{place}]", beta, factor) for place, beta in enumerate(betas))
    return {"lr": lr, "betas": (first, second), "eps": eps}


def rescaled_rmsprop(factor: float, *, lr: float, alpha: float, eps: float) -> RMSpropSettings:
    r"""RMSprop's hyperparameters (without momentum) for another batch size: as `rescaled_adam`, `alpha` being its beta.

    Source: Malladi et al. 2022, arXiv 2205.10287, section 5.

    Args:
        factor: new over old batch size.
        lr: the learning rate.
        alpha: the decay rate of the second moment.
        eps: added to its root.

    Returns:
        The keyword arguments.

    Raises:
        BadInput: for numbers out of range, and where the new alpha would fall below 0.

    Example:
        >>> rescaled_rmsprop(4, lr=1e-3, alpha=0.99, eps=1e-8)
        {'lr': 0.002, 'alpha': 0.96, 'eps': 5e-09}
    """
    lr, eps = _rate_and_eps(factor, lr, eps)
    return {"lr": lr, "alpha": _beta("alpha", alpha, factor), "eps": eps}


def amplified_gradient(first: Tensor, second: Tensor, fineness: int) -> Tensor:
    r"""Of two independent gradients of one batch size, one with the same mean and `fineness` times the deviation (SVAG).

    With l the fineness, `((1 + sqrt(2 l^2 - 1)) first + (1 - sqrt(2 l^2 - 1)) second) / 2`. Adam on such gradients, with the
    settings `rescaled_adam(1 / l**2, ...)`, takes l^2 steps for one and approaches, as l grows, the differential equation itself:
    if its curve leaves that of l = 1, the equation describes the training no more, and the rule is not to be trusted there.

    Source: Malladi et al. 2022, arXiv 2205.10287, section 6; Li, Malladi and Arora 2021, arXiv 2102.12470.

    Args:
        first: a gradient.
        second: another at the same parameters, from other data; in its shape.
        fineness: l, at least 1, which gives back `first`.

    Returns:
        The combination, in their shape.

    Raises:
        BadInput: for shapes that differ, and a fineness below 1.

    Example:
        >>> import torch
        >>> amplified_gradient(torch.ones(2), torch.ones(2), 3)
        tensor([1., 1.])
    """
    if first.shape != second.shape:
        raise BadInput("second", f"of the shape of first, {tuple(first.shape)}", describe(second))
    spread = math.sqrt(2 * require_int("fineness", fineness, least=1) ** 2 - 1)
    return ((1 + spread) * first + (1 - spread) * second) / 2


def _rate_and_eps(factor: float, lr: float, eps: float) -> tuple[float, float]:
    root = math.sqrt(require_float("factor", factor, above=0))
    require_float("lr", lr, above=0)
    if not 0 <= eps < math.inf:
        raise BadInput("eps", "finite and >= 0", describe(eps))
    return lr * root, eps / root


def _beta(name: str, beta: float, factor: float) -> float:
    if not 0 <= beta < 1:
        raise BadInput(name, "in [0, 1)", describe(beta))
    rate = factor * (1 - beta)
    if rate > 1:
        raise BadInput("factor", f"at most {1 / (1 - beta):.3g}, for {name} = {beta}", factor)
    return round(1 - rate, 15)  # 1 - beta has lost its last digits: without rounding 0.9 becomes 0.6000000000000001
