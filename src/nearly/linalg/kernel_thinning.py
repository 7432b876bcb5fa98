"""A few of many points, chosen so that sums of a kernel over them are nearly those over all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# Values k(x, y) of shape (..., n, m) at points of shapes (..., n, d) and (..., m, d).
Kernel = Callable[["Tensor", "Tensor"], "Tensor"]

LEFT = 2048  # points, at most, that the last step takes at once: 64 MB; for sqrt(n) = 64 the oversampling 2^4 of Shetty et al. 2022
BLOCK = 2**22  # kernel values held at once where only their sums are wanted
PASSES = 10  # of swapping, at most; the first does nearly all
FAILURE = 0.5  # probability delta that the papers' bounds may fail, shared by all halvings; goodpoints has the same


def gaussian_kernel(scale: float) -> Kernel:
    """`exp(-||x - y||^2 / (2 scale^2))`.

    Args:
        scale: positive length.

    Raises:
        BadInput: for another scale.

    Example:
        >>> gaussian_kernel(1.0)(torch.zeros(1, 2), torch.ones(1, 2)).log().tolist()
        [[-1.0]]
    """
    scale = require_float("scale", scale, above=0.0)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        # Rounding of the expanded square is relative to the points' own size, which is why they are centered first.
        middle = y.mean(dim=-2, keepdim=True)
        x, y = (x - middle) / scale, (y - middle) / scale
        exponent = torch.matmul(x, y.mT)
        exponent -= x.square().sum(dim=-1)[..., :, None] / 2
        exponent -= y.square().sum(dim=-1)[..., None, :] / 2
        return exponent.clamp_(max=0).exp_()

    return kernel


def laplace_kernel(scale: float) -> Kernel:
    """`exp(-||x - y|| / scale)`.

    Args:
        scale: positive length.

    Raises:
        BadInput: for another scale.

    Example:
        >>> laplace_kernel(2.0)(torch.zeros(1, 1), torch.ones(1, 1)).log().tolist()
        [[-0.5]]
    """
    scale = require_float("scale", scale, above=0.0)
    return lambda x, y: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").div(-scale).exp_()


def kernel_thinning(
    points: Float[Tensor, "n d"],
    size: int,
    kernel: Kernel,
    *,
    generator: torch.Generator,
    weights: Float[Tensor, " n"] | None = None,
    split: Kernel | None = None,
) -> Int[Tensor, " size"]:
    """Indices of `size` points whose equally weighted measure Q is near the weighted measure P of all n points.

    It replaces a random subsample. Near is in the maximum mean discrepancy (MMD),
    `MMD^2 = E k(X, X') - 2 E k(X, Y) + E k(Y, Y')` with X, X' from P and Y, Y' from Q: the largest difference of expectations over
    functions of norm 1 in the kernel's space. For bounded kernels of a smooth kind and light tails, sqrt(n) of n points come
    within O(n^(-1/2)) but for powers of log n, where a random subsample of that size has n^(-1/4) (Dwivedi and Mackey 2022,
    theorems 2 to 4; the recursion keeps this up to a factor of 4, Shetty et al. 2022).

    Points are halved again and again: of each two neighbors one goes on, by a walk that balances the kernel sums of the two
    halves. First bins are halved and merged by fours (Compress), until at most 2,048 points are left, which are halved together
    into candidates (KT-SPLIT). The best of these and of standard thinning is refined by swapping its points for any of those
    left (KT-SWAP). Time is linear in n, some 5,000 kernel values per point; so is memory.

    Departures from the papers:

    1. The input is first resampled systematically to `size` times a power of two, so that any n, size and weights will do; with
       equal weights and such an n this changes nothing.
    2. Swapping compares with all points rather than those left by Compress, and goes on until it changes nothing, at most 10
       times, rather than once; the MMD falls monotonically. The halvings of Compress are not refined.
    3. The number of points that Compress leaves does not grow with n; a size over 1,024 is thinned in parts, each of which is
       compared with its own share of the points.

    Sources: Dwivedi and Mackey 2022, Generalized kernel thinning, arXiv 2110.01593, algorithm 1; Shetty, Dwivedi and Mackey 2022,
    Distribution compression in near-linear time, arXiv 2111.07941, Compress and Compress++.

    Args:
        points: shape (n, d).
        size: how many; they may repeat.
        kernel: positive definite; values of shape (..., n, m) for points of shapes (..., n, d) and (..., m, d).
        generator: source of randomness, on the CPU.
        weights: shape (n,), positive; equal by default.
        split: the kernel that halves; by default `kernel` itself (target KT). Its sum with a power kernel, each divided by its
            value at distance 0, gives KT+.

    Returns:
        Indices, shape (size,), on the device of the points.

    Raises:
        BadInput: for points, weights or a size that are not as above.

    Example:
        >>> x = torch.randn(1024, 2, generator=torch.Generator().manual_seed(0))
        >>> kernel_thinning(x, 32, gaussian_kernel(2.0), generator=torch.Generator().manual_seed(1)).shape
        torch.Size([32])
    """
    points = as_floating("points", points, dimensions=2).detach()
    size = require_int("size", size, least=1)
    if weights is None:
        weights = points.new_full((len(points),), 1 / len(points))
    else:
        weights = as_floating("weights", weights, dimensions=1).to(points)
        if len(weights) != len(points) or not bool((weights > 0).all()):
            raise BadInput("weights", f"{len(points)} positive numbers", describe(weights))
    rounds = max(0, math.ceil(math.log2(len(points) / size)))
    index = _resample(weights, size << rounds, generator)
    parts = math.ceil((size << min(rounds, 1)) / LEFT)
    if parts == 1:
        return _thin(points, weights / weights.sum(), index, size, kernel, split or kernel, generator)
    chosen = []
    for part in range(parts):
        own = index.reshape(size, -1)[part::parts]
        among, counts = own.flatten().unique(return_counts=True)
        place = torch.searchsorted(among, own.flatten())
        mass = counts.to(points) / own.numel()
        chosen.append(among[_thin(points[among], mass, place, len(own), kernel, split or kernel, generator)])
    return torch.cat(chosen)


def _resample(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices in order, each repeated as often as its share of `count` tells, up to one (systematic resampling)."""
    ends = weights.double().cumsum(0)
    offset = torch.rand((), dtype=torch.float64, generator=generator).to(weights.device)
    ticks = (torch.arange(count, dtype=torch.float64, device=weights.device) + offset) * (ends[-1] / count)
    return torch.searchsorted(ends, ticks, right=True).clamp(max=len(weights) - 1)


