"""Samplers against the densities that define them, and weighted least squares against its normal equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearly.core.domain import Box
from nearly.core.errors import BadInput
from nearly.core.nouns import Function
from nearly.core.supply import Supply
from nearly.functions import WeightedLeastSquares
from nearly.functions.weighted_least_squares import draw_points
from nearly.linalg.legendre import legendre, total_degree
from nearly.linalg.optimal_sampling import christoffel, projection_dpp, weighted_fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kernel(x: torch.Tensor, y: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    return legendre(x, exponents) @ legendre(y, exponents).T


def shares(points: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    return torch.histc(points, bins=len(edges) - 1, min=-1, max=1) / len(points)


@pytest.mark.parametrize("degrees", [[0], [5], [0, 1, 2, 3], [2, 40]])
def test_single_points_have_christoffel_density(degrees: list[int]) -> None:
    exponents = torch.tensor(degrees)[:, None]
    points = christoffel(exponents, 40_000, generator())[:, 0]
    edges = torch.linspace(-1, 1, 21, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    cells = edges[:-1, None] + 0.05 * (1 + nodes)
    density = legendre(cells.reshape(-1, 1), exponents).square().mean(dim=1).reshape(cells.shape)
    expected = 0.025 * density @ weights
    assert float(expected.sum()) == pytest.approx(1)
    deviation = (expected * (1 - expected) / len(points)).sqrt()
    assert float(((shares(points, edges) - expected) / deviation).abs().max()) < 4


def test_pairs_of_the_process_repel_as_its_determinant_says() -> None:
    """P(a pair of points lies in cells A and B) is the integral of K(x, x) K(y, y) - K(x, y)^2 over A x B."""
    exponents = total_degree(1, 2)
    points = projection_dpp(exponents, 20_000, generator())[:, :, 0]
    cell = ((points + 1) * 2.5).long().clamp(max=4)
    counts = torch.nn.functional.one_hot(cell, 5).sum(dim=1).double()
    pairs = counts.T @ counts / len(points) - torch.diag(counts.mean(dim=0))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    x = (torch.linspace(-0.8, 0.8, 5, dtype=torch.float64)[:, None] + 0.2 * nodes).reshape(-1, 1)
    mass = (0.1 * weights).repeat(5)
    k = kernel(x, x, exponents)
    joint = (torch.outer(k.diagonal(), k.diagonal()) - k.square()) * torch.outer(mass, mass)
    expected = joint.reshape(5, 8, 5, 8).sum(dim=(1, 3))
    assert float(expected.sum()) == pytest.approx(6)
    assert float((pairs - expected).abs().max()) < 4 * (1.5 / len(points)) ** 0.5
    independent = torch.outer(counts.mean(dim=0), counts.mean(dim=0)) * 2 / 3
    assert float((independent - expected).abs().max()) > 8 * (1.5 / len(points)) ** 0.5


def test_process_in_two_variables_has_its_first_moment() -> None:
    exponents = total_degree(2, 2)
    points = projection_dpp(exponents, 3000, generator())
    assert points.shape == (3000, 6, 2)
    expected = float((legendre(christoffel(exponents, 200_000, generator(1)), exponents)[:, 5]).mean())
    assert float(legendre(points.flatten(0, 1), exponents)[:, 5].mean()) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("sampling", "repelling"), [("repeated", 12), ("volume", 4), ("independent", 0)])
def test_samplings_consist_of_what_they_say(sampling: str, repelling: int) -> None:
    exponents = total_degree(1, 3)
    x = draw_points(exponents, 3, 500, sampling, generator())
    assert x.shape == (500, 12, 1)
    # K(x, x) 's determinant over four points of one process is far from zero more often than over independent ones.
    determinants = (
        torch.linalg.det(legendre(x.flatten(0, 1), exponents).reshape(500, 3, 4, 4)).abs().median(dim=0).values
    )
    alike = determinants > 3
    assert alike.tolist() == [4 * j < repelling for j in range(3)]


def test_weighted_fit_solves_its_normal_equations() -> None:
    exponents = total_degree(2, 2)
    x = christoffel(exponents, 20, generator())
    y = torch.stack([x[:, 0].exp(), x[:, 1].abs()], dim=1)
    p = legendre(x, exponents)
    w = 6 / p.square().sum(dim=1)
    expected = torch.linalg.solve(p.T @ (w[:, None] * p), p.T @ (w[:, None] * y))
    torch.testing.assert_close(weighted_fit(x, y, exponents), expected)
    torch.testing.assert_close(weighted_fit(x[None], y[None], exponents)[0], expected)


def test_log_coordinates_and_counts() -> None:
    target = Function(lambda x: x[:, 0].log() ** 3 + x[:, 1], Box([1e-3, 0.0], [1e3, 1.0], log=[True, False]))
    supply = Supply(target, 0, most=20)
    surrogate = WeightedLeastSquares(degree=3).fit(target, supply=supply)
    assert supply.evaluations == 20
    fresh = target.sample(100, 1)
    torch.testing.assert_close(surrogate(fresh), target(fresh))
    assert WeightedLeastSquares().budgets(target, 8 * 2 * (6 + 15 + 45)) == [2, 4, 8]
    assert WeightedLeastSquares(repetitions=3).budgets(target, 8 * 2 * (6 + 15 + 45)) == [2, 4]
    assert WeightedLeastSquares().budgets(target, 95) == []


def test_data_are_refused_by_name() -> None:
    x = torch.rand(200, 2, dtype=torch.float64)
    with pytest.raises(BadInput, match="made from data"):
        WeightedLeastSquares().fit(Function.from_data(x, x[:, 0]))
