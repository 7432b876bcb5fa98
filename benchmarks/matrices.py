"""Low-rank factors beside scikit-learn's, torch's and SciPy's; and whether the errors that are reported hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import scipy.linalg.interpolative
import torch

from benchmarks.harness import Table, interleaved, seconds
from nearly.linalg.factorize import randomized_svd

RANK = 50
SEEDS = 30
EPS = 1e-3  # asked of both in the second table


def run() -> list[Table]:
    """Measure on one thread."""
    torch.set_num_threads(1)
    return [speed(), honesty()]


def noisy_decay(rows: int, columns: int, rate: float, noise: float, seed: int) -> torch.Tensor:
    """Singular values `rate^i + noise u_i` with u_i uniform, random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(n, columns, dtype=torch.float64, generator=generator))[0] for n in (rows, columns)
    )
    tail = noise * torch.rand(columns, dtype=torch.float64, generator=generator)
    return (left * (rate ** torch.arange(columns) + tail)) @ right.T


def speed() -> Table:
    """Rank 50 of 20,000 x 1,000."""
    from sklearn.utils.extmath import randomized_svd as learn

    matrix = noisy_decay(20_000, 1000, 0.9, 1e-2, 0)
    truth = torch.linalg.eigvalsh(matrix.T @ matrix).flip(0).sqrt()
    array = matrix.numpy()

    def torch_svd(q: int, niter: int) -> tuple[torch.Tensor, ...]:
        u, s, v = torch.svd_lowrank(matrix, q, niter=niter)
        return u[:, :RANK], s[:RANK], v[:, :RANK].T

    def sklearn_svd(n_iter: int | str) -> tuple[torch.Tensor, ...]:
        found = learn(array, RANK, n_iter=n_iter, random_state=0)
        return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in found)

    calls: dict[str, Callable[[], tuple]] = {
        "Nearly": lambda: randomized_svd(matrix, RANK, generator=torch.Generator().manual_seed(0)),
        "torch svd_lowrank, default": lambda: torch_svd(RANK, 2),
        "torch svd_lowrank, q=60, niter=10": lambda: torch_svd(RANK + 10, 10),
        "scikit-learn randomized_svd, default": lambda: sklearn_svd("auto"),
        "scikit-learn randomized_svd, n_iter=15": lambda: sklearn_svd(15),
    }
    taken = interleaved(calls, repeats=5)
    table = Table(
        "Rank 50 of 20,000 x 1,000, noisy decaying spectrum",
        "Excess of the 2-norm left out over the least possible, worst relative error of the 50 singular values, the 2-norm "
        "reported over the true one, and seconds. torch draws from the global generator.",
        ["", "excess", "worst value", "reported / true", "time", "ratio"],
    )
    for name, call in calls.items():
        u, s, vt, *reported = call()
        rest = matrix - (u * s) @ vt
        norm = float(torch.linalg.eigvalsh(rest.T @ rest)[-1].sqrt())
        worst = float(((s - truth[:RANK]) / truth[:RANK]).abs().max())
        told = f"{reported[0] / norm:.6f}" if reported else "none"
        table.rows.append(
            [
                name,
                f"{norm / float(truth[RANK]) - 1:.1e}",
                f"{worst:.1e}",
                told,
                seconds(taken[name]),
                f"{taken['Nearly'] / taken[name]:.2f}",
            ]
        )
    return table


def honesty() -> Table:
    """Both are asked for a relative error; is it kept?"""
    ratios: dict[str, list[float]] = {"Nearly": [], "SciPy": []}
    ranks: dict[str, list[int]] = {"Nearly": [], "SciPy": []}
    bounds, spent = [], {"Nearly": 0.0, "SciPy": 0.0}
    for seed in range(SEEDS):
        matrix = noisy_decay(400, 300, 0.9, 1e-4, seed)
        start = time.perf_counter()
        found = randomized_svd(matrix, 300, tolerance=EPS, generator=torch.Generator().manual_seed(seed))
        spent["Nearly"] += time.perf_counter() - start
        rest = matrix - (found.left * found.values) @ found.right
        ratios["Nearly"].append(float(rest.norm() / matrix.norm()) / EPS)
        ranks["Nearly"].append(len(found.values))
        bounds.append(found.spectral / float(torch.linalg.matrix_norm(rest, 2)))
        start = time.perf_counter()
        u, s, v = scipy.linalg.interpolative.svd(matrix.numpy(), EPS, rng=seed)
        spent["SciPy"] += time.perf_counter() - start
        size = np.linalg.norm(matrix.numpy(), 2)
        ratios["SciPy"].append(float(np.linalg.norm(matrix.numpy() - (u * s) @ v.T, 2) / size) / EPS)
        ranks["SciPy"].append(len(s))
    table = Table(
        "A tolerance that is kept",
        f"400 x 300, {SEEDS} draws, asked for a relative error of {EPS:g}: Nearly in the Frobenius norm, "
        "scipy.linalg.interpolative.svd in the 2-norm, as each says. Error over the error asked.",
        ["", "kept", "error / asked", "rank", "time"],
        remarks=[f"The 2-norm that Nearly reports is {min(bounds):.6f} to {max(bounds):.6f} times the true one."],
    )
    for name, values in ratios.items():
        kept = sum(value <= 1 for value in values)
        table.rows.append(
            [
                name,
                f"{kept} of {SEEDS}",
                f"{min(values):.2f} to {max(values):.2f}",
                f"{min(ranks[name])} to {max(ranks[name])}",
                seconds(spent[name] / SEEDS),
            ]
        )
    return table
