"""Sparse polynomial regression against a naive transcription, and on functions whose terms are known."""

from __future__ import annotations

import pytest
import torch

from nearly.core.domain import Box
from nearly.core.nouns import Function
from nearly.functions import SparsePolynomial
from nearly.linalg.legendre import legendre, total_degree
from nearly.linalg.matching_pursuit import matching_pursuit
from nearly.linalg.sparse_polynomial import fit_sparse_polynomial
from nearly.problems.borehole import borehole
from nearly.problems.rosenbrock import rosenbrock
from nearly.problems.smooth_function import smooth_function


def points(n: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1


def naive_pursuit(design: torch.Tensor, outputs: torch.Tensor, kept: torch.Tensor, most: int) -> tuple[list[int], list]:
    """Try every term, fit by least squares, take the one of least residual; then the squares left on the other rows."""
    order, missed = [0], []
    while True:
        coefficients = torch.linalg.lstsq(design[kept][:, order], outputs[kept]).solution
        missed.append(float((outputs - design[:, order] @ coefficients)[~kept].square().sum()))
        if len(order) == most:
            return order, missed
        tried = []
        for j in range(design.shape[1]):
            columns = design[kept][:, [*order, j]]
            fit = columns @ torch.linalg.lstsq(columns, outputs[kept]).solution
            tried.append(float((outputs[kept] - fit).square().sum()) if j not in order else float("inf"))
        order.append(int(torch.tensor(tried).argmin()))


@pytest.mark.parametrize("outputs", [1, 3])
def test_pursuit_equals_refitting_every_term_from_scratch(outputs: int) -> None:
    x = points(40, 2)
    design = legendre(x, total_degree(2, 5))
    y = torch.stack([torch.exp((k + 1) * x[:, 0]) * torch.cos(2 * x[:, 1]) for k in range(outputs)], dim=1)
    fold = torch.arange(40) % 4
    parts = torch.stack([fold != k for k in range(4)])
    order, missed = matching_pursuit(design, y, parts.double(), 8)
    naive = [naive_pursuit(design, y, part, 8) for part in parts]
    assert order.tolist() == [rows for rows, _ in naive]
    torch.testing.assert_close(
        missed, torch.tensor([left for _, left in naive], dtype=torch.float64).sum(dim=0), rtol=1e-9, atol=0
    )


def test_pursuit_passes_over_dependent_columns_and_stops_when_exact() -> None:
    x = points(30, 1)
    design = torch.cat([torch.ones_like(x), x, 2 * x, x**2], dim=1)
    order, missed = matching_pursuit(design, 3 * x + x**2, torch.ones(1, 30).double(), 4)
    assert len(missed) == 3
    assert sorted(order[0].tolist()) in ([0, 1, 3], [0, 2, 3])
    alone, _ = matching_pursuit(design[:, :3], torch.sin(9 * x), torch.ones(1, 30).double(), 3)
    assert alone.shape == (1, 2)


@pytest.mark.parametrize("norm", [0.5, 0.75, 1.0])
def test_hyperbolic_sets_hold_what_their_definition_says(norm: float) -> None:
    every = torch.cartesian_prod(*[torch.arange(7)] * 3)
    inside = every[every.double().pow(norm).sum(dim=1) <= 6**norm + 1e-9]
    assert sorted(total_degree(3, 6, norm).tolist()) == sorted(inside.tolist())
    assert (total_degree(3, 6, norm).sum(dim=1).diff() >= 0).all()


def test_a_sparse_polynomial_is_found_to_round_off() -> None:
    target = rosenbrock()
    surrogate = SparsePolynomial(samples=200).fit(target)
    fresh = target.sample(5000, 1)
    assert float(target.error(target(fresh), surrogate(fresh)).max()) < 1e-13
    assert len(surrogate.model.exponents) == 23  # 1, and 6 x^4, x^2 less those of x_6; 5 products; 5 more linear ones


def test_the_error_that_chooses_is_near_the_true_one() -> None:
    """Leave-one-out errors of terms chosen on all rows are some hundred times too small: overfitting would show here."""
    target = borehole()
    surrogate = SparsePolynomial(samples=200).fit(target)
    fresh = target.sample(5000, 1)
    truth = target(fresh)
    assert float((truth - surrogate(fresh)).square().mean().sqrt() / truth.std()) < 2.5e-3
    assert len(surrogate.model.exponents) < 110


def test_high_degrees_are_tried_though_low_ones_do_not_help() -> None:
    target = smooth_function("oscillatory", dimension=1)
    surrogate = SparsePolynomial(samples=60).fit(target)
    fresh = target.sample(1000, 1)
    assert float(target.error(target(fresh), surrogate(fresh)).median()) < 1e-6


def test_constant_outputs_and_few_rows() -> None:
    exponents, coefficients = fit_sparse_polynomial(points(4, 3), torch.zeros(4, 1), degree=5)
    assert exponents.tolist() == [[0, 0, 0]]
    assert coefficients.dtype == torch.float32
    assert float(coefficients.abs().max()) == 0
    constant = Function(lambda x: 2 + 0 * x[:, 0], Box([0.0, 1.0], [1.0, 2.0]), metric="absolute")
    surrogate = SparsePolynomial(samples=5).fit(constant)
    assert float((surrogate(constant.sample(9, 0)) - 2).abs().max()) < 1e-14


def test_many_variables_take_no_memory_for_products_that_are_never_tried() -> None:
    x = points(40, 3000)
    exponents, _ = fit_sparse_polynomial(x, x[:, 7:8], degree=20)
    assert exponents.sum() <= 1  # 3,001 terms of degree 1 are too many for 40 samples, and pairs some 4.5 million
    x = points(150, 200)
    exponents, _ = fit_sparse_polynomial(x, x[:, 7:8] * 3, degree=20)
    assert exponents.nonzero().tolist() == [[1, 7]]


def test_log_coordinates_are_taken_in_logarithms() -> None:
    target = Function(lambda x: x[:, 0].log() ** 3, Box([1e-3], [1e3], log=True))
    surrogate = SparsePolynomial(samples=20).fit(target)
    assert surrogate.model.exponents.flatten().tolist() == [0, 1, 3]
