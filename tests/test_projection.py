"""Projection of a small coercive affine system, against dense references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from nearly.core.affine import AffineSystem, Monomials
from nearly.fields._projection import Projection
from nearly.fields._reduced_model import ReducedModel

EPS = float(np.finfo(np.float64).eps)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chain(size: int, weights: np.ndarray) -> scipy.sparse.csr_matrix:
    """Stiffness of a chain of springs, fixed at both ends; unknowns 0 and size - 1 have zero rows."""
    matrix = scipy.sparse.lil_matrix((size, size))
    for k in range(size - 1):
        for i, j, sign in ((k, k, 1), (k + 1, k + 1, 1), (k, k + 1, -1), (k + 1, k, -1)):
            if 0 < i < size - 1 and 0 < j < size - 1:
                matrix[i, j] += sign * weights[k] * (size - 1)
    return matrix.tocsr()


def system(*, symmetric: bool = True, size: int = 42, loads: int = 2) -> AffineSystem:
    """Three blocks of springs, and a skew transport if not symmetric; coefficients mu_0..mu_2 and mu_3."""
    block = np.arange(size - 1) * 3 // (size - 1)
    operators = [chain(size, (block == q).astype(float)) for q in range(3)]
    if not symmetric:
        skew = scipy.sparse.diags([np.ones(size - 1), -np.ones(size - 1)], [1, -1]).tolil()
        for end in (0, size - 1):
            skew[end, :] = 0
            skew[:, end] = 0
        operators.append(skew.tocsr())
    count = len(operators)
    points = np.linspace(0, 1, size)
    load = np.stack([np.ones(size), np.sin(3 * points)])[:loads] / size
    load[:, [0, -1]] = 0
    exponents = torch.zeros(loads, count, dtype=torch.float64)
    exponents[-1, 0] = 1.0
    return AffineSystem(
        operators=tuple(operators),
        operator_coefficients=Monomials.coordinates(count),
        loads=load,
        load_coefficients=Monomials(torch.ones(loads, dtype=torch.float64), exponents),
        coercive=(0, 1, 2),
        reference=torch.tensor([1.0, 1.0, 1.0, 0.0][:count], dtype=torch.float64),
        symmetric=symmetric,
        free=np.arange(1, size - 1),
    )


def dense_parts(affine: AffineSystem, mu: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A(mu), f(mu) and X on the free unknowns."""
    free = affine.free
    theta = affine.operator_coefficients(mu[None])[0].numpy()
    phi = affine.load_coefficients(mu[None])[0].numpy()
    a = sum(t * m.toarray() for t, m in zip(theta, affine.operators, strict=True))[np.ix_(free, free)]
    return a, (phi @ affine.loads)[free], affine.product.toarray()[np.ix_(free, free)]


def parameters(affine: AffineSystem, n: int, seed: int = 0) -> torch.Tensor:
    return 0.1 + 2 * uniform(n, len(affine.operators), seed=seed)


def solutions(affine: AffineSystem, mus: torch.Tensor) -> np.ndarray:
    rows = np.zeros((len(mus), affine.unknowns))
    for row, mu in zip(rows, mus, strict=True):
        a, f, _ = dense_parts(affine, mu)
        row[affine.free] = np.linalg.solve(a, f)
    return rows


def projected(affine: AffineSystem, rank: int, *, together: bool = False) -> tuple[Projection, ReducedModel]:
    projection = Projection(affine)
    snapshots = solutions(affine, parameters(affine, rank, seed=11))
    for part in [snapshots] if together else snapshots[:, None]:
        projection.extend(part)
    return projection, projection.model()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_the_reduced_solution_is_the_galerkin_one(symmetric: bool, together: bool) -> None:
    affine = system(symmetric=symmetric)
    projection, model = projected(affine, 5, together=together)
    basis = model.basis.numpy()
    assert projection.rank == model.rank == 5
    x = affine.product.toarray()
    assert np.allclose(basis @ x @ basis.T, np.eye(5), atol=1e-13)
    mus = parameters(affine, 40, seed=3)  # more than are solved together
    found = model(mus).numpy()
    for mu, row in zip(mus, found, strict=True):
        a, f, _ = dense_parts(affine, mu)
        inside = basis[:, affine.free]
        wanted = inside.T @ np.linalg.solve(inside @ a @ inside.T, inside @ f)
        assert np.allclose(row[affine.free], wanted, rtol=1e-9, atol=1e-13)
        assert row[0] == row[-1] == 0.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_reduced_model_reproduces_its_snapshots(symmetric: bool) -> None:
    affine = system(symmetric=symmetric)
    mus = parameters(affine, 6, seed=11)
    _, model = projected(affine, 6)
    assert np.allclose(model(mus).numpy(), solutions(affine, mus), rtol=1e-10, atol=1e-14)


