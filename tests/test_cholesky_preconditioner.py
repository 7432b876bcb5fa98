"""Dense positive definite systems by default: few steps, whatever their condition and scale; and no harm where factors are none."""

import dataclasses
from importlib import import_module

import pytest
import torch
from torch.autograd import gradcheck

from nearly.core.errors import NotConverged
from nearly.linalg.solve import conjugate_gradients
from nearly.linalg.solve._cholesky_preconditioner import cholesky_preconditioner

D = torch.float64
MODULE = import_module("nearly.linalg.solve.conjugate_gradients")


def gaussian(*shape, seed=0, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def definite(n, condition, *batch, dtype=D):
    basis = torch.linalg.qr(gaussian(*batch, n, n, dtype=dtype))[0]
    matrix = (basis * condition ** torch.linspace(0, 1, n, dtype=D)) @ basis.mH
    return (matrix + matrix.mH) / 2


def relative(matrix, right, value):
    return float(((right - matrix @ value).norm(dim=-2) / right.norm(dim=-2)).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32], ids=str)
def test_the_product_is_that_of_the_formula(dtype):
    a, b = definite(30, 1e3, 2, dtype=torch.promote_types(dtype, D)), gaussian(2, 30, 3, seed=1, dtype=dtype)
    scale = a.diagonal(dim1=-2, dim2=-1).real.sqrt()
    shifted = a + 2 * torch.finfo(torch.float32).eps * torch.diag_embed(scale**2).to(a)
    found = cholesky_preconditioner(a.to(dtype))(b)
    assert found.dtype == dtype
    torch.testing.assert_close(found.to(a), torch.linalg.solve(shifted, b.to(a)), rtol=1e-3, atol=1e-5)
    tiny = cholesky_preconditioner(a.to(dtype))(b * 2.0**-100)
    torch.testing.assert_close(tiny * 2.0**100, found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("columns", [1, 7])
def test_ill_conditioned_systems_take_a_few_steps(dtype, batch, columns):
    a, b = definite(100, 1e6, *batch, dtype=dtype), gaussian(*batch, 100, columns, dtype=dtype)
    found = conjugate_gradients(a, b, tolerance=1e-8)
    assert relative(a, b, found.value) <= 1e-8
    assert int(found.iterations.max()) <= 8
    assert int(conjugate_gradients(a, b, tolerance=1e-8, block=False, check=False).iterations.max()) >= 300


def test_more_of_the_diagonal_is_raised_where_less_gives_no_factor():
    a, b = definite(60, 1e11), gaussian(60, 2)
    found = conjugate_gradients(a, b, tolerance=1e-5)
    assert relative(a, b, found.value) <= 1e-5
    with pytest.raises(NotConverged):
        conjugate_gradients(a, b, tolerance=1e-5, block=False)


def test_units_of_the_unknowns_do_not_matter():
    a, b = definite(40, 1e2), gaussian(40, 2)
    units = 10.0 ** torch.linspace(-8, 8, 40, dtype=D)
    found = conjugate_gradients(units[:, None] * a * units, units[:, None] * b, check=False)
    assert int(found.iterations.max()) <= 10
    torch.testing.assert_close(units[-1] * found.value[-1], torch.linalg.solve(a, b)[-1], rtol=1e-3, atol=0)
    for scale in (2.0**-900, 2.0**900):
        far = conjugate_gradients(a * scale, b)
        torch.testing.assert_close(far.value * scale, conjugate_gradients(a, b).value)


def test_systems_without_factors_do_not_hold_up_the_others():
    a, b = definite(60, 1e4, 4), gaussian(4, 60, 2)
    a[1] -= 50 * torch.eye(60, dtype=D)
    a[2] = torch.diag(torch.linspace(-1, 1, 60, dtype=D))
    found = conjugate_gradients(a, b, check=False)
    assert found.converged[[0, 3]].all()
    assert not found.converged[[1, 2]].any()
    assert "positive definite" in found.status
    assert int(found.iterations[[0, 3]].max()) <= 5


@pytest.mark.parametrize("wrong", [lambda rest: -rest, torch.zeros_like, lambda rest: rest * torch.nan])
def test_without_good_factors_the_iteration_goes_on_by_itself(wrong, monkeypatch):
    monkeypatch.setattr(MODULE, "_RECIPE", dataclasses.replace(MODULE._RECIPE, factors=lambda matrix: wrong))
    a, b = definite(40, 1e2), gaussian(40, 2)
    found = conjugate_gradients(a, b)
    assert relative(a, b, found.value) <= 1e-8
    assert int(found.iterations.max()) > 10


def test_complex_right_sides_of_real_systems():
    a, b = definite(30, 1e4), gaussian(30, 2, dtype=torch.complex128)
    found = conjugate_gradients(a, b)
    assert relative(a.to(b), b, found.value) <= 1e-8
    assert int(found.iterations.max()) <= 4


def test_derivatives_take_the_same_factors(monkeypatch):
    made = []

    def factors(matrix):
        made.append(matrix)
        return cholesky_preconditioner(matrix)

    monkeypatch.setattr(MODULE, "_RECIPE", dataclasses.replace(MODULE._RECIPE, factors=factors))
    a, b = definite(16, 10.0).requires_grad_(), gaussian(16, 2).requires_grad_()
    conjugate_gradients(a, b).value.sum().backward()
    assert len(made) == 1
    small = gaussian(2, 16, seed=3).requires_grad_()
    assert gradcheck(
        lambda u: conjugate_gradients(definite(16, 10.0) + u.mT @ u, b.detach(), tolerance=1e-13).value, small
    )
