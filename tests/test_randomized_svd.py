"""The randomized decomposition on both of its routes, and its bounds against the truth."""

import math
import sys

import pytest
import scipy.sparse
import torch

from nearly import Matrix
from nearly.core.errors import BadInput
from nearly.linalg.factorize import randomized_svd
from nearly.matrices import RandomizedSVD

MODULE = sys.modules["nearly.linalg.factorize.randomized_svd"]  # its package gives the name to the function


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decaying(rows: int, columns: int, rate: float, noise: float = 0.0, dtype=torch.float64) -> torch.Tensor:
    side = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(n, side, dtype=torch.float64, generator=seeded(n)))[0] for n in (rows, columns)
    )
    return ((left * (rate ** torch.arange(side) + noise)) @ right.T).to(dtype)


def check(matrix: torch.Tensor, found, slack: float) -> None:
    rest = matrix.double() - ((found.left * found.values) @ found.right).double()
    norms = torch.linalg.svdvals(rest)
    eps = torch.finfo(matrix.dtype).eps
    assert float(norms[0]) <= found.spectral <= slack * float(norms[0]) + 1e3 * eps
    assert float(rest.norm()) <= found.frobenius
    eye = torch.eye(len(found.values), dtype=matrix.dtype)
    for product in (found.left.T @ found.left, found.right @ found.right.T):
        torch.testing.assert_close(product, eye, atol=1e3 * eps, rtol=0)
    assert float((found.left.double().T @ rest).norm()) <= 1e3 * eps


@pytest.mark.parametrize("shape", [(300, 80), (80, 300), (90, 90)])
@pytest.mark.parametrize(("rate", "noise"), [(0.8, 0.0), (0.8, 1e-2), (0.3, 0.0), (0.99, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_hold_and_are_sharp(shape, rate, noise, dtype):
    matrix = decaying(*shape, rate, noise, dtype)
    truth = torch.linalg.svdvals(matrix)
    for rank in (1, 7, 30):
        found = randomized_svd(matrix, rank, generator=seeded())
        check(matrix, found, 1.3)
        scale = 1e3 * torch.finfo(dtype).eps
        assert bool((found.values <= truth[:rank] + scale).all())
        assert found.spectral <= 1.5 * float(truth[rank]) + scale


@pytest.mark.parametrize("shape", [(600, 200), (200, 600)])
def test_large_sides_take_the_krylov_route(monkeypatch, shape):
    monkeypatch.setattr(MODULE, "GRAM", 0)
    matrix = decaying(*shape, 0.8)
    check(matrix, randomized_svd(matrix, 20, generator=seeded()), 1.01)
    monkeypatch.setattr(MODULE, "OPERATIONS", 0)
    found = randomized_svd(matrix, 20, generator=seeded())
    best = torch.linalg.svdvals(matrix)
    check(matrix, found, math.inf)
    # Without any Gram matrix the 2-norm is bounded by the Frobenius norm.
    assert found.spectral == found.frobenius == pytest.approx(float(best[20:].norm()), rel=1e-3)
    torch.testing.assert_close(found.values, best[:20], rtol=1e-3, atol=0)
    steep = randomized_svd(decaying(*shape, 0.3), 20, generator=seeded())
    assert steep.frobenius < 3 * 0.3**20 + 1e-14


def test_sparse_is_dense_on_both_routes():
    matrix = scipy.sparse.random(400, 120, 0.05, rng=0, format="csr")
    for rank in (5, 110):
        dense = randomized_svd(torch.from_numpy(matrix.toarray()), rank, generator=seeded())
        sparse = randomized_svd(matrix, rank, generator=seeded())
        torch.testing.assert_close(sparse.values, dense.values)
        assert sparse.spectral == pytest.approx(dense.spectral, rel=1e-6)
        check(torch.from_numpy(matrix.toarray()), sparse, 1.3)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-5, 1e-9, 1e-12])
@pytest.mark.parametrize("gram", [0, 2048])
def test_rank_follows_the_tolerance(monkeypatch, tolerance, gram):
    monkeypatch.setattr(MODULE, "GRAM", gram)
    matrix = decaying(400, 150, 0.7)
    found = randomized_svd(matrix, 150, tolerance=tolerance, generator=seeded())
    tails = torch.linalg.svdvals(matrix).square().flip(0).cumsum(0).flip(0).sqrt() / matrix.norm()
    least = int((tails > tolerance).sum())
    assert least <= len(found.values) <= least + 1
    rest = matrix - (found.left * found.values) @ found.right
    assert float(rest.norm()) <= tolerance * float(matrix.norm())


@pytest.mark.parametrize("gram", [0, 2048])
def test_a_tolerance_is_kept_in_every_draw(monkeypatch, gram):
    monkeypatch.setattr(MODULE, "GRAM", gram)
    for seed in range(30):
        matrix = decaying(200, 150, 0.9, 1e-4 * (1 + seed))
        found = randomized_svd(matrix, 150, tolerance=1e-2, generator=seeded(seed))
        rest = matrix - (found.left * found.values) @ found.right
        assert float(rest.norm()) <= min(found.frobenius, 1e-2 * float(matrix.norm()))
        assert float(torch.linalg.matrix_norm(rest, 2)) <= found.spectral


def test_method_bounds_hold_for_a_wide_matrix_at_a_tolerance():
    target = Matrix(decaying(60, 400, 0.7))
    surrogate = RandomizedSVD(rank=60, tolerance=1e-3).fit(target)
    inputs = target.sample(500, 1)
    errors = target.error(target(inputs), surrogate(inputs))
    assert bool((errors <= surrogate.bound(inputs)).all())
    assert float(errors.square().mean().sqrt()) < 1.5e-3
    assert surrogate.model.left.shape[1] < 30


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("rank", {"rank": 0}),
        ("tolerance", {"tolerance": 0.0}),
        ("tolerance", {"tolerance": math.nan}),
        ("matrix", {"matrix": torch.zeros(3)}),
        ("matrix", {"matrix": scipy.sparse.identity(3, dtype=int)}),
    ],
)
def test_bad_input_is_refused_by_name(argument, change):
    with pytest.raises(BadInput) as caught:
        randomized_svd(**({"matrix": torch.eye(3), "rank": 1, "generator": seeded()} | change))
    assert caught.value.argument == argument