def dual_norms(affine: AffineSystem, model: ReducedModel, mus: torch.Tensor) -> np.ndarray:
    """`||f - A u_N||` in the dual of X, from the residual itself in long double, relative to that of the load."""
    found = []
    coordinates = model.coordinates(mus).numpy()
    for mu, c in zip(mus, coordinates, strict=True):
        a, f, x = dense_parts(affine, mu)
        inside = model.basis.numpy()[:, affine.free]
        r = f.astype(np.longdouble) - a.astype(np.longdouble) @ (c.astype(np.longdouble) @ inside.astype(np.longdouble))
        found.append(math.sqrt(float(r.astype(float) @ np.linalg.solve(x, r.astype(float)))))
    return np.array(found)


def load_norms(affine: AffineSystem, mus: torch.Tensor) -> np.ndarray:
    parts = [dense_parts(affine, mu) for mu in mus]
    return np.array([math.sqrt(f @ np.linalg.solve(x, f)) for _, f, x in parts])


def residual_norms(affine: AffineSystem, model: ReducedModel, mus: torch.Tensor) -> np.ndarray:
    """The residual norm as the model computes it, its rounding term left out."""
    theta, phi = affine.operator_coefficients(mus), affine.load_coefficients(mus)
    weights = (theta[:, :, None] * (model.coordinates(mus) / model.scale)[:, None, :]).flatten(1)
    return (phi @ model.residual_loads - weights @ model.residual_operators).norm(dim=1).numpy()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_the_residual_norm_is_the_dual_norm_down_to_round_off(symmetric: bool, together: bool) -> None:
    """Ranks 1 to 30: relative residuals from 1 to 1e-12 and below agree with X^-1 r to the stated slack, some 1e-11 of the load.

    The expanded square `c G c^T` would be off by 1e-8 of the load.
    """
    affine = system(symmetric=symmetric)
    mus = parameters(affine, 12, seed=5)
    scale = load_norms(affine, mus)
    seen = []
    for rank in (1, 2, 4, 8, 16, 24, 30):
        _, model = projected(affine, rank, together=together)
        direct, stable = dual_norms(affine, model, mus) / scale, residual_norms(affine, model, mus) / scale
        weights = affine.operator_coefficients(mus)[:, :, None] * (model.coordinates(mus) / model.scale)[:, None, :]
        slack = (weights.flatten(1).abs() @ model.slack[: -len(affine.loads)]).numpy() / scale
        assert (np.abs(direct - stable) <= slack + 1e-14).all(), rank
        assert np.median(slack) < 1e-11, rank
        assert slack.max() < 1e-9, rank
        large = direct > 1e-9
        assert np.allclose(stable[large], direct[large], rtol=1e-3)
        assert np.allclose(stable[direct > 1e-6], direct[direct > 1e-6], rtol=1e-6)
        seen += direct.tolist()
    assert max(seen) > 0.05
    assert min(seen) < 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_the_bound_lies_above_the_error_at_every_rank(symmetric: bool, together: bool) -> None:
    """Up to full rank, where error and residual are round-off; sharp to the ratio of the coercivity constants before."""
    affine = system(symmetric=symmetric, size=24)
    mus = parameters(affine, 30, seed=6)
    exact = solutions(affine, mus)
    x = affine.product.toarray()

    def norm(rows: np.ndarray) -> np.ndarray:
        return np.sqrt(np.einsum("ni,ij,nj->n", rows, x, rows))

    ranks = []
    for rank in (1, 2, 3, 5, 8, 12, 22, 30):
        projection, model = projected(affine, rank, together=together)
        ranks.append(projection.rank)
        error = norm(exact - model(mus).numpy()) / norm(exact)
        bound = model.bound(mus).numpy()
        assert (bound >= error).all(), (rank, float((bound / error).min()))
        if rank == 2:
            assert error.max() > 1e-3
        # Continuity over coercivity, and the size of the solution below the fraction: no more than a factor of 1,000; at the
        # level of round-off a parameter unlike the snapshots' may have more.
        over = np.where(bound < 0.1, bound / np.maximum(error, 1e-12), 0)
        assert (over[error > 1e-9] <= 1e3).all()
        assert np.quantile(over, 0.9) <= 1e3
    assert ranks[-1] <= 22
    assert error.max() < 1e-11


