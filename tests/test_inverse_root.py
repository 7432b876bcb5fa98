"""Inverse p-th roots where the contract of iterations does not look: every power, bad conditions, and use inside optimizers."""

import pytest
import torch

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.factorize import inverse_root, inverse_root_of, square_root

ROUTES = ("eigh", "newton")


def positive(*shape, condition=20.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(*shape, shape[-1], dtype=dtype, generator=generator))[0]
    matrix = (basis * condition ** -torch.linspace(0, 1, shape[-1], dtype=torch.float64)) @ basis.mH
    return (matrix + matrix.mH) / 2


def exact(matrix, power):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values[..., None, :] ** (-1 / power)) @ vectors.mH


@pytest.mark.parametrize("power", range(1, 9))
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_every_power_by_every_route(power, route, dtype):
    matrix = positive(2, 7, condition=1e3, dtype=dtype)
    found = inverse_root(matrix, power=power, route=route, tolerance=1e-8)
    assert torch.allclose(found.value, exact(matrix, power), rtol=1e-7, atol=1e-9)
    assert torch.allclose(inverse_root_of(matrix, power, ridge=0.0, route=route), found.value, rtol=1e-6)


def test_the_coupled_iteration_is_that_of_the_paper():
    matrix, power, steps = positive(6, condition=50.0), 4, 3
    eye = torch.eye(6, dtype=torch.float64)
    z = (1 + power) / (2 * (matrix @ matrix).norm() ** 0.5)
    m, x = z * matrix, z ** (1 / power) * eye
    for _ in range(steps):
        t = ((power + 1) * eye - m) / power
        x, m = x @ t, t @ t @ t @ t @ m
    found = inverse_root(matrix, power=power, route="newton", iterations=steps, tolerance=1e-12, check=False)
    assert torch.allclose(found.value, x, rtol=1e-12)
    assert int(found.iterations) == steps
    assert torch.allclose(inverse_root_of(matrix, power, ridge=0.0, route="newton", iterations=steps), x, rtol=1e-12)


def test_single_precision_keeps_small_eigenvalues():
    matrix = positive(3, 64, condition=1e6).float()
    true = exact(matrix.double(), 4)
    found = inverse_root(matrix, power=4)
    assert float((found.value.double() - true).norm() / true.norm()) < 1e-6
    assert float((inverse_root_of(matrix, 4, ridge=0.0).double() - true).norm() / true.norm()) < 1e-6
    alone = exact(matrix, 4)  # in single precision
    assert float((alone.double() - true).norm() / true.norm()) > 1e-3


@pytest.mark.parametrize("route", ROUTES)
def test_a_ridge_is_a_fraction_of_the_norm(route):
    half = torch.tensor([[3.0, 4.0], [4.0, 16 / 3]], dtype=torch.float64)  # of rank one
    size = half.norm()
    found = inverse_root(half, power=2, ridge=0.1, route=route, tolerance=1e-8).value
    assert torch.allclose(found, exact(half + 0.1 * size * torch.eye(2, dtype=torch.float64), 2), rtol=1e-7)
    assert torch.allclose(inverse_root_of(half, 2, ridge=0.1, route=route), found, rtol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("power", "ridge"), [(1, None), (3, None), (4, 0.1)])
def test_derivatives(power, ridge, route):
    matrix = positive(2, 4).requires_grad_()

    def root(a):
        return inverse_root((a + a.mT) / 2, power=power, ridge=ridge, route=route, tolerance=1e-11).value

    assert torch.autograd.gradcheck(root, matrix, atol=1e-6)
    same = (4 * torch.eye(3, dtype=torch.float64)).requires_grad_()  # equal eigenvalues
    (gradient,) = torch.autograd.grad(inverse_root(same, power=power, route=route).value.trace(), same)
    assert torch.allclose(gradient, -(4 ** (-1 / power - 1)) / power * torch.eye(3, dtype=torch.float64))


def test_power_two_is_the_inverse_square_root():
    matrix = positive(3, 9)
    assert torch.allclose(inverse_root(matrix, power=2).value, square_root(matrix, inverse=True).value, atol=1e-8)


def test_edges_of_the_domain():
    assert torch.allclose(inverse_root(torch.full((1, 1), 16.0), power=4).value, torch.tensor([[0.5]]))
    singular = torch.ones(2, 2, dtype=torch.float64)
    for route in ROUTES:
        with pytest.raises(NotConverged, match="not positive definite"):
            inverse_root(singular, power=4, route=route)
        with pytest.raises(NotConverged):
            inverse_root(-torch.eye(3), power=3, route=route)
        batch = torch.stack([torch.zeros(3, 3), 16 * torch.eye(3)])
        found = inverse_root_of(batch, 4, ridge=0.0, route=route)
        assert bool((found[0] == 0).all())
        assert torch.allclose(found[1], torch.eye(3) / 2, atol=1e-6)
    for wrong in (torch.ones(2, 3), torch.tensor([[1.0, 2.0], [0.0, 1.0]])):
        with pytest.raises(BadInput, match="matrix"):
            inverse_root(wrong, power=4)
    for bad in ({"power": 0}, {"power": 9}, {"power": 2, "ridge": -1.0}):
        with pytest.raises(BadInput):
            inverse_root(torch.eye(2), **bad)
