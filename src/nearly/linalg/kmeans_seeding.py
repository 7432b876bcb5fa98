"""Seeds of k-means, drawn without a distance of every point to every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_int
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

BLOCK = 256  # proposals whose distances are taken at once


class Seeds(NamedTuple):
    """Indices of the seeds, and how many distances of a point to a seed were taken."""

    indices: Int[Tensor, " k"]
    distances: int


def kmeans_seeds(
    points: Float[Tensor, "n d"],
    count: int,
    *,
    generator: torch.Generator,
    weights: Float[Tensor, " n"] | None = None,
    tries: int | None = None,
) -> Seeds:
    """Seeds of k-means++ by rejection sampling: exactly its law, in time that does not grow with n but for two passes.

    It replaces k-means++, whose every seed x is drawn with probability proportional to `D(x) = min_{s in S} ||x - s||^2`, from
    the distances of all points to the seeds S so far. Here points are centered, proposals are drawn with probability
    proportional to `||x||^2 + ||c||^2`, c one of the seeds, and accepted with probability `D(x) / (2 ||x||^2 + 2 ||c||^2)`, which
    is at most 1. The expected number of proposals per seed is at most about four times the variance of the points over their
    k-means cost; k-means++ is O(log k)-competitive (Arthur and Vassilvitskii 2007). With `tries`, a seed whose proposals are all
    rejected is drawn by weight alone.

    Departures from the paper:

    1. c is the seed nearest to the mean rather than the first one, which is accepted more often.
    2. Where n proposals for one seed were rejected, all distances are taken and the seed is drawn from them: the same law.

    Source: Shah, Agrawal and Jaiswal 2025, A new rejection sampling approach to k-means++ with improved trade-offs, arXiv
    2502.02085.

    Args:
        points: shape (n, d).
        count: seeds; fewer come back where there are fewer distinct points.
        generator: source of randomness, on the CPU.
        weights: shape (n,), positive; equal by default.
        tries: the most proposals per seed.

    Returns:
        The seeds' indices, in the order in which they were drawn, and the number of distances taken.

    Raises:
        BadInput: for points, weights, a count or tries that are not as above.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [9.0]])
        >>> sorted(kmeans_seeds(x, 2, generator=torch.Generator().manual_seed(0)).indices.tolist())[-1]
        2
    """
    points = as_floating("points", points, dimensions=2).detach()
    count = require_int("count", count, least=1, most=len(points))
    limit = len(points) if tries is None else require_int("tries", tries, least=1)
    if weights is None:
        weights = points.new_full((len(points),), 1 / len(points))
    else:
        weights = as_floating("weights", weights, dimensions=1).to(points)
        if len(weights) != len(points) or not bool((weights > 0).all()):
            raise BadInput("weights", f"{len(points)} positive numbers", describe(weights))
    weights = (weights / weights.sum()).double()
    points = points / binary_scale(points, (0, 1))  # the law has no unit; squares neither overflow nor vanish
    points = points - weights.to(points) @ points
    norms = points.square().sum(dim=1).double()
    by_weight, by_norm = weights.cumsum(0), (weights * norms).cumsum(0)

    def draw(sums: Tensor, n: int) -> Tensor:
        spots = torch.rand(n, dtype=torch.float64, generator=generator).to(sums.device) * sums[-1]
        return torch.searchsorted(sums, spots, right=True).clamp(max=len(sums) - 1)

    seeds = draw(by_weight, 1)
    center = norms[seeds[0]]
    distances, rejected = 0, 0
    nearest = among = dice = points.new_zeros(0)  # of the proposals in hand
    while len(seeds) < count:
        if not len(among):
            uniform = torch.rand(BLOCK, dtype=torch.float64, generator=generator).to(norms) < center / (
                by_norm[-1] + center
            )
            among = torch.where(uniform, draw(by_weight, BLOCK), draw(by_norm, BLOCK))
            dice = torch.rand(BLOCK, dtype=torch.float64, generator=generator).to(norms)
            nearest = _squares(points[among], points[seeds]).amin(dim=1)
            distances += BLOCK * len(seeds)
        allowed = min(len(among), limit - rejected)
        hits = (dice * 2 * (norms[among] + center) < nearest)[:allowed].nonzero()
        if len(hits):
            used = int(hits[0, 0]) + 1
            new = among[used - 1]
        else:
            used, rejected = allowed, rejected + allowed
            if rejected < limit:
                among = among[used:]
                continue
            if tries is None:
                every = torch.cat([_squares(part, points[seeds]).amin(dim=1) for part in points.split(2**16)])
                distances += len(points) * len(seeds)
                if not bool((every > 0).any()):
                    break
                new = draw((weights * every).cumsum(0), 1)[0]
            else:
                new = draw(by_weight, 1)[0]
        seeds, rejected = torch.cat([seeds, new[None]]), 0
        among, dice, nearest = among[used:], dice[used:], nearest[used:]
        if norms[new] < center:
            center, among = norms[new], among[:0]
        elif len(among):
            nearest = torch.minimum(nearest, _squares(points[among], points[new][None])[:, 0])
            distances += len(among)
    return Seeds(seeds, distances)


def nearest_seed(points: Float[Tensor, "n d"], seeds: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """The index of the seed nearest to each point, and so its cluster."""
    return torch.cat([_squares(part, seeds).argmin(dim=1) for part in points.split(max(1, 2**22 // len(seeds)))])


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