def test_the_bound_is_the_formula_with_dense_algebra() -> None:
    """`Delta / max(||u_N|| - Delta, ||f|| / gamma)`, Delta the dual norm over the least coefficient ratio."""
    affine = system()
    _, model = projected(affine, 3)
    mus = parameters(affine, 20, seed=8)
    residual, load = dual_norms(affine, model, mus), load_norms(affine, mus)
    delta = residual / mus.numpy().min(axis=1)
    size = model.coordinates(mus).norm(dim=1).numpy()
    wanted = delta / np.maximum(np.maximum(size - delta, 0), load / mus.numpy().max(axis=1))
    assert np.allclose(model.bound(mus).numpy(), wanted, rtol=1e-6)
    coordinates, bound = model.coordinates_and_bound(mus)
    assert torch.equal(bound, model.bound(mus))
    assert torch.equal(coordinates, model.coordinates(mus))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_basis_grows_to_the_span_and_no_further(symmetric: bool) -> None:
    affine = system(symmetric=symmetric, size=12)
    projection = Projection(affine)
    snapshots = solutions(affine, parameters(affine, 30, seed=2))
    added = [projection.extend(row[None]) for row in snapshots]
    assert sum(added) == projection.rank <= 10
    assert projection.extend(snapshots[:4]) == 0
    assert projection.extend(np.zeros((2, 12))) == 0
    before = projection.model()
    assert projection.extend(projection.model().basis.numpy()[:3] * 5) == 0
    assert torch.equal(projection.model().basis, before.basis)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_model_of_lower_rank_is_that_of_the_first_vectors(symmetric: bool) -> None:
    affine = system(symmetric=symmetric)
    projection, _ = projected(affine, 8)
    mus = parameters(affine, 10, seed=4)
    for rank in (1, 3, 8):
        alone = projected(affine, rank)[1]
        model = projection.model(rank)
        assert model.rank == rank
        assert torch.allclose(model(mus), alone(mus), rtol=1e-10, atol=1e-14)
        assert torch.allclose(model.bound(mus), alone.bound(mus), rtol=1e-6)


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.9])
def test_cut_residual_coordinates_keep_the_bound_above(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer coordinates, and a bound that lies above the error and above what the whole residual says."""
    affine = system()
    projection, whole = projected(affine, 7)
    mus = parameters(affine, 30, seed=6)
    monkeypatch.setattr("nearly.fields._residual_coordinates.SHARE", share)
    cut = projection.model(typical=mus[:10])
    exact, x = solutions(affine, mus), affine.product.toarray()
    difference = exact - cut(mus).numpy()
    error = np.sqrt(np.einsum("ni,ij,nj->n", difference, x, difference) / np.einsum("ni,ij,nj->n", exact, x, exact))
    assert (cut.bound(mus).numpy() >= error).all()
    assert bool((cut.bound(mus) >= whole.bound(mus) * (1 - 1e-5)).all())
    assert cut.residual_loads.shape[1] <= whole.residual_loads.shape[1]
    assert bool((cut.bound(mus[:10]) <= whole.bound(mus[:10]) * (1.001 + share)).all())
    if share == 0.9:
        assert cut.residual_loads.shape[1] < whole.residual_loads.shape[1]


def test_a_projection_without_residual_has_no_bound_tensors() -> None:
    projection = Projection(system(), residual=False)
    projection.extend(solutions(system(), parameters(system(), 3)))
    model = projection.model()
    assert "residual_operators" not in model.state_dict()
    assert model(parameters(system(), 2)).shape == (2, 42)