def _thin(
    points: Tensor, weights: Tensor, index: Tensor, size: int, kernel: Kernel, split: Kernel, generator: torch.Generator
) -> Tensor:
    """Thin `points[index]`, of which there are `size` times a power of two, and refine against all weighted points."""
    rounds = (len(index) // size).bit_length() - 1
    last = min(rounds, (LEFT // size).bit_length() - 1)
    levels = rounds - last
    # The failure probability is shared as the published reference implementation, goodpoints, shares it.
    share = last / (last + 2**last * levels) if levels else 1.0
    if levels:
        index = _compress(points, index, levels, split, FAILURE * (1 - share), generator)
    left = points[index]
    cores = torch.arange(len(left), device=left.device)[None]
    for j in range(last):
        parted = left[cores]
        # log of 2 n m / (delta 2^j): Dwivedi and Mackey 2022, algorithm 1a with delta_i = delta / n.
        log = math.log(2 * len(left) * last / (FAILURE * share * 2**j))
        cores = cores[:, None].expand(-1, 2, -1).gather(2, _halve(split(parted, parted), log, generator)).flatten(0, 1)
    every = torch.arange(1, size + 1, device=left.device) * (len(left) // size) - 1
    return index[_swap(left, torch.cat([cores, every[None]]), points, weights, kernel)]


def _compress(
    points: Tensor, index: Tensor, levels: int, kernel: Kernel, failure: float, generator: torch.Generator
) -> Tensor:
    """Halve bins, merge them by fours, halve again, `levels` times: all bins of a level at once."""
    count = len(index)
    smallest = max(1, count // 4 ** (levels + 1))  # points in a bin before the first merge, of four bins in the end
    bins = index
    for level in range(levels):
        width = min(len(bins), 4 * smallest * 2**level)
        width = math.gcd(width, len(bins))
        halves = []
        for group in bins.reshape(-1, width).split(max(1, BLOCK // width**2)):
            inside = points[group]
            # A halving of l points gets l^2 / (4^(g+1) n levels) of delta, as in KT-Compress of Shetty et al. 2022, and delta_i is
            # that over l.
            log = math.log(2 * count * 4 * smallest * levels / (width * failure))
            pairs = _halve(kernel(inside, inside), log, generator)
            # Either half with equal probability, which makes the whole unbiased.
            side = torch.randint(2, (len(group), 1), generator=generator).to(group.device)
            halves.append(group.gather(1, pairs.gather(1, side[:, :, None].expand(-1, 1, width // 2))[:, 0]))
        bins = torch.cat(halves).flatten()
    return bins


def _halve(matrix: Float[Tensor, "b n n"], log: float, generator: torch.Generator) -> Int[Tensor, "b 2 half"]:
    """Both halves of each of b sets of points, from their kernel matrices: of each two neighbors one goes to each half.

    With D the kernel of the neighbors' differences, pair i takes the sign +1 with probability (1 - w_i / a_i) / 2 for
    `w_i = sum_{j < i} D_ij s_j`. Neither the thresholds a_i nor the variance proxies sigma behind them depend on the signs.
    """
    pairs = matrix.shape[-1] // 2
    rows = matrix[:, 0::2] - matrix[:, 1::2]
    differences = rows[:, :, 0::2] - rows[:, :, 1::2]
    thresholds = _thresholds(differences.diagonal(dim1=-2, dim2=-1), log)
    draws = torch.rand(len(matrix), pairs, dtype=torch.float64, generator=generator)
    cuts = thresholds * (2 * draws - 1).to(matrix)
    walk = torch.zeros_like(cuts)
    signs, one = torch.empty_like(cuts), torch.ones((), dtype=matrix.dtype, device=matrix.device)
    steps = zip(signs[:, :, None].unbind(1), cuts[:, :, None].unbind(1), walk[:, :, None].unbind(1), strict=True)
    for (sign, cut, here), row in zip(steps, differences.unbind(1), strict=True):
        torch.copysign(one, cut - here, out=sign)
        walk.addcmul_(sign, row)
    first = 2 * torch.arange(pairs, device=matrix.device) + (signs < 0)
    return torch.stack([first, first ^ 1], dim=1)


def _thresholds(squares: Float[Tensor, "b pairs"], log: float) -> Float[Tensor, "b pairs"]:
    """Adaptive thresholds a = max(b sigma sqrt(2 log), b^2) of pairs with squared kernel distances b^2, and sigma's growth."""
    found = []
    for row in squares.tolist():
        sigma, thresholds = 0.0, []
        for square in row:
            square = max(square, 0.0)
            a = max(math.sqrt(2 * log * sigma * square), square)
            thresholds.append(a)
            if a > 0:
                sigma += square * max(0.0, 1 + (square / a - 2) * sigma / a)
        found.append(thresholds)
    return squares.new_tensor(found)


def _swap(left: Tensor, cores: Tensor, points: Tensor, weights: Tensor, kernel: Kernel) -> Tensor:
    """The candidate with the least MMD, each of its points then swapped for the one of `left` that lowers it most."""
    size = cores.shape[1]
    chunk = max(1, BLOCK // len(left))
    mean = torch.zeros_like(left[:, 0])
    for some, share in zip(points.split(chunk), weights.split(chunk), strict=True):
        mean += kernel(left, some) @ share
    chosen = left[cores]
    within = torch.cat([kernel(c, c).mean(dim=(1, 2)) for c in chosen.split(max(1, BLOCK // size**2))])
    best = cores[int((within - 2 * mean[cores].mean(dim=1)).argmin())]
    # Adding y with weight 1 / size to Q changes size * MMD^2 by k(y, y) / size + 2 E_Q k(y, .) - 2 E_P k(y, .).
    matrix = kernel(left, left)
    statistic = matrix.diagonal() / size - 2 * mean + matrix[best].sum(dim=0) * (2 / size)
    core: list[int] = best.tolist()
    for _ in range(PASSES):
        before = list(core)
        for place, point in enumerate(before):
            statistic.sub_(matrix[point], alpha=2 / size)
            better = int(statistic.argmin())
            core[place] = point if statistic[better] >= statistic[point] else better
            statistic.add_(matrix[core[place]], alpha=2 / size)
        if core == before:
            break
    return torch.tensor(core, device=left.device)
