"""Row 88: weighted least squares with determinantal point processes (Nouy and Michel, arXiv 2312.14057).

Works when, for Legendre polynomials of one variable and sparse (hyperbolic) ones of two, m = 10 to 40, n = 2m points: the mean
squared error over 200 draws is at most 4 times that of the best approximation for repeated projection determinantal point
processes, and its 95th percentile is below that of as many independent points of Christoffel density.

Functions: |x - 1/3|^(3/2), and the exponential of the sum of |x_j - 1/3|: not smooth, so that the best error is no round-off.
Errors are in L2 of the box, by a Gauss rule in each panel between kinks, of degree far above the polynomials'.

Baseline: independent points of Christoffel density, the same weights, the same n.
Rejected broken variant, run below: uniform points with the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nearly.functions.weighted_least_squares import draw_points
from nearly.linalg.legendre import legendre, total_degree
from nearly.linalg.optimal_sampling import weighted_fit

DRAWS, KINK = 200, 1 / 3
SPACES = {
    "1D, m = 10": total_degree(1, 9),
    "1D, m = 20": total_degree(1, 19),
    "1D, m = 40": total_degree(1, 39),
    "2D sparse, m = 10": total_degree(2, 4, norm=0.5),
    "2D sparse, m = 23": total_degree(2, 8, norm=0.5),
    "2D sparse, m = 35": total_degree(2, 11, norm=0.5),
}


def f(x: torch.Tensor) -> torch.Tensor:
    if x.shape[-1] == 1:
        return (x - KINK).abs() ** 1.5
    return (x - KINK).abs().sum(dim=-1, keepdim=True).exp()


def quadrature(dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights for the mean over [-1, 1]^d, exact for polynomials of degree 159 in each panel."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
    ends = ((-1.0, KINK), (KINK, 1.0))
    line = torch.cat([(a + b + (b - a) * nodes) / 2 for a, b in ends])
    mass = torch.cat([(b - a) / 4 * weights for a, b in ends])
    if dimension == 1:
        return line[:, None], mass
    return torch.cartesian_prod(line, line), torch.outer(mass, mass).flatten()


def squared_errors(exponents: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Of the fits on 200 draws of points, and of the best approximation."""
    grid, mass = quadrature(exponents.shape[1])
    basis, values = legendre(grid, exponents), f(grid)
    best = basis.T @ (mass[:, None] * values)
    least = float(mass @ (values - basis @ best).square()[:, 0])
    return least + (weighted_fit(x, f(x), exponents) - best).square().sum(dim=(1, 2)), least


def points(exponents: torch.Tensor, sampling: str) -> torch.Tensor:
    return draw_points(exponents, 2, DRAWS, sampling, torch.Generator().manual_seed(88))


@pytest.mark.parametrize("name", SPACES)
def test_repelling_points_are_nearly_as_good_as_the_best_approximation(name: str, record: Any) -> None:
    exponents = SPACES[name]
    assert f"m = {len(exponents)}" in name
    repelling, least = squared_errors(exponents, points(exponents, "repeated"))
    independent, _ = squared_errors(exponents, points(exponents, "independent"))
    high = [float(errors.quantile(0.95)) / least for errors in (repelling, independent)]
    record(
        claim=f"88: {name}, n = 2m: mean squared error over 200 draws, of the best (independent points as baseline)",
        measured=float(repelling.mean()) / least,
        baseline=float(independent.mean()) / least,
    )
    record(
        claim=f"88: {name}, n = 2m: 95th percentile of it (independent points as baseline)",
        measured=high[0],
        baseline=high[1],
    )
    assert float(repelling.mean()) <= 4 * least
    assert high[0] < high[1]


@pytest.mark.parametrize("name", SPACES)
def test_points_of_the_wrong_density_miss_the_bar(name: str, record: Any) -> None:
    exponents = SPACES[name]
    x = (
        2
        * torch.rand(
            points(exponents, "repeated").shape, dtype=torch.float64, generator=torch.Generator().manual_seed(88)
        )
        - 1
    )
    uniform, least = squared_errors(exponents, x)
    record(
        claim=f"88: {name}, n = 2m: mean squared error with uniform points, of the best (bar as baseline)",
        measured=float(uniform.mean()) / least,
        baseline=4.0,
    )
    assert float(uniform.mean()) > 4 * least
