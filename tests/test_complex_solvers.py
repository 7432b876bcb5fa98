"""Hermitian and general complex systems: against dense solutions, finite differences, and what is no such system."""

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.operator import adjoint, as_operator, as_square
from nearly.linalg.precondition import chebyshev, deflation, jacobi, neumann, symmetric_over_relaxation
from nearly.linalg.solve import (
    conjugate_gradients,
    deep_conjugate_directions,
    gmres,
    minres,
    successive_over_relaxation,
    train_approximate_inverse,
)

ALL = [conjugate_gradients, minres, gmres]
KINDS = ["dense", "array", "csr", "coo", "scipy", "linear operator", "callable", "operator", "products alone"]


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spectral(values: torch.Tensor, *batch: int, seed: int = 1) -> torch.Tensor:
    """Hermitian, with these eigenvalues."""
    basis = torch.linalg.qr(gaussian(*batch, len(values), len(values), seed=seed))[0]
    matrix = (basis * values) @ basis.mH
    return (matrix + matrix.mH) / 2


def system_for(solver, *batch: int, n: int = 24) -> torch.Tensor:
    """Positive definite, indefinite or without any symmetry."""
    values = torch.linspace(1, 8, n, dtype=torch.float64)
    if solver is conjugate_gradients:
        return spectral(values, *batch)
    if solver is minres:
        return spectral(values * (-1.0) ** torch.arange(n), *batch)
    return 6 * (1 - 1j) * torch.eye(n) + gaussian(*batch, n, n, seed=1)


