"""What methods are made from, against naive transcriptions: features, components, regressions, sparse solves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch

from nearly.fields._projection import Rows
from nearly.fields._reduced_model import solve_reduced
from nearly.linalg.batched_lu import LARGEST
from nearly.linalg.components import principal_components
from nearly.linalg.features import MOST_AXES, WIDE, apply_features, fit_features
from nearly.linalg.kernel_ridge import LENGTHS, RIDGES, apply_kernel_ridge, fit_kernel_ridge, matern
from nearly.linalg.legendre import count_terms, fit_polynomials, leave_one_out_fit, legendre, total_degree
from nearly.linalg.orthogonalize import extend_orthonormal, sparse_times
from nearly.linalg.sparse import SparseFamily

EPS = float(np.finfo(np.float64).eps)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- features


def test_vectors_are_scaled_coordinate_by_coordinate() -> None:
    """Three coordinates: a plain one, a positive one that spreads over more than a factor 10, and a constant."""
    x = torch.stack([4 * uniform(50) - 7, 10 ** (6 * uniform(50, seed=1) - 3), torch.full((50,), 2.5).double()], dim=1)
    fitted = fit_features(x)
    assert fitted["feature_log"].tolist() == [False, True, False]
    scaled = apply_features(x, **fitted)
    for column, values in enumerate([x[:, 0], x[:, 1].log()]):
        low, high = values.min(), values.max()
        assert torch.allclose(scaled[:, column], (2 * values - low - high) / (high - low), rtol=1e-12, atol=1e-12)
    assert bool((scaled[:, 2] == 0).all())
    # Out of the fitted range, and not positive where logarithms are taken: still finite.
    assert bool(torch.isfinite(apply_features(torch.tensor([[9.0, -1.0, 0.0]]).double(), **fitted)).all())


def test_spread_of_ten_is_not_yet_logarithmic_and_signs_never_are() -> None:
    # The middle row makes the first column even in logarithms.
    x = torch.tensor([[1.0, -1.0, 0.0], [3.15, 1e3, 1e3], [9.9, 1e6, 1e6]], dtype=torch.float64)
    assert fit_features(x)["feature_log"].tolist() == []
    x[2, 0] = 10.1
    assert fit_features(x)["feature_log"].tolist() == [True, False, False]
    # Even as it stands, however wide: uniform draws that happen to come close to zero stay as they are.
    uniform = torch.linspace(1e-4, 1, 101, dtype=torch.float64)[:, None]
    assert fit_features(uniform)["feature_log"].tolist() == []


def test_wide_inputs_are_reduced_to_the_axes_that_hold_their_variance() -> None:
    """60 samples of 5 x 8 fields of rank 3 and small noise: the kept axes are the leading singular vectors."""
    g = normal(3, 40, seed=1)
    x = (normal(60, 3) * torch.tensor([4.0, 2.0, 1.0]).double()) @ g + 1e-3 * normal(60, 40, seed=2)
    fitted = fit_features(x.reshape(60, 5, 8))
    assert x.shape[1] > WIDE
    centered = x - x.mean(dim=0)
    _, values, axes = torch.linalg.svd(centered, full_matrices=False)
    share = values.square().cumsum(0) / values.square().sum()
    kept = int((share < 0.999).sum()) + 1
    assert kept == 3
    assert fitted["feature_axes"].shape == (40, kept)
    found = apply_features(x.reshape(60, 5, 8), **fitted)
    naive = centered @ axes[:kept].T / (values[0] / math.sqrt(60))
    assert torch.allclose(found.abs(), naive.abs(), rtol=1e-8, atol=1e-10)
    assert float(found[:, 0].square().mean()) == pytest.approx(1.0)
    assert fit_features(normal(200, 150))["feature_axes"].shape[1] == MOST_AXES
    # A field is taken in logarithms as a whole, or not at all.
    mixed = 10 ** (4 * uniform(30, 40))
    assert bool(fit_features(mixed)["feature_log"].all())
    mixed[3, 7] = 0.0
    assert not fit_features(mixed)["feature_log"].numel()


def test_features_of_whole_numbers_and_of_equal_rows() -> None:
    assert apply_features(torch.tensor([[0], [4]]), **fit_features(torch.tensor([[0], [4]]))).tolist() == [
        [-1.0],
        [1.0],
    ]
    same = torch.ones(5, 40, dtype=torch.float64)
    assert bool(torch.isfinite(apply_features(same, **fit_features(same))).all())


# --- principal components


def products(size: int) -> dict[str, Any]:
    half = normal(size, size, seed=7)
    return {
        "none": None,
        "weights": uniform(size, seed=8) + 0.1,
        "matrix": half @ half.T + size * torch.eye(size).double(),
    }


@pytest.mark.parametrize("kind", ["none", "weights", "matrix"])
@pytest.mark.parametrize("center", [True, False])
def test_components_are_optimal_in_their_product(kind: str, center: bool) -> None:
    """Against the SVD of `rows R^T`, R^T R the product: same singular values, same projection, and no better basis."""
    rows = (normal(15, 15) * 10.0 ** -torch.arange(15.0).double()) @ normal(15, 25, seed=2) + 3
    product = products(25)[kind]
    dense = torch.eye(25).double() if product is None else torch.diag(product) if product.ndim == 1 else product
    root = torch.linalg.cholesky(dense).T
    mean, components, coordinates, values = principal_components(rows, product=product, rank=4, center=center)
    assert torch.allclose(mean, rows.mean(dim=0) if center else torch.zeros(25).double())
    assert torch.allclose(components @ dense @ components.T, torch.eye(4).double(), atol=1e-9)
    _, wanted, right = torch.linalg.svd((rows - mean) @ root.T, full_matrices=False)
    assert torch.allclose(values, wanted[:4], rtol=1e-8)
    projector = components.T @ components @ dense
    naive = torch.linalg.solve(root, right[:4].T @ right[:4] @ root)
    assert torch.allclose(projector, naive, atol=1e-6)
    missed = ((rows - mean - coordinates @ components) @ root.T).square().sum()
    assert float(missed) == pytest.approx(float(wanted[4:].square().sum()), rel=1e-6)


def test_components_below_the_tolerance_are_left_out() -> None:
    rows = torch.diag(10.0 ** -torch.arange(12.0).double())
    assert len(principal_components(rows, tolerance=1.5e-4, center=False)[3]) == 4
    assert len(principal_components(rows, tolerance=0.0, center=False)[3]) <= 9  # the Gram matrix has squared them
    assert len(principal_components(torch.ones(5, 4).double())[3]) == 0
    _, components, coordinates, values = principal_components(normal(6, 1) @ normal(1, 30, seed=1), center=False)
    assert components.shape == (1, 30)
    assert coordinates.shape == (6, 1)
    assert values.shape == (1,)


# --- kernel ridge


def test_matern_is_the_kernel_of_smoothness_five_halves() -> None:
    """Against the definition with the modified Bessel function K_5/2."""
    from scipy.special import gamma, kv

    r = np.linspace(1e-3, 5, 40)
    s = math.sqrt(5) * r
    wanted = 2**-1.5 / gamma(2.5) * s**2.5 * kv(2.5, s)
    assert np.allclose(matern(torch.from_numpy(r)).numpy(), wanted, rtol=1e-12)
    assert float(matern(torch.zeros(())).double()) == 1.0


@pytest.mark.parametrize("outputs", [1, 3])
def test_leave_one_out_of_the_kernel_is_that_of_leaving_out(outputs: int) -> None:
    """Every length and ridge of the grid, fitted n times without one row; the least error is the one that is chosen."""
    x = normal(12, 2)
    y = torch.stack([(k + 1) * (x @ normal(2, seed=5 + k)).sin() for k in range(outputs)], dim=1)
    weights, length, missed = fit_kernel_ridge(x, y)
    distance = torch.cdist(x, x)
    middle = distance[distance > 0].median()
    best = (math.inf, 0.0, 0.0)
    for factor, ridge in itertools.product(LENGTHS, RIDGES):
        if ridge < EPS * len(x):
            continue
        total = 0.0
        for out in range(len(x)):
            keep = [i for i in range(len(x)) if i != out]
            inner = matern(distance[keep][:, keep] / (factor * middle)) + ridge * torch.eye(len(keep)).double()
            prediction = matern(distance[out, keep] / (factor * middle)) @ torch.linalg.solve(inner, y[keep])
            total += float((prediction - y[out]).square().sum())
        best = min(best, (math.sqrt(total / len(x)), factor, ridge))
    assert float(missed) == pytest.approx(best[0], rel=1e-6)
    assert float(length) == pytest.approx(best[1] * float(middle))
    kernel = matern(distance / length) + best[2] * torch.eye(len(x)).double()
    assert torch.allclose(weights, torch.linalg.solve(kernel, y), rtol=1e-6, atol=1e-8)
    fresh = normal(5, 2, seed=9)
    by_hand = matern((fresh[:, None] - x).norm(dim=2) / length) @ weights
    assert torch.allclose(apply_kernel_ridge(fresh, x, weights, length), by_hand, rtol=1e-12)


def test_kernel_ridge_takes_repeated_rows_and_float32() -> None:
    x = torch.cat([normal(10, 2), normal(10, 2)])
    weights, length, missed = fit_kernel_ridge(x, x[:, :1])
    assert bool(torch.isfinite(weights).all())
    same = fit_kernel_ridge(torch.zeros(6, 2).double(), normal(6, 1))
    assert all(bool(torch.isfinite(part).all()) for part in same)
    single = fit_kernel_ridge(normal(30, 2).float(), normal(30, 2)[:, :1].float())
    assert single[0].dtype == torch.float32
    assert float(single[2]) < 0.3
    assert float(missed) < 0.3
    assert float(length) > 0


# --- Legendre polynomials


@pytest.mark.parametrize(("dimension", "degree"), [(1, 12), (2, 6), (3, 4)])
def test_legendre_products_are_orthonormal(dimension: int, degree: int) -> None:
    """By Gauss quadrature that is exact for their products, under the uniform measure on the cube."""
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    grid = torch.tensor(list(itertools.product(nodes, repeat=dimension)))
    measure = torch.tensor([math.prod(w) for w in itertools.product(weights / 2, repeat=dimension)])
    exponents = total_degree(dimension, degree)
    values = legendre(grid, exponents)
    assert len(exponents) == count_terms(dimension, degree) == math.comb(dimension + degree, degree)
    assert torch.allclose(values.T @ (measure[:, None] * values), torch.eye(len(exponents)).double(), atol=1e-12)
    wanted = [
        math.prod(np.polynomial.legendre.Legendre.basis(k)(0.3) * math.sqrt(2 * k + 1) for k in row)
        for row in exponents.tolist()
    ]
    assert torch.allclose(
        legendre(torch.full((1, dimension), 0.3).double(), exponents)[0], torch.tensor(wanted).double()
    )


@pytest.mark.parametrize(("dimension", "degree"), [(1, 5), (2, 4), (4, 3)])
def test_total_degrees_are_all_and_in_order(dimension: int, degree: int) -> None:
    rows = total_degree(dimension, degree).tolist()
    every = [list(row) for row in itertools.product(range(degree + 1), repeat=dimension) if sum(row) <= degree]
    assert sorted(rows) == sorted(every)
    assert [sum(row) for row in rows] == sorted(sum(row) for row in rows)


def test_leave_one_out_of_least_squares_is_that_of_leaving_out() -> None:
    design, outputs = normal(20, 6), normal(20, 3, seed=1)
    coefficients, missed = leave_one_out_fit(design, outputs)
    assert torch.allclose(coefficients, torch.linalg.lstsq(design, outputs).solution, rtol=1e-10)
    squares = torch.zeros(3).double()
    for out in range(20):
        keep = [i for i in range(20) if i != out]
        squares += (design[out] @ torch.linalg.lstsq(design[keep], outputs[keep]).solution - outputs[out]).square()
    assert torch.allclose(missed, (squares / 20).sqrt(), rtol=1e-10)


def test_the_degree_is_the_one_of_least_leave_one_out_error() -> None:
    """A quadratic, a cubic with noise and a constant: each gets its own degree, and zeros above."""
    x = 2 * uniform(80, 2) - 1
    noise = 0.05 * normal(80, seed=4)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 0] ** 3 + noise, torch.ones(80).double()], dim=1)
    exponents, coefficients = fit_polynomials(x, y, degree=8)
    degree = exponents.sum(dim=1)
    assert bool((coefficients[degree > 2, 0].abs() < 1e-12).all())
    for output in range(3):
        errors = []
        for k in range(9):
            if 1.5 * count_terms(2, k) <= 80:
                errors.append(float(leave_one_out_fit(legendre(x, total_degree(2, k)), y[:, output : output + 1])[1]))
        chosen = int(degree[coefficients[:, output] != 0].max())
        if output == 1:
            assert chosen == int(np.argmin(errors)) == 3
        found = legendre(x, exponents) @ coefficients[:, output]
        assert float((found - y[:, output]).square().mean().sqrt()) <= 2 * min(errors) + 1e-12
    few = fit_polynomials(x[:3], y[:3], degree=8)
    assert bool(torch.isfinite(few[1]).all())


# --- sparse families


@pytest.mark.parametrize("seed", range(6))
def test_sparse_families_solve_as_dense_algebra_does(seed: int) -> None:
    """Unsymmetric operators with positive definite symmetric part, several right-hand sides, some unknowns fixed."""
    g = np.random.default_rng(seed)
    size = int(g.integers(2, 60))
    operators = []
    for _ in range(3):
        half = scipy.sparse.random(size, size, density=0.1, random_state=g)
        skew = scipy.sparse.random(size, size, density=0.05, random_state=g)
        operators.append((half @ half.T + skew - skew.T + scipy.sparse.eye(size)).tocsr())
    free = np.sort(g.permutation(size)[: max(1, 2 * size // 3)])
    c, rhs = g.uniform(0.1, 3.0, 3), g.standard_normal((size, 40))
    dense = sum(x * a.toarray() for x, a in zip(c, operators, strict=True))[np.ix_(free, free)]
    family = SparseFamily(operators, free)
    found = family.factor(c)(rhs)
    assert np.allclose(found[free], np.linalg.solve(dense, rhs[free]), rtol=1e-9, atol=1e-11)
    assert not found[np.setdiff1d(np.arange(size), free)].any()
    assert np.allclose(family.assemble(c).toarray()[np.ix_(free, free)], dense, rtol=1e-13, atol=1e-13)
    assert np.array_equal(family.factor(c)(rhs[:, 0]), family.factor(c)(rhs)[:, 0]) or np.allclose(
        family.factor(c)(rhs[:, 0]), found[:, 0], rtol=1e-12, atol=1e-13
    )
    # The family is not changed by factoring: the first coefficients solve the same again.
    family.factor(c[::-1].copy())(rhs)
    assert np.array_equal(family.factor(c)(rhs), found)


# --- orthonormalization


def spd(size: int, seed: int = 0) -> scipy.sparse.csr_matrix:
    g = np.random.default_rng(seed)
    half = scipy.sparse.random(size, size, density=0.1, random_state=g)
    return (half @ half.T + scipy.sparse.diags(10.0 ** g.uniform(-2, 2, size))).tocsr()


def decompose(basis: np.ndarray, vectors: np.ndarray, product: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return extend_orthonormal(basis, vectors, (product @ vectors.T).T, product)


def check_split(basis: np.ndarray, vectors: np.ndarray, product: Any, new: np.ndarray, coordinates: np.ndarray) -> None:
    """All directions orthonormal, and every vector given back to round-off of its own norm."""
    every = np.concatenate([basis, new])
    assert np.abs(every @ (product @ every.T) - np.eye(len(every))).max() < 1e-12
    assert coordinates.shape == (len(vectors), len(every))
    off = vectors - coordinates @ every
    norms = np.sqrt(np.maximum(np.einsum("kn,kn->k", vectors, (product @ vectors.T).T), 0))
    assert (np.sqrt(np.maximum(np.einsum("kn,kn->k", off, (product @ off.T).T), 0)) <= 3e-14 * norms + 1e-300).all()


@pytest.mark.parametrize("old", [0, 7])
def test_orthonormal_extension_of_independent_vectors(old: int) -> None:
    product, g = spd(60), np.random.default_rng(1)
    basis = decompose(np.zeros((0, 60)), g.standard_normal((old, 60)), product)[0] if old else np.zeros((0, 60))
    vectors = g.standard_normal((9, 60)) * 10.0 ** g.uniform(-8, 8, (9, 1))  # of very different sizes
    new, coordinates, _ = decompose(basis, vectors, product)
    assert len(new) == 9
    check_split(basis, vectors, product, new, coordinates)


@pytest.mark.parametrize("old", [0, 5])
def test_orthonormal_extension_of_repeated_and_dependent_vectors(old: int) -> None:
    product, g = spd(50), np.random.default_rng(2)
    basis = decompose(np.zeros((0, 50)), g.standard_normal((old, 50)), product)[0] if old else np.zeros((0, 50))
    three = g.standard_normal((3, 50))
    vectors = np.concatenate(
        [three, three[:2], three, 1e-9 * three[:1], g.standard_normal((4, 3)) @ three, np.zeros((1, 50))]
    )
    if old:
        vectors = np.concatenate([vectors, g.standard_normal((3, old)) @ basis, basis[:1]])
    new, coordinates, _ = decompose(basis, vectors, product)
    assert len(new) == 3
    check_split(basis, vectors, product, new, coordinates)
    assert len(decompose(np.concatenate([basis, new]), vectors, product)[0]) == 0


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("old", [0, 4])
def test_orthonormal_extension_of_ill_conditioned_vectors(small: float, old: int) -> None:
    """Ten vectors that differ by `small` parts only: all that is above 1e-14 of a vector is kept and orthonormal."""
    product, g = spd(50, seed=3), np.random.default_rng(3)
    basis = decompose(np.zeros((0, 50)), g.standard_normal((old, 50)), product)[0] if old else np.zeros((0, 50))
    vectors = g.standard_normal((1, 50)) + small * g.standard_normal((10, 50))
    if old:
        vectors = vectors + 100 * g.standard_normal((1, old)) @ basis
    new, coordinates, _ = decompose(basis, vectors, product)
    check_split(basis, vectors, product, new, coordinates)
    assert len(new) == 10 if small >= 1e-9 else 1 <= len(new) <= 10


def test_orthonormal_extension_of_graded_vectors_keeps_what_is_above_round_off() -> None:
    """Solutions at near parameters have geometrically falling singular values: those above 1e-13 are all resolved."""
    product, g = spd(60, seed=4), np.random.default_rng(4)
    root = np.linalg.cholesky(product.toarray())
    directions = np.linalg.solve(root.T, np.linalg.qr(g.standard_normal((60, 20)))[0]).T
    vectors = np.linalg.qr(g.standard_normal((20, 20)))[0] @ np.diag(10.0 ** -np.arange(0, 20.0)) @ directions
    new, coordinates, _ = decompose(np.zeros((0, 60)), vectors, product)
    check_split(np.zeros((0, 60)), vectors, product, new, coordinates)
    assert 12 <= len(new) <= 16
    inside = directions[:11] @ (product @ new.T)
    assert np.allclose(np.linalg.norm(inside, axis=1), 1, atol=1e-3)


def test_rows_grow_without_losing_any() -> None:
    rows, every = Rows(3), []
    for k in range(20):
        part = np.random.default_rng(k).standard_normal((k % 4, 3))
        rows.append(part)
        every.append(part)
        assert np.array_equal(rows.filled, np.concatenate(every))


def test_sparse_products_in_blocks() -> None:
    product, rows = spd(40), np.random.default_rng(5).standard_normal((77, 40))
    assert np.allclose(sparse_times(product, rows), rows @ product.toarray(), rtol=1e-13, atol=1e-13)


# --- small dense systems


@pytest.mark.parametrize("rank", [1, 7, LARGEST, LARGEST + 1, 200])
@pytest.mark.parametrize("symmetric", [True, False])
def test_small_dense_systems_are_solved_one_by_one(rank: int, symmetric: bool) -> None:
    square = normal(3, rank, rank, seed=rank) / math.sqrt(rank)
    square = square @ square.mT + torch.eye(rank).double() if symmetric else square + 3 * torch.eye(rank).double()
    right = normal(3, rank, seed=1)
    found = solve_reduced(square.flatten(1), right, symmetric=symmetric)
    for a, b, x in zip(square.numpy(), right.numpy(), found.numpy(), strict=True):
        assert np.allclose(x, scipy.linalg.solve(a, b), rtol=1e-9, atol=1e-11)
