"""Columns that share a Krylov space: the recurrence of the source, few steps, and all that columns by themselves can do."""

import pytest
import scipy.sparse
import torch
from torch.autograd import gradcheck

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.solve import conjugate_gradients
from nearly.linalg.solve._block_conjugate_gradients import block_cycle

D = torch.float64


def gaussian(*shape, seed=0, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def definite(n, condition, *batch, dtype=D):
    basis = torch.linalg.qr(gaussian(*batch, n, n, dtype=dtype))[0]
    return (basis * condition ** torch.linspace(0, 1, n, dtype=D)) @ basis.mH


def relative(matrix, right, value):
    return float(((right - matrix @ value).norm(dim=-2) / right.norm(dim=-2)).max())


def naive(a, b, m, steps):
    """O'Leary's recurrence, by inner products of residuals."""
    x, r = torch.zeros_like(b), b
    z = m @ r
    d, old = z, r.mH @ z
    for _ in range(steps):
        length = torch.linalg.solve(d.mH @ a @ d, old)
        x, r = x + d @ length, r - a @ d @ length
        z = m @ r
        new = r.mH @ z
        d, old = z + d @ torch.linalg.solve(old, new), new
    return x


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_steps_are_those_of_the_source(dtype, steps, preconditioned):
    a, b = definite(40, 1e2, dtype=dtype), gaussian(40, 4, seed=1, dtype=dtype)
    m = definite(40, 5.0, dtype=dtype) if preconditioned else torch.eye(40, dtype=dtype)
    apply = m.__matmul__ if preconditioned else (lambda rest: rest)
    cycle = block_cycle(lambda x: a @ x, apply, b, torch.zeros(4, dtype=D), steps)
    torch.testing.assert_close(cycle.step, naive(a, b, m, steps), rtol=1e-8, atol=1e-10)
    assert cycle.taken.tolist() == [steps] * 4


def test_ill_conditioned_systems_take_n_over_k_steps_and_a_few():
    a, b = definite(240, 1e6), gaussian(240, 20)
    shared, alone = (conjugate_gradients(a, b, block=block, tolerance=1e-6, check=False) for block in (True, False))
    assert relative(a, b, shared.value) <= 1e-6
    assert int(shared.iterations.max()) <= 3 * 240 // 20
    assert int(alone.iterations.max()) >= 20 * int(shared.iterations.max())


@pytest.mark.parametrize("columns", [1, 3, 60, 64, 200])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_any_number_of_columns(columns, batch):
    a, b = definite(64, 1e3, *batch), gaussian(*batch, 64, columns)
    found = conjugate_gradients(a, b, block=True, tolerance=1e-10)
    assert relative(a, b, found.value) <= 1e-10
    assert found.iterations.shape == (*batch, columns)


def test_columns_may_depend_on_each_other_vanish_or_be_solved_already():
    a, b = definite(96, 1e4), gaussian(96, 8)
    b[:, 1], b[:, 2], b[:, 3] = b[:, 0], 0.0, -1e200 * b[:, 0]
    b[:, 4] = a @ torch.eye(96, dtype=D)[0]
    found = conjugate_gradients(a, b, block=True)
    torch.testing.assert_close(found.value[:, 1], found.value[:, 0], rtol=1e-6, atol=1e-9)
    assert not found.value[:, 2].any()
    assert bool(found.converged.all())


def test_columns_share_by_default_where_a_preconditioner_is_given_for_a_dense_matrix():
    a, given = definite(128, 1e4), torch.eye(128, dtype=D)
    few, many = (int(conjugate_gradients(a, gaussian(128, k), preconditioner=given).iterations.max()) for k in (2, 16))
    assert many < few / 4
    sparse = conjugate_gradients(scipy.sparse.csr_matrix(a.numpy()), gaussian(128, 16))
    assert int(sparse.iterations.max()) > few / 2


def test_it_goes_through_operators_preconditioners_and_derivatives():
    a, b = definite(30, 1e3), gaussian(30, 4).requires_grad_()
    inverse = torch.linalg.inv(a + torch.eye(30, dtype=D))
    found = conjugate_gradients(lambda x: a @ x, b, preconditioner=inverse, block=True, tolerance=1e-12)
    torch.testing.assert_close(found.value, torch.linalg.solve(a, b.detach()), rtol=1e-8, atol=1e-10)
    assert int(found.iterations.max()) < int(conjugate_gradients(a, b, block=True, tolerance=1e-12).iterations.max())
    small = definite(6, 10.0).requires_grad_()
    assert gradcheck(
        lambda m, r: conjugate_gradients((m + m.mT) / 2, r, block=True, tolerance=1e-13).value, (small, gaussian(6, 2))
    )


def test_single_precision_and_far_scales():
    a, b = definite(128, 1e2), gaussian(128, 16)
    found = conjugate_gradients(a.float(), b.float(), block=True)
    assert found.value.dtype == torch.float32
    assert relative(a, b, found.value.double()) <= 2e-4
    for scale in (2.0**-900, 2.0**900):
        far = conjugate_gradients(a * scale, b, block=True)
        torch.testing.assert_close(far.value * scale, conjugate_gradients(a, b, block=True).value)


def test_failures_are_told_as_without_a_block():
    a, b = definite(128, 1e2), gaussian(128, 16)
    for bad in (-a, a - 20 * torch.eye(128, dtype=D), torch.zeros_like(a)):
        with pytest.raises(NotConverged, match="positive definite"):
            conjugate_gradients(bad, b, block=True)
    with pytest.raises(NotConverged, match="raise iterations="):
        conjugate_gradients(a, b, iterations=3, block=True)
    skew = gaussian(128, 128)
    found = conjugate_gradients(a + 0.1 * (skew - skew.mT), b, block=True, check=False)
    true = (b - (a + 0.1 * (skew - skew.mT)) @ found.value).norm(dim=0) / b.norm(dim=0)
    torch.testing.assert_close(found.residual, true, rtol=1e-6, atol=1e-14)
    with pytest.raises(BadInput, match="block"):
        conjugate_gradients(a, b, block="yes")


def test_one_bad_system_does_not_hold_up_the_others():
    a, b = definite(96, 1e4, 4), gaussian(4, 96, 12)
    a[2] -= 50 * torch.eye(96, dtype=D)
    found = conjugate_gradients(a, b, block=True, check=False)
    good = [0, 1, 3]
    assert found.converged[good].all()
    assert not found.converged[2].any()
    assert int(found.iterations[good].max()) <= int(conjugate_gradients(a[good], b[good], block=True).iterations.max())


def test_a_consistent_singular_system_is_solved():
    values = torch.cat([torch.zeros(64, dtype=D), torch.linspace(1, 10, 64, dtype=D)])
    basis = torch.linalg.qr(gaussian(128, 128))[0]
    a = (basis * values) @ basis.mT
    b = a @ gaussian(128, 32)
    found = conjugate_gradients((a + a.mT) / 2, b, block=True)
    assert relative(a, b, found.value) <= 1e-8
