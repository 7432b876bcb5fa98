"""Linear algebra beside SciPy's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import cg
from threadpoolctl import threadpool_limits

from benchmarks.harness import Table, interleaved, once, seconds
from nearly.linalg import sketch, solve
from nearly.linalg.factorize import UpdatedSVD, square_root
from nearly.linalg.orthogonalize import orthogonality, polar_factor

TOLERANCE = 1e-8


def run() -> list[Table]:
    """Measure on one thread, and what shares out cores on all of them too."""
    alone = [polar_factors, conjugate_gradients, growing_svd, sketched_least_squares, square_roots]
    shared = [polar_factors, conjugate_gradients, square_roots]
    tables = []
    for threads, measures in {1: alone, torch.get_num_threads(): shared}.items():
        torch.set_num_threads(threads)
        with threadpool_limits(threads, user_api="blas"):  # SciPy's
            found = [measure() for measure in measures]
        for table in found:
            table.title += f", {threads} threads" if threads > 1 else ""
        tables += found
    return tables


def polar_factors() -> Table:
    """One large matrix, and a batch of small ones."""
    generator = torch.Generator().manual_seed(0)
    table = Table(
        "Polar factors of Gaussian matrices",
        "The largest orthogonality error in the batch, `||Q^T Q - I||_F / sqrt(n)`, seconds, and time over that of the SVD in the "
        "same precision. The published quintic is five steps with (3.4445, -4.7750, 2.0315).",
        ["matrices", "", "error", "time", "over SVD's"],
    )
    for shape in ((1024, 1024), (64, 256, 256)):
        for dtype in (torch.float32, torch.float64):
            a = torch.randn(*shape, generator=generator, dtype=dtype)
            calls: dict[str, Callable[[], torch.Tensor]] = {
                "torch SVD": lambda a=a: torch.matmul(*torch.linalg.svd(a, full_matrices=False)[::2]),  # type: ignore[misc]
                "Nearly, 1e-5": lambda a=a: polar_factor(a, tolerance=1e-5).value,  # type: ignore[misc]
            }
            if dtype == torch.float32:
                half = a.bfloat16()
                calls |= {
                    "quintic, float32": lambda a=a: _quintic(a),  # type: ignore[misc]
                    "quintic, bfloat16": lambda a=a: _quintic(a.bfloat16()).float(),  # type: ignore[misc]
                    "Nearly, 0.36": lambda a=a: polar_factor(a, tolerance=0.36).value,  # type: ignore[misc]
                    "one product, bfloat16": lambda a=half: a @ a,  # type: ignore[misc]
                }
            taken = interleaved(calls, repeats=5)
            product = taken.pop("one product, bfloat16", None)
            for name, spent in taken.items():
                error = float(orthogonality(calls[name]().double()).max())
                kind = f"{' x '.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
                table.rows.append([kind, name, f"{error:.1e}", seconds(spent), f"{spent / taken['torch SVD']:.2f}"])
            if product is not None:
                share = 10 * product / taken["Nearly, 0.36"]
                table.remarks.append(
                    f"{' x '.join(map(str, shape))}: ten whole products take {share:.0%} of the time of the rough row, which makes "
                    "large symmetric ones from blocks."
                )
    return table


def _quintic(a: torch.Tensor) -> torch.Tensor:
    """The five steps as they are published, on the smaller side."""
    a = a / a.flatten(-2).norm(dim=-1)[..., None, None]
    for _ in range(5):
        gram = a @ a.mT
        a = 3.4445 * a + (-4.7750 * gram + 2.0315 * gram @ gram) @ a
    return a


def conjugate_gradients() -> Table:
    """Many systems at once, and one after the other."""
    generator = torch.Generator().manual_seed(0)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def dense(count: int, side: int, condition: float) -> torch.Tensor:
        basis = torch.linalg.qr(gaussian(count, side, side))[0]
        return (basis * condition ** torch.linspace(0, 1, side, dtype=torch.float64)) @ basis.mT

    def poisson(cells: int) -> Any:
        line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(cells, cells))
        return scipy.sparse.csr_matrix(scipy.sparse.kronsum(line, line))

    cases = {
        "1,000 dense 20 x 20, one each": (dense(1000, 20, 1e2), gaussian(1000, 20, 1)),
        "64 dense 200 x 200, one each": (dense(64, 200, 1e2), gaussian(64, 200, 1)),
        "64 dense 200 x 200, 16 each": (dense(64, 200, 1e2), gaussian(64, 200, 16)),
        "1 dense 1,000 x 1,000, 64": (dense(1, 1000, 1e2)[0], gaussian(1000, 64)),
        "five-point grid of 32 x 32, 256": (poisson(32), gaussian(32**2, 256)),
        "five-point grid of 64 x 64, 256": (poisson(64), gaussian(64**2, 256)),
        "five-point grid of 45 x 45, one": (poisson(45), gaussian(45**2, 1)),
        "five-point grid of 150 x 150, one": (poisson(150), gaussian(150**2, 1)),
        "five-point grid of 400 x 400, one": (poisson(400), gaussian(400**2, 1)),
    }
    table = Table(
        "Conjugate gradients, many right-hand sides",
        f"Systems and how many right-hand sides; a true relative residual of {TOLERANCE:g} asked of both. SciPy's `cg` is called "
        "on one right-hand side after the other. Dense systems are preconditioned by their Cholesky factors in single precision; "
        "alone: the iteration without (`block=False`).",
        ["", "worst residual", "SciPy's", "steps", "time", "alone", "SciPy's", "times as fast", "alone"],
        remarks=[
            "Alone, one right-hand side per large dense matrix is the memory's to decide: SciPy keeps one matrix in cache until it "
            "is done, the batch streams all of them at each step."
        ],
    )
    for name, (matrix, right) in cases.items():
        calls: dict[str, Callable[[], torch.Tensor]] = {
            "Nearly": lambda a=matrix, b=right: solve.conjugate_gradients(a, b, tolerance=TOLERANCE).value,  # type: ignore[misc]
            "alone": lambda a=matrix, b=right: solve.conjugate_gradients(a, b, tolerance=TOLERANCE, block=False).value,  # type: ignore[misc]
            "SciPy": lambda a=matrix, b=right: _one_by_one(a, b),  # type: ignore[misc]
        }
        worst = []
        for call in calls.values():
            rest = right - torch.as_tensor(matrix @ call().numpy()) if matrix.ndim == 2 else right - matrix @ call()
            worst.append(float((rest.norm(dim=-2) / right.norm(dim=-2)).max()))
            assert worst[-1] <= 1.01 * TOLERANCE, (name, worst)
        taken = interleaved(calls, repeats=3)
        steps = int(solve.conjugate_gradients(matrix, right, tolerance=TOLERANCE).iterations.max())
        times = [seconds(taken[key]) for key in calls]
        ratios = [f"{taken['SciPy'] / taken[key]:.1f}" for key in ("Nearly", "alone")]
        table.rows.append([name, f"{worst[0]:.1e}", f"{worst[-1]:.1e}", str(steps), *times, *ratios])
    return table


def _one_by_one(matrix: Any, right: torch.Tensor) -> torch.Tensor:
    many = right if right.ndim == 3 else right[None]
    systems = matrix.numpy() if isinstance(matrix, torch.Tensor) else matrix
    found = torch.empty_like(many)
    for i in range(many.shape[0]):
        for j in range(many.shape[2]):
            system = systems[i] if right.ndim == 3 else systems
            found[i, :, j] = torch.from_numpy(cg(system, many[i, :, j].contiguous().numpy(), rtol=TOLERANCE)[0])
    return found.reshape(right.shape)


def growing_svd() -> Table:
    """A truncated SVD kept up to date, and computed anew after every change."""
    from scipy.sparse.linalg import svds
    from sklearn.utils.extmath import randomized_svd

    rank, size, first, last = 32, 100, 10_000, 20_000
    matrix = topic_counts(last, 5_000)
    svd = UpdatedSVD(matrix[:first], rank)
    values: dict[str, np.ndarray] = {}
    taken: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], np.ndarray]) -> None:
        spent, found = once(call)
        taken.setdefault(name, []).append(spent)
        values[name] = np.asarray(found)

    def update(rows: scipy.sparse.csr_matrix) -> np.ndarray:
        svd.add_rows(rows)
        return svd.values.numpy()

    for start in range(first, last, size):
        grown, rows = matrix[: start + size], matrix[start : start + size]
        timed("Nearly UpdatedSVD.add_rows", lambda: update(rows))  # noqa: B023 - called here
        timed("scipy svds, anew", lambda: np.sort(svds(grown, rank)[1])[::-1])  # noqa: B023
        timed("scikit-learn randomized_svd, anew", lambda: randomized_svd(grown, rank, random_state=0)[1])  # noqa: B023
    truth = values["scipy svds, anew"]
    ours = statistics.median(taken["Nearly UpdatedSVD.add_rows"])
    table = Table(
        "Truncated SVD of a growing sparse matrix",
        f"Rank {rank}; a {first:,} x 5,000 matrix of topic counts (about 45 nonzeros in a row, 48 topics) gains {size} rows a "
        f"hundred times. Norm of the {rank} values over the best possible, their mean and largest relative error after the last "
        "update, median time of an update.",
        ["", "norm kept", "mean error", "largest error", "time", "ratio"],
        remarks=["All of the error is in values close to the last one kept: updating cuts off all others every time."],
    )
    for name, found in values.items():
        error = np.abs(found / truth - 1)
        kept = np.linalg.norm(found) / np.linalg.norm(truth)
        spent = statistics.median(taken[name])
        figures = [f"{kept:.4f}", f"{error.mean():.1e}", f"{error.max():.1e}", seconds(spent), f"{spent / ours:.1f}"]
        table.rows.append([name, *figures])
    return table


def topic_counts(rows: int, columns: int) -> scipy.sparse.csr_matrix:
    """Counts of 50 words in each row: four fifths of them from its topic's 150, the others any; 48 topics of falling shares."""
    draw = np.random.default_rng(0)
    topics, words, each = 48, 150, 50
    share = np.cumsum(1 / np.arange(1, topics + 1) ** 0.7)
    topic = np.searchsorted(share / share[-1], draw.random(rows))
    pools = np.stack([draw.permutation(columns)[:words] for _ in range(topics)])
    chosen = pools[topic[:, None], draw.integers(0, words, (rows, each))]
    anything = draw.random((rows, each)) < 0.2
    chosen[anything] = draw.integers(0, columns, anything.sum())
    places = np.repeat(np.arange(rows), each), chosen.ravel()
    return scipy.sparse.coo_matrix((np.ones(rows * each), places), shape=(rows, columns)).tocsr()


