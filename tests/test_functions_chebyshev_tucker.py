"""Chebyshev-Tucker interpolation against direct interpolation, its compression against dense algebra, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearly.core.domain import Box
from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.nouns import Function
from nearly.core.supply import Supply
from nearly.functions import ChebyshevTucker
from nearly.linalg.chebyshev import chebyshev, coefficient_map, extreme_points
from nearly.linalg.tucker import project, tucker
from nearly.problems.borehole import borehole


def product(dimension: int, **options) -> Function:
    return Function(lambda x: torch.exp(x.sum(dim=1)), Box([1.0] * dimension, [2.0] * dimension, **options))


def test_coefficients_are_those_of_interpolation() -> None:
    values = torch.exp(extreme_points(9))
    expected = np.polynomial.chebyshev.chebinterpolate(np.exp, 40)[:10]
    np.testing.assert_allclose(coefficient_map(9) @ values, expected, atol=1e-9)  # aliases of e^x at degree 9
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    np.testing.assert_allclose(chebyshev(x, 5), np.polynomial.chebyshev.chebvander(x.numpy(), 4), atol=1e-15)
    assert coefficient_map(1).tolist() == [[0.5, 0.5], [0.5, -0.5]]


@pytest.mark.parametrize("dimension", [1, 2, 3, 4])
def test_interpolant_takes_the_values_at_its_points(dimension: int) -> None:
    target = Function(
        lambda x: torch.stack([x.prod(dim=1).sin(), x[:, 0] / x.sum(dim=1)], dim=1),
        Box([1.0] * dimension, [3.0] * dimension, log=[True] + [False] * (dimension - 1)),
    )
    surrogate = ChebyshevTucker(degree=4, tolerance=1e-14).fit(target)
    unit = torch.cartesian_prod(*[(1 + extreme_points(4)) / 2] * dimension).reshape(-1, dimension)
    points = target.domain.from_unit(unit)
    torch.testing.assert_close(surrogate(points), target(points), rtol=0, atol=1e-12)


def test_decomposition_keeps_its_tolerance_at_nearly_least_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=generator))[0] for _ in range(3)]
    decay = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij")).amax(dim=0).double()
    tensor = torch.einsum("abc,ia,jb,kc->ijk", 10**-decay, *parts)
    for tolerance in (1e-2, 1e-5, 1e-9):
        core, factors = tucker(tensor, tolerance, directions=3)
        again = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
        assert float((again - tensor).norm() / tensor.norm()) <= tolerance
        assert max(core.shape) <= -np.log10(tolerance) + 2
        for factor in factors:
            torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1]).double(), rtol=0, atol=1e-13)
    smaller, _ = tucker(tensor, 1e-5, directions=2)
    assert smaller.shape[2] == 12


def test_sweeps_improve_on_the_higher_order_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(8, 8, 8, dtype=torch.float64, generator=generator)
    core, factors = tucker(tensor, 0.7, directions=3)
    start = [torch.linalg.svd(tensor.movedim(j, 0).flatten(1))[0][:, : factors[j].shape[1]] for j in range(3)]
    assert float(core.square().sum()) > 1.005 * float(project(tensor, start).square().sum())


def test_ranks_are_few_where_the_function_is_a_product() -> None:
    assert tuple(ChebyshevTucker(degree=10).fit(product(3)).model.core.shape) == (1, 1, 1, 1)


def test_evaluations_are_counted_and_limited() -> None:
    target = product(3)
    supply = Supply(target, 0, most=300)
    ChebyshevTucker(degree=5).fit(target, supply=supply)
    assert supply.evaluations == 216
    with pytest.raises(TooFewSamples):
        ChebyshevTucker(degree=4).fit(target, supply=supply)
    assert ChebyshevTucker().budgets(target, 10**9) == [4, 8, 16]
    assert ChebyshevTucker().budgets(target, 8 * (5**3 + 9**3)) == [4, 8]
    assert ChebyshevTucker().budgets(target, 8 * 9**3) == [4]  # all budgets are paid from the same eighth
    assert ChebyshevTucker().budgets(target, 8 * 5**3 - 1) == []


def test_targets_that_cannot_be_asked_are_refused() -> None:
    x = torch.rand(200, 2, dtype=torch.float64)
    with pytest.raises(BadInput, match="made from data"):
        ChebyshevTucker().fit(Function.from_data(x, x[:, 0]))
    with pytest.raises(BadInput, match="needs a Box"):
        ChebyshevTucker().fit(Function(lambda x: x[:, 0], lambda n, g: torch.rand(n, 2, generator=g)))
    with pytest.raises(BadInput, match="at most 4 variables"):
        ChebyshevTucker().fit(borehole())
