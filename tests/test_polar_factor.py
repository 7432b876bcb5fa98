"""What is special to the polar factor: its routes, their schedules, and matrices that make them hard."""

import numpy as np
import pytest
import torch

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.orthogonalize import polar_factor
from nearly.linalg.orthogonalize._schedules import NEWTON_SCHULZ, minimax_schedule


def matrix(m, n, *, condition=10.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left, right = (torch.linalg.qr(torch.randn(s, k, dtype=dtype, generator=generator))[0] for s in (m, n))
    values = torch.logspace(0, -float(np.log10(condition)), k, dtype=torch.float64).to(dtype)
    return (left * values) @ right.mH


def by_svd(a):
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("route", ["auto", "svd", "gram", "minimax", "newton_schulz"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 1)])
def test_every_route_finds_the_same_factor(route, dtype, shape):
    a = matrix(*shape, dtype=dtype)
    found = polar_factor(a, route=route, tolerance=1e-10)
    assert (found.value - by_svd(a)).abs().max() < 1e-9


def test_muon_and_half_precision_reach_what_they_say():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 128, 128, generator=generator)
    for found in (polar_factor(a, route="muon", tolerance=0.5), polar_factor(a, tolerance=0.35)):
        gram = found.value.mT @ found.value
        true = (gram - torch.eye(128)).flatten(-2).norm(dim=-1) / 128**0.5
        assert torch.allclose(found.residual, true, rtol=0.05)
        assert bool((true < 0.5).all())
    values = torch.linalg.svdvals(polar_factor(matrix(40, 40, condition=50.0), route="muon", tolerance=0.5).value)
    assert bool(((values > 0.66) & (values < 1.15)).all())


def test_minimax_steps_end_where_they_say_and_beat_newton_schulz():
    x = torch.linspace(1e-3, 1, 100_001, dtype=torch.float64)
    schedule = minimax_schedule(1e-3, 0.01)
    image, plain = x, x
    for a, b, c in schedule:
        image = image * (a + b * image**2 + c * image**4)
        plain = plain * (NEWTON_SCHULZ[0] + NEWTON_SCHULZ[1] * plain**2 + NEWTON_SCHULZ[2] * plain**4)
    assert (image - 1).abs().max() < 0.01
    assert (plain - 1).abs().max() > 0.9


def test_the_first_minimax_step_is_the_best_quintic():
    from scipy.optimize import linprog

    x = np.linspace(0.3, 1, 2001)
    basis = np.stack([x, x**3, x**5], axis=1)
    ones = np.ones((len(x), 1))
    best = linprog(
        [0, 0, 0, 1], np.block([[basis, -ones], [-basis, -ones]]), np.r_[ones, -ones], bounds=[(None, None)] * 4
    )
    a, b, c = minimax_schedule(0.3, 0.04)[-1] if len(minimax_schedule(0.3, 0.04)) == 1 else _single(0.3)
    assert np.abs(basis @ np.array([a, b, c]) - 1).max() == pytest.approx(best.fun, rel=1e-3)


def _single(low):
    from nearly.linalg.orthogonalize._schedules import _best_quintic

    return _best_quintic(low, 1.0)


def test_a_matrix_of_lower_rank_has_a_factor_by_svd_and_is_told_of_by_products():
    a = matrix(6, 6)
    a[:, 3] = 0.0
    found = polar_factor(a)
    assert torch.allclose(found.value.mT @ found.value, torch.eye(6, dtype=a.dtype), atol=1e-12)
    stretch = found.value.mT @ a
    assert torch.allclose(stretch, stretch.mT, atol=1e-12)
    for route in ("minimax", "gram"):
        with pytest.raises(NotConverged, match="singular values are too small"):
            polar_factor(a, route=route)


def test_gram_hands_over_where_the_condition_is_too_large():
    a = matrix(12, 12, condition=1e9)
    assert polar_factor(a, route="gram", check=False).residual > 1e-6
    assert (polar_factor(a).value - by_svd(a)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (4, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives(shape, dtype):
    a = matrix(*shape, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar_factor(x, tolerance=1e-12).value, (a,))


def test_bad_matrices_are_named():
    for wrong in (torch.ones(3), torch.zeros(0, 3), torch.full((2, 2), torch.nan), "matrix"):
        with pytest.raises(BadInput, match="matrix must be"):
            polar_factor(wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("route", ["auto", "minimax"])
def test_matrices_in_half_precision_come_back_in_it(dtype, route):
    a = matrix(60, 20, dtype=torch.float32).to(dtype)
    found = polar_factor(a, route=route)
    assert found.value.dtype == dtype
    assert (found.value.double() - by_svd(a.double())).abs().max() < torch.finfo(dtype).eps
    gap = found.value.double().mT @ found.value.double() - torch.eye(20)
    assert float(found.residual) == pytest.approx(float(gap.norm()) / 20**0.5, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_on_the_gram_matrix_are_steps_on_the_matrix(dtype):
    from nearly.linalg.orthogonalize._polynomials import advance

    x = matrix(40, 10, condition=30.0, dtype=dtype)
    plain = x
    steps = minimax_schedule(0.03, 0.3)
    for a, b, c in steps:
        gram = plain.mT @ plain
        plain = plain @ (a * torch.eye(10, dtype=dtype) + b * gram + c * gram @ gram)
    assert torch.allclose(advance(x, x.mT @ x, steps), plain, atol=200 * torch.finfo(dtype).eps)


def test_large_tall_matrices_reach_single_precision_on_their_gram_matrix():
    a = matrix(600, 300, condition=200.0, dtype=torch.float32)
    found = polar_factor(a, route="minimax", tolerance=1e-5)
    assert (found.value - by_svd(a)).abs().max() < 1e-4