def sketched_least_squares() -> Table:
    """Least squares with many more rows than columns, roughly and to ten digits, well and badly conditioned."""
    table = Table(
        "Least squares from sketches",
        "Gaussian noise as large as the signal. Excess of the residual's norm over the least, `||A (x - x*)|| / ||b||` with x* "
        "from `torch.linalg.lstsq`, time, and time over that of lstsq. The sketch alone is CountSketch of 64 rows per column; the "
        "solver uses its own, to a tolerance of 1e-10.",
        ["rows x columns", "condition", "", "excess", "distance", "time", "over lstsq's"],
        remarks=[
            "The normal equations are the fastest to full accuracy for 200 columns as long as A is well conditioned; with a "
            "condition of 1e9 their matrix is not positive definite any more, while the preconditioned solver does not change."
        ],
    )
    for n, d, condition in ((200_000, 200, 1e0), (200_000, 200, 1e9)):
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(n, d, dtype=torch.float64, generator=generator)
        if condition > 1:
            a = (a * condition ** torch.linspace(0, -1, d, dtype=torch.float64)) @ torch.linalg.qr(a[:d])[0]
        noise = torch.randn(n, dtype=torch.float64, generator=generator)
        signal = a @ torch.randn(d, dtype=torch.float64, generator=generator)
        b = signal * float(noise.norm() / signal.norm()) + noise
        calls: dict[str, Callable[[], torch.Tensor]] = {
            "torch lstsq": lambda a=a, b=b: torch.linalg.lstsq(a, b[:, None]).solution[:, 0],  # type: ignore[misc]
            "NumPy lstsq": lambda a=a, b=b: torch.from_numpy(np.linalg.lstsq(a.numpy(), b.numpy())[0]),  # type: ignore[misc]
            "normal equations": lambda a=a, b=b: _normal_equations(a, b),  # type: ignore[misc]
            "Nearly, the sketch alone": lambda a=a, b=b: sketch.sketch_and_solve(  # type: ignore[misc]
                a, b, sketch.sparse_signs(64 * a.shape[1], len(a), nonzeros=1)
            ),
            "Nearly, 1e-10": lambda a=a, b=b: sketch.sketched_least_squares(a, b).value,  # type: ignore[misc]
        }
        size, kind = f"{n:,} x {d}", f"{condition:.0e}"
        best = calls["torch lstsq"]()
        least = float((a @ best - b).norm())
        found = {}
        for name, call in list(calls.items()):
            try:
                x = call()
            except torch.linalg.LinAlgError:
                table.rows.append([size, kind, name, "fails", "", "", ""])
                del calls[name]
                continue
            found[name] = float((a @ x - b).norm()) / least - 1, float((a @ (x - best)).norm() / b.norm())
        assert found["Nearly, the sketch alone"][0] <= 0.01, found
        assert found["Nearly, 1e-10"][1] <= 1e-9 * max(1.0, condition * 1e-7), found
        taken = interleaved(calls, repeats=3)
        for name, spent in taken.items():
            excess, distance = (f"{value:.1e}" for value in found[name])
            ratio = f"{spent / taken['torch lstsq']:.2f}"
            table.rows.append([size, kind, name, excess, distance, seconds(spent), ratio])
    return table


