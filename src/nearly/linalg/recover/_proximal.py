"""Proximal maps of penalties on nonnegative signals: `argmin_{f >= 0} ||f - s||^2 / 2 + t pen(f)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

INNER = 200  # steps of the dual problem of total variation
ACTIVE_SETS = 200  # at most
CLOSE = 1e-9  # relative change at which they end


def shrink(signal: Float[Tensor, b * shape], threshold: Float[Tensor, " b"]) -> Float[Tensor, b * shape]:
    """Of the sum of entries: `max(s - t, 0)`."""
    return (signal - _spread(threshold, signal)).clamp(min=0.0)


def denoise_variation(signal: Float[Tensor, b * shape], threshold: Float[Tensor, " b"]) -> Float[Tensor, b * shape]:
    """Of the anisotropic total variation, the sum of absolute differences of neighbors along every dimension.

    In one dimension exactly, by active sets; otherwise, or where these should cycle, by accelerated projected gradient on the dual
    (Beck, Teboulle 2009, doi:10.1109/TIP.2009.2028250, algorithm FGP); the constant is that of differences, 4 per dimension.
    """
    if signal.ndim == 2:
        found, settled = _by_active_sets(signal, threshold)
        return found if settled else _by_dual_gradient(signal, threshold)
    return _by_dual_gradient(signal, threshold)


def _by_active_sets(signal: Float[Tensor, "b n"], threshold: Float[Tensor, " b"]) -> tuple[Float[Tensor, "b n"], bool]:
    """The minimizer, and whether it is one; ten to twenty steps for a thousand entries.

    With `f_i = s_i + p_i - p_(i-1)`, |p| <= t, and p = +-t where f rises or falls, between those jumps f is constant, the mean of s
    and its ends' p. Jumps of the wrong sign are taken out and p beyond t made jumps until neither is left (primal-dual active sets;
    Hintermueller, Ito, Kunisch 2003, doi:10.1137/S1052623401383558). Negative entries then become 0: p stays a dual solution.
    """
    bound = threshold[:, None]
    jumps = torch.zeros_like(signal[:, 1:])
    # Sums of the entries are rounded; ties must not go to and fro.
    rounding = torch.finfo(signal.dtype).eps * signal.abs().sum(1, keepdim=True)
    for _ in range(ACTIVE_SETS):
        force = torch.nn.functional.pad(jumps * bound, (1, 1)).diff(dim=1)
        part = torch.nn.functional.pad((jumps != 0).long().cumsum(1), (1, 0))
        total, count = (
            torch.zeros_like(signal).scatter_add(1, part, x) for x in (signal + force, torch.ones_like(signal))
        )
        found = (total / count.clamp(min=1.0)).gather(1, part)
        dual = (found - signal).cumsum(1)[:, :-1]
        beyond = torch.where(dual.abs() > bound + rounding, dual.sign(), 0.0)
        after = torch.where(jumps == 0, beyond, torch.where(found.diff(dim=1) * jumps > 0, jumps, 0.0))
        if torch.equal(after, jumps):
            return found.clamp(min=0.0), True
        jumps = after
    return found.clamp(min=0.0), False


def _by_dual_gradient(signal: Float[Tensor, b * shape], threshold: Float[Tensor, " b"]) -> Float[Tensor, b * shape]:
    dims = range(1, signal.ndim)
    bound = _spread(threshold, signal)
    dual = [torch.zeros_like(signal.narrow(d, 0, signal.shape[d] - 1)) for d in dims]
    ahead, t = dual, 1.0
    found = signal.clamp(min=0.0)
    for _ in range(INNER):
        step = 1 / (4 * len(dual))
        moved = []
        for d, point in zip(dims, ahead, strict=True):
            low = bound.expand_as(point)
            moved.append(torch.minimum(torch.maximum(point + step * found.diff(dim=d), -low), low))
        grown = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = [new + (t - 1) / grown * (new - old) for new, old in zip(moved, dual, strict=True)]
        dual, t = moved, grown
        before, found = found, _primal(signal, ahead)
        change, size = torch.stack([torch.dist(found, before, torch.inf), found.max()]).tolist()
        if change <= CLOSE * size:
            break
    return _primal(signal, dual)


def _primal(signal: Tensor, dual: list[Tensor]) -> Tensor:
    found = signal.clone()
    for d, point in enumerate(dual, 1):
        length = point.shape[d]
        found.narrow(d, 0, length).add_(point)
        found.narrow(d, 1, length).sub_(point)
    return found.clamp(min=0.0)


def partition(signal: Float[Tensor, b * shape], threshold: Float[Tensor, " b"]) -> Float[Tensor, b * shape]:
    """Of the number of cells of a recursive dyadic partition on which the signal is constant; sides are powers of two.

    Exact by dynamic programming from the finest cells up (Willett, Nowak 2007, doi:10.1109/TIT.2007.903139): a cell is kept whole
    where the square error of its mean, with t for one cell, is at most what its halves (quarters, ...) cost.
    """
    dims = signal.ndim - 1
    side = signal.shape[1]
    price = _spread(threshold, signal)
    mean, square = signal, signal.square()
    fit = signal.clamp(min=0.0)
    cost = (fit - signal).square() / 2 + price
    for level in range(1, side.bit_length()):
        cells = 2 ** (level * dims)
        mean, square, below = _merged(mean) / 2**dims, _merged(square), _merged(cost)
        whole = mean.clamp(min=0.0)
        error = (square - 2 * cells * whole * mean + cells * whole.square()).clamp(min=0.0) / 2
        keep = error + price <= below
        cost = torch.where(keep, error + price, below)
        fit = torch.where(_expanded(keep, 2**level), _expanded(whole, 2**level), fit)
    return fit


def _merged(tensor: Tensor) -> Tensor:
    """Sums over cells of two along every dimension."""
    for d in range(1, tensor.ndim):
        tensor = tensor.unflatten(d, (-1, 2)).sum(dim=d + 1)
    return tensor


def _expanded(tensor: Tensor, times: int) -> Tensor:
    for d in range(1, tensor.ndim):
        tensor = tensor.repeat_interleave(times, dim=d)
    return tensor


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