def in_form(kind: str, dense: torch.Tensor):
    return {
        "dense": lambda: dense,
        "array": lambda: dense.numpy(),
        "csr": lambda: as_square(scipy.sparse.csr_matrix(dense.numpy()), complex_too=True),
        "coo": lambda: dense.to_sparse(),
        "scipy": lambda: scipy.sparse.csr_matrix(dense.numpy()),
        "linear operator": lambda: aslinearoperator(dense.numpy()),
        "callable": lambda: lambda x: dense @ x,
        "operator": lambda: as_operator(aslinearoperator(dense.numpy()), complex_too=True),
        "products alone": lambda: LinearOperator(
            dense.shape, matvec=lambda x: dense.numpy() @ x, dtype=dense.numpy().dtype
        ),
    }[kind]()


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_any_complex_matrix_with_products_is_solved(solver, kind, dtype):
    dense = system_for(solver).to(dtype)
    right = gaussian(24, 3).to(dtype)
    tolerance = 1e-5 if dtype == torch.complex64 else 1e-11
    matrix = in_form(kind, dense)
    for b in (right, right.real, right[:, 0]):
        found = solver(matrix, b, tolerance=tolerance)
        exact = torch.linalg.solve(dense, b.to(dtype))
        torch.testing.assert_close(found.value, exact, atol=10 * tolerance, rtol=10 * tolerance)
        assert found.value.dtype == dtype
        assert found.residual.dtype == dtype.to_real()
        true = (b - dense @ found.value).norm(dim=0) / b.norm(dim=0)
        torch.testing.assert_close(found.residual, true, atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_real_matrices_take_complex_right_hand_sides(solver, kind):
    dense = (spectral(torch.linspace(1, 8, 24)).real + torch.eye(24)).double()
    if solver is gmres:
        dense = dense + 0.3 * gaussian(24, 24, dtype=torch.float64)
    right = gaussian(24, 3, seed=2)
    found = solver(in_form(kind, dense), right, tolerance=1e-11)
    torch.testing.assert_close(found.value, torch.linalg.solve(dense + 0j, right), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("solver", ALL)
def test_callables_are_given_the_dtype_of_the_right_hand_side(solver):
    matrix, right = 2 * torch.eye(5), torch.arange(1.0, 6.0)
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        given = matrix.to(dtype)
        found = solver(lambda x, given=given: given @ x, right.to(dtype))  # of one dtype alone
        assert found.value.dtype == dtype
        torch.testing.assert_close(found.value, right.to(dtype) / 2)


@pytest.mark.parametrize("solver", ALL)
def test_batches_are_each_problem_alone_and_zeros_are_zeros(solver):
    matrix, right = system_for(solver, 2, 3), gaussian(2, 3, 24, 2, seed=2)
    right[0, 1, :, 1] = 0
    found = solver(matrix, right, tolerance=1e-11)
    torch.testing.assert_close(found.value, torch.linalg.solve(matrix, right), atol=1e-10, rtol=1e-10)
    assert found.iterations[0, 1, 1] == 0
    assert not bool(found.value[0, 1, :, 1].any())
    alone = solver(matrix[1, 2], right[1, 2], tolerance=1e-11)
    assert (alone.iterations - found.iterations[1, 2]).abs().max() <= 1
    torch.testing.assert_close(alone.value, found.value[1, 2], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("solver", ALL)
def test_steps_do_not_depend_on_a_unitary_change_of_phases(solver):
    # D A D^H x = D b: for a diagonal of phases the iterates are D times those of A, a real matrix, step by step.
    values = torch.linspace(1, 8, 24, dtype=torch.float64) * (
        1 if solver is conjugate_gradients else (-1.0) ** torch.arange(24)
    )
    basis = torch.linalg.qr(gaussian(24, 24, dtype=torch.float64))[0]
    matrix, right = (basis * values) @ basis.mT, gaussian(24, seed=2, dtype=torch.float64)
    inverse = torch.linspace(1, 2, 24, dtype=torch.float64).diag()
    phases = torch.polar(torch.ones(24, dtype=torch.float64), torch.arange(24, dtype=torch.float64))
    turned = phases[:, None] * matrix * phases.conj()
    for preconditioner in (None, inverse):
        for steps in (1, 4, 9):
            limits = {"preconditioner": preconditioner, "iterations": steps, "check": False}
            limits |= {"block": False} if solver is conjugate_gradients else {}
            plain, found = solver(matrix, right, **limits), solver(turned, phases * right, **limits)
            torch.testing.assert_close(found.value, phases * plain.value, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(found.residual, plain.residual)


@pytest.mark.parametrize("solver", ALL)
def test_derivatives_are_those_of_the_inverse(solver):
    base, right = system_for(solver, 2, n=4), gaussian(2, 4, 2, seed=3)
    hermitian = solver is not gmres

    def value(a, b):
        return solver((a + a.mH) / 2 if hermitian else a, b, tolerance=1e-14).value

    inputs = (base.requires_grad_(), right.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)
    # One of them real: its derivatives are real.
    real = (base.detach().real + 9 * torch.eye(4)).requires_grad_()
    mixed = (lambda a, b: value((a + a.mT) / 2, b)) if hermitian else value
    assert torch.autograd.gradcheck(mixed, (real, right))
    assert torch.autograd.gradcheck(value, (base, right.detach().real.requires_grad_()))


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("real", [False, True])
def test_derivatives_of_sparse_values_and_operators_right_hand_sides(solver, real):
    dense, right = system_for(solver), gaussian(24, 2, seed=2).requires_grad_()
    dense = (dense.real + 9 * torch.eye(24)) if real else dense
    dense = torch.where((dense.abs() > 0.5) & (dense.abs() > 0.5).mT, dense, 0) + 12 * torch.eye(24)
    assert 30 < int((dense != 0).sum()) < 24 * 24
    weights = gaussian(24, 2, seed=3)

    def slopes(value, *inputs):
        return torch.autograd.grad((value * weights).real.sum(), inputs)

    plain = dense.clone().requires_grad_()
    of_matrix, of_right = slopes(torch.linalg.solve(plain if not real else plain + 0j, right), plain, right)
    sparse = in_form("csr", dense).requires_grad_()
    found = slopes(solver(sparse, right, tolerance=1e-12).value, sparse, right)
    torch.testing.assert_close(found[0].to_dense(), torch.where(dense != 0, of_matrix, 0), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[1], of_right, atol=1e-9, rtol=1e-9)
    operators = [
        aslinearoperator(dense.numpy()),
        as_operator(dense.__matmul__, dense.shape, dense.T.__matmul__, complex_too=True),
    ]
    for matrix in operators if not real else operators[:1]:
        (slope,) = slopes(solver(matrix, right, tolerance=1e-12).value, right)
        torch.testing.assert_close(slope, of_right, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("solver", ALL)
def test_sizes_far_from_one_and_ill_conditioned(solver):
    matrix, right = system_for(solver, n=6), gaussian(6, 2)
    exact = torch.linalg.solve(matrix, right)
    for a, b in ((1e300, 1e300), (1e-300, 1e-300), (1e150, 1e-150), (1e-160, 1e100)):
        found = solver(matrix * a, right * b)
        assert float((found.value * (a / b) - exact).abs().max()) < 1e-6
    assert not bool(solver(matrix * 1e-200, right * 1e200, check=False).converged.any())  # the solution is no number
    assert solver([[4.0]], [8j]).value.tolist() == [2j]
    hard = spectral(torch.logspace(0, 6, 20, dtype=torch.float64))
    found = solver(hard, right=gaussian(20), tolerance=1e-9, iterations=2000)
    error = (found.value - torch.linalg.solve(hard, gaussian(20))).norm() / found.value.norm()
    assert float(error) <= 1e6 * 1e-9  # condition number times residual


@pytest.mark.parametrize("solver", [conjugate_gradients, minres])
def test_complex_symmetric_is_not_hermitian_and_the_residual_tells(solver):
    matrix = gaussian(20, 20)
    matrix = (matrix + matrix.mT) / 2 + 8 * torch.eye(20)
    right = gaussian(20, seed=2)
    with pytest.raises(NotConverged):
        solver(matrix, right)
    for form in ("dense", "scipy", "callable"):
        found = solver(in_form(form, matrix), right, check=False)
        true = float((right - matrix @ found.value).norm() / right.norm())
        assert float(found.residual) == pytest.approx(true)
        assert bool(found.converged) == (true <= 1e-8)
    torch.testing.assert_close(gmres(matrix, right).value, torch.linalg.solve(matrix, right), atol=1e-6, rtol=1e-6)


def test_helmholtz_with_absorption():
    n = 30
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
    laplacian = scipy.sparse.csr_matrix(scipy.sparse.kronsum(line, line))
    matrix = (laplacian - (200 + 20j) * scipy.sparse.identity(n * n)).tocsr()
    right = gaussian(n * n)
    shifted = torch.linalg.inv(torch.from_numpy(laplacian.toarray()))  # real, for a complex system
    found = gmres(matrix, right, preconditioner=shifted)
    assert float(np.linalg.norm(matrix @ found.value.numpy() - right.numpy()) / right.norm()) <= 1.01e-8
    assert int(found.iterations) < 60


@pytest.mark.parametrize("solver", [conjugate_gradients, minres])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("preconditioned", [False, True])
def test_one_column_takes_the_steps_of_many(solver, dtype, preconditioned):
    values = torch.linspace(1, 30, 24, dtype=torch.float64)
    values = values if solver is conjugate_gradients else values * (-1.0) ** torch.arange(24)
    basis = torch.linalg.qr(gaussian(24, 24, dtype=dtype))[0]
    inverse = torch.diag(torch.linspace(1, 3, 24, dtype=torch.float64)).to(dtype)
    right = gaussian(24, 3, dtype=dtype)
    matrix = torch.stack([(basis * one) @ basis.mH for one in (values, values - values[4])])  # the second is singular
    limits = {"preconditioner": inverse.__matmul__ if preconditioned else None, "check": False}
    limits |= {"block": False} if solver is conjugate_gradients else {}
    for one in matrix:
        for steps in (1, 2, 7, 100):
            many = solver(one.to_sparse_csr(), right, iterations=steps, **limits)
            for j in range(3):
                found = solver(one.to_sparse_csr(), right[:, j], iterations=steps, **limits)
                assert bool(found.converged) == bool(many.converged[j])
                if steps < 24:  # else rounding counts
                    assert int(found.iterations) == int(many.iterations[j])
                    torch.testing.assert_close(found.value, many.value[:, j], rtol=1e-9, atol=1e-9)


def test_preconditioners_of_hermitian_matrices():
    values = torch.cat([torch.logspace(-5, -4, 3), torch.linspace(1, 10, 37)]).double()
    matrix, right = spectral(values), gaussian(40, 2)
    exact = torch.linalg.solve(matrix, right)
    modes = torch.linalg.eigh(matrix)[1][:, :3] @ gaussian(3, 3)
    well = spectral(values[3:], seed=4)
    alone = int(conjugate_gradients(well, right[3:], block=False).iterations.max())
    for solver in ALL:
        found = solver(matrix, right, preconditioner=deflation(matrix, modes), tolerance=1e-10)
        torch.testing.assert_close(found.value, exact, atol=1e-3, rtol=1e-6)
        assert int(found.iterations.max()) < 60
        found = solver(well, right[3:], preconditioner=chebyshev(well, low=1, high=10, steps=4))
        torch.testing.assert_close(found.value, torch.linalg.solve(well, right[3:]), atol=1e-6, rtol=1e-6)
        assert int(found.iterations.max()) < 0.5 * alone
    scale = 10.0 ** torch.linspace(-2, 2, 37, dtype=torch.float64)
    scaled = scale[:, None] * well * scale
    for make in (jacobi, symmetric_over_relaxation):
        for form in ("dense", "scipy"):
            inverse = make(in_form(form, scaled))
            columns = inverse(torch.eye(37, dtype=torch.complex128))
            torch.testing.assert_close(columns, columns.mH, rtol=1e-10, atol=1e-10)
            found = conjugate_gradients(
                scaled, scale[:, None] * right[3:], preconditioner=inverse, tolerance=1e-10, iterations=500
            )
            torch.testing.assert_close(
                scale[:, None] * found.value, torch.linalg.solve(well, right[3:]), atol=1e-4, rtol=1e-4
            )


def test_real_preconditioners_act_on_both_parts():
    matrix = spectral(torch.linspace(1, 8, 12, dtype=torch.float64)).real.contiguous()
    right, modes = gaussian(12, 2), gaussian(12, 2, dtype=torch.float64)
    for apply in (
        jacobi(matrix),
        neumann(matrix, scale=0.1, steps=3),
        deflation(matrix, modes),
        symmetric_over_relaxation(matrix),
        as_operator(matrix.__matmul__, matrix.shape).__matmul__,
    ):
        torch.testing.assert_close(apply(right), torch.complex(apply(right.real), apply(right.imag)))


def test_adjoints_of_all_forms():
    dense, vectors = system_for(gmres), gaussian(24, 2)
    for kind in ("dense", "csr", "scipy", "linear operator"):
        matrix = as_square(in_form(kind, dense), complex_too=True)
        torch.testing.assert_close(adjoint(matrix) @ vectors, dense.mH @ vectors)
    operator = as_operator(aslinearoperator(dense.numpy()), complex_too=True)
    torch.testing.assert_close(operator.T @ vectors, dense.mT @ vectors)
    hermitian = system_for(minres)
    alone = as_operator(hermitian.__matmul__, hermitian.shape, complex_too=True)
    assert alone.symmetric
    torch.testing.assert_close(alone.T @ vectors, hermitian.mT @ vectors)
    torch.testing.assert_close(alone.H @ vectors, hermitian @ vectors)
    real = vectors.real.clone().requires_grad_()
    (slope,) = torch.autograd.grad((operator @ real).imag.sum(), real)
    torch.testing.assert_close(slope, dense.imag.sum(0)[:, None].expand(-1, 2))


def test_what_is_no_complex_linear_map_or_not_taken_is_refused_by_name():
    eye, right = torch.eye(3, dtype=torch.complex128), gaussian(3)
    refused = [
        ("matrix", lambda: conjugate_gradients(lambda x: x.conj() * 2, right)),
        ("matrix", lambda: conjugate_gradients(eye * torch.nan, right)),
        ("right", lambda: minres(eye, right * torch.inf)),
        ("preconditioner", lambda: gmres(eye.real, right.real, preconditioner=eye)),
        ("preconditioner", lambda: gmres(eye.real, right.real, preconditioner=lambda rest: rest * 1j)),
        ("directions", lambda: deflation(eye.real, eye[:, :1])),
        ("right", lambda: deep_conjugate_directions(eye.real, right, lambda rest: rest)),
        ("matrix", lambda: train_approximate_inverse(torch.nn.Linear(3, 3), eye)),
        ("matrix", lambda: as_operator(aslinearoperator(eye.numpy()))),
        ("right", lambda: successive_over_relaxation(eye.real, right)),
    ]
    for form in ("dense", "array", "csr", "coo", "scipy", "linear operator", "operator"):
        matrix = in_form(form, 2 * eye)
        refused += [("matrix", lambda matrix=matrix: successive_over_relaxation(matrix, right.real))]
    for argument, call in refused:
        with pytest.raises(BadInput, match=r"real|linear|finite") as caught:
            call()
        assert caught.value.argument == argument
