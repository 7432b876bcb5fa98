"""Kernel thinning beside goodpoints' compiled Compress++; k-means++ seeds beside scikit-learn's."""

from __future__ import annotations

import math
import statistics
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Table, interleaved, seconds
from nearly.linalg.kernel_thinning import gaussian_kernel, kernel_thinning
from nearly.linalg.kmeans_seeding import kmeans_seeds

SEEDS = 9
OVERSAMPLING = 4  # g of Compress++, as in its paper's experiments


def run() -> list[Table]:
    """Measure on one thread."""
    torch.set_num_threads(1)
    return [thinning(), seeding()]


def thinning() -> Table:
    """Both thin the same points; errors are MMDs to all of them, with the kernel that both use."""
    from goodpoints.compress import compresspp_kt

    table = Table(
        "Kernel thinning",
        "n points to sqrt(n), Gaussian kernel exp(-||x - y||^2 / (4 d)), eight unit Gaussians on a circle; "
        f"MMD to the n points and seconds, medians of {SEEDS} data sets, three where n = 65,536.",
        ["points", "Nearly, MMD", "goodpoints, MMD", "random, MMD", "Nearly", "goodpoints", "ratio"],
    )
    for name, n, d in (
        ("Gaussian", 4096, 2),
        ("Gaussian", 4096, 10),
        ("mixture", 4096, 2),
        ("mixture", 4096, 10),
        ("Gaussian", 65536, 2),
    ):
        kernel, size = gaussian_kernel(math.sqrt(2 * d)), math.isqrt(n)
        errors: list[list[float]] = [[], [], []]
        sets = [points(name, n, d, seed) for seed in range(3 if n > 4096 else SEEDS)]

        def ours(x, seed, kernel=kernel, size=size):
            return kernel_thinning(x, size, kernel, generator=torch.Generator().manual_seed(seed))

        def peer(x, seed, d=d):
            found = compresspp_kt(x.numpy(), b"gaussian", k_params=np.array([4.0 * d]), g=OVERSAMPLING, seed=seed)
            return torch.from_numpy(found)

        for seed, x in enumerate(sets):
            everything = sum(float(kernel(x, part).sum()) for part in x.split(1024)) / n**2
            random = torch.randint(n, (size,), generator=torch.Generator().manual_seed(seed))
            for values, index in zip(errors, (ours(x, seed), peer(x, seed), random), strict=True):
                y = x[index]
                values.append(
                    math.sqrt(max(0.0, everything - 2 * float(kernel(y, x).mean()) + float(kernel(y, y).mean())))
                )
        mine, theirs, chance = (statistics.median(values) for values in errors)
        taken = interleaved(
            {"ours": partial(ours, sets[0], 0), "peer": partial(peer, sets[0], 0)}, repeats=3 if n > 4096 else 9
        )
        table.rows.append(
            [
                f"{name}, {n:,} in {d}-D",
                f"{mine:.2g}",
                f"{theirs:.2g}",
                f"{chance:.2g}",
                seconds(taken["ours"]),
                seconds(taken["peer"]),
                f"{taken['ours'] / taken['peer']:.2f}",
            ]
        )
    return table


def seeding() -> Table:
    """Both draw from the law of k-means++, without local trials; the k-means costs of ten draws must agree to 3%."""
    from sklearn.cluster import kmeans_plusplus

    n, d, k, draws = 100_000, 10, 200, 10
    generator = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(k, d, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
    x = centers[torch.randint(k, (n,), generator=generator)] + noise
    array = x.numpy()

    def ours(seed: int) -> torch.Tensor:
        return kmeans_seeds(x, k, generator=torch.Generator().manual_seed(seed)).indices

    def peer(seed: int) -> torch.Tensor:
        return torch.from_numpy(kmeans_plusplus(array, k, random_state=seed, n_local_trials=1)[1])

    def cost(seeds: torch.Tensor) -> float:
        return sum(float(torch.cdist(part, x[seeds]).amin(dim=1).square().sum()) for part in x.split(20_000))

    mine, theirs = (statistics.mean(cost(draw(seed)) for seed in range(draws)) for draw in (ours, peer))
    assert abs(mine / theirs - 1) < 0.03, f"the two draw other seeds: costs {mine:.4g} and {theirs:.4g}"
    taken = interleaved({"ours": partial(ours, 0), "peer": partial(peer, 0)}, repeats=9)
    return Table(
        "k-means++ seeds",
        f"{k} seeds of {n:,} points in {d} dimensions, in {k} Gaussian clusters; mean k-means cost of {draws} draws.",
        ["", "Nearly", "scikit-learn kmeans_plusplus", "ratio"],
        [
            ["cost", f"{mine:.4g}", f"{theirs:.4g}", f"{mine / theirs:.3f}"],
            ["time", seconds(taken["ours"]), seconds(taken["peer"]), f"{taken['ours'] / taken['peer']:.3f}"],
        ],
    )


def points(name: str, n: int, d: int, seed: int) -> torch.Tensor:
    """Standard Gaussian points, or a mixture's, whose centers lie on a circle in the first two coordinates."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    if name == "mixture":
        angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
        x[:, :2] += 8 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return x