def _normal_equations(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_solve((a.T @ b)[:, None], torch.linalg.cholesky(a.T @ a))[:, 0]


def square_roots() -> Table:
    """Batches of positive definite matrices, by products and by eigenvectors, with and without derivatives."""
    generator = torch.Generator().manual_seed(0)
    table = Table(
        "Square roots of positive definite matrices",
        "float32, condition 100. The largest error of the batch and the gradient's, relative in the Frobenius norm, against "
        "eigenvectors in float64; seconds of the root, and with the gradient of a linear functional. Newton-Schulz: 12 steps.",
        ["matrices", "", "error", "gradient's", "root", "over eigh's", "and gradient", "over eigh's"],
        remarks=[
            "On one core an eigendecomposition of a small matrix costs as much as 50 products, and its derivative four: with a "
            "gradient, products cannot win at this accuracy. Several cores share products, and eigendecompositions one by one.",
        ],
    )
    for count, side in ((256, 32), (64, 128)):
        basis = torch.linalg.qr(torch.randn(count, side, side, generator=generator, dtype=torch.float64))[0]
        matrix = ((basis * 100 ** torch.linspace(0, 1, side, dtype=torch.float64)) @ basis.mT).float()
        matrix = (matrix + matrix.mT) / 2
        weights = torch.randn(count, side, side, generator=generator)
        weights += weights.mT.clone()
        roots: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "torch eigh": _root_by_eigenvectors,
            "Newton-Schulz": _root_by_newton_schulz,
            "Nearly auto": lambda a: square_root(a).value,
            "Nearly minimax": lambda a: square_root(a, route="minimax").value,
            "Nearly pade": lambda a: square_root(a, route="pade").value,
        }
        truth, slope = _with_gradient(_root_by_eigenvectors, matrix.double(), weights)
        alone = {name: lambda root=root, a=matrix: root(a) for name, root in roots.items()}
        both = {name: lambda root=root, a=matrix, w=weights: _with_gradient(root, a, w) for name, root in roots.items()}
        taken = interleaved(alone | {f"{name}, gradient": call for name, call in both.items()}, repeats=7)
        for name, call in both.items():
            found, gradient = call()
            error = float(((found - truth).flatten(-2).norm(dim=-1) / truth.flatten(-2).norm(dim=-1)).max())
            gap = float((gradient - slope).norm() / slope.norm())
            row = [f"{count} x {side} x {side}", name, f"{error:.1e}", f"{gap:.1e}"]
            for suffix in ("", ", gradient"):
                spent = taken[name + suffix]
                row += [seconds(spent), f"{spent / taken['torch eigh' + suffix]:.2f}"]
            table.rows.append(row)
    return table


def _with_gradient(
    root: Callable[[torch.Tensor], torch.Tensor], matrix: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    given = matrix.clone().requires_grad_()
    found = root(given)
    (gradient,) = torch.autograd.grad((found * weights).sum(), given)
    return found.detach(), (gradient + gradient.mT) / 2


def _root_by_eigenvectors(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()[..., None, :]) @ vectors.mT


def _root_by_newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    size = matrix.flatten(-2).norm(dim=-1)[:, None, None]
    y, z = matrix / size, torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for _ in range(12):
        t = 1.5 * torch.eye(matrix.shape[-1], dtype=matrix.dtype) - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    return y * size.sqrt()
