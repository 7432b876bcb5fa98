"""Row 109: generalized kernel thinning (Dwivedi and Mackey, arXiv 2110.01593), with the recursion of arXiv 2111.07941.

Works when: 4,096 to 64 points of a standard Gaussian, Gaussian kernel with 2 sigma^2 = 4 d, median MMD to the input over
20 seeds: at most 0.6 times that of standard thinning in 2 dimensions, and below it in 10. And with the Laplace kernel
exp(-||x - y|| / sqrt(2 d)), log MMD of KT+ against log n, sqrt(n) of n = 64 to 4,096 points, falls with a slope of at most
-0.35 for d = 1 and -0.32 for d = 2, where independent points have about -0.25. The power kernel of KT+ has the exponent 0.81
of the paper's experiments; it is a Matern kernel.

The bar for d = 2 is weaker because no choice of points does much better there: this kernel's space is a Sobolev space of
smoothness (d + 1) / 2, in which s points integrate no better than s^(-(d + 1) / (2 d)), that is n^(-3/8) for s = sqrt(n). Measured
over 30 seeds: -0.35 (d = 2) and -0.46 (d = 1).

Baseline: standard thinning, every 64th point; for Gaussian points, independent ones.
Rejected broken variants, run below: thinning by a kernel a hundred times too narrow, and by one so wide that it sees only the mean.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import gamma, kv

from nearly.linalg.kernel_thinning import gaussian_kernel, kernel_thinning, laplace_kernel

if TYPE_CHECKING:
    from nearly.linalg.kernel_thinning import Kernel

SEEDS = 20
ALPHA = 0.81


def gaussian_points(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def discrepancy(points: torch.Tensor, index: torch.Tensor, kernel: Kernel) -> float:
    chosen = points[index]
    square = kernel(points, points).mean() - 2 * kernel(chosen, points).mean() + kernel(chosen, chosen).mean()
    return math.sqrt(max(0.0, float(square)))


def standard(n: int, size: int) -> torch.Tensor:
    return torch.arange(1, size + 1) * (n // size) - 1


def thinned(points: torch.Tensor, size: int, kernel: Kernel, seed: int, split: Kernel | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return kernel_thinning(points, size, kernel, split=split, generator=generator)


def medians(d: int, seeds: int, *scales: float) -> list[float]:
    """Of standard thinning, then of kernel thinning with kernels of the given scales, in units of the right one."""
    right = math.sqrt(2 * d)
    found: list[list[float]] = [[] for _ in range(1 + len(scales))]
    for seed in range(seeds):
        points = gaussian_points(4096, d, seed)
        choices = [standard(4096, 64)] + [thinned(points, 64, gaussian_kernel(s * right), seed) for s in scales]
        for values, index in zip(found, choices, strict=True):
            values.append(discrepancy(points, index, gaussian_kernel(right)))
    return [statistics.median(values) for values in found]


def test_target_thinning_in_two_and_ten_dimensions(record: Any) -> None:
    for d, bar in ((2, 0.6), (10, 1.0)):
        baseline, measured = medians(d, SEEDS, 1.0)
        record(claim=f"109: 4096 to 64 Gaussian points, d={d}: median MMD", measured=measured, baseline=baseline)
        assert measured < bar * baseline
    baseline, narrow, wide = medians(2, 3, 0.01, 1e6)
    record(claim="109: kernel 100 times too narrow, d=2: median MMD", measured=narrow, baseline=baseline)
    assert narrow > 0.6 * baseline
    assert wide > 0.6 * baseline


def power_kernel(scale: float, d: int) -> Kernel:
    """The ALPHA-power kernel of the Laplace kernel, 1 at distance 0.

    The spectral density (scale^-2 + w^2)^(-(d + 1) / 2) to the power ALPHA is that of the Matern kernel of smoothness
    nu = ALPHA (d + 1) / 2 - d / 2. It is read off a table: Bessel functions are slow.
    """
    nu = ALPHA * (d + 1) / 2 - d / 2
    u = np.linspace(0, 40 ** (2 * nu), 20001)[1:]  # the kernel is smooth in u = s^(2 nu)
    s = u ** (1 / (2 * nu))
    values = 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s)
    table = np.concatenate([[0.0], u]), np.concatenate([[1.0], values])

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") / scale
        return torch.from_numpy(np.interp(distance.numpy() ** (2 * nu), *table))

    return kernel


def test_laplace_kernel_thinning_falls_faster_than_independent_points(record: Any) -> None:
    sizes = [8, 16, 32, 64]
    logs = np.log([size * size for size in sizes])
    for d, bar in ((1, -0.35), (2, -0.32)):
        scale = math.sqrt(2 * d)
        laplace, power = laplace_kernel(scale), power_kernel(scale, d)

        def both(x: torch.Tensor, y: torch.Tensor, kernels: tuple[Kernel, Kernel] = (laplace, power)) -> torch.Tensor:
            return kernels[0](x, y) + kernels[1](x, y)

        ours, independent = [], []
        for size in sizes:
            n, found = size * size, []
            for seed in range(32 // (size // 8)):
                points = gaussian_points(n, d, seed)
                choices = thinned(points, size, laplace, seed, both), standard(n, size)
                found.append([discrepancy(points, index, laplace) for index in choices])
            for values, column in zip((ours, independent), zip(*found, strict=True), strict=True):
                values.append(statistics.mean(column))
        slope, baseline = (float(np.polyfit(logs, np.log(values), 1)[0]) for values in (ours, independent))
        record(claim=f"109: Laplace kernel, KT+, d={d}: slope of log MMD in log n", measured=slope, baseline=baseline)
        assert slope <= bar
        assert -0.3 < baseline < -0.2
