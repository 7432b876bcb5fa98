"""Conjugate gradients, MINRES and GMRES in batches, and their preconditioners: against textbook loops, theory, and bad input."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator

from nearly.core.errors import BadInput, FactorizationFailed, NotConverged
from nearly.linalg.operator import as_operator, as_square, diagonal_of
from nearly.linalg.precondition import chebyshev, deflation, jacobi, neumann, symmetric_over_relaxation
from nearly.linalg.solve import conjugate_gradients, gmres, minres
from nearly.linalg.triangular import triangular_solver

ALL = [conjugate_gradients, minres, gmres]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spectral(values: torch.Tensor, *batch: int, seed: int = 1) -> torch.Tensor:
    """Symmetric, with these eigenvalues."""
    basis = torch.linalg.qr(gaussian(*batch, len(values), len(values), seed=seed))[0]
    matrix = (basis * values) @ basis.mT
    return (matrix + matrix.mT) / 2


def poisson(cells: int) -> scipy.sparse.csr_matrix:
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(cells, cells))
    return scipy.sparse.csr_matrix(scipy.sparse.kronsum(line, line))


def textbook(matrix, right, tolerance, inverse):
    """Saad 2003, algorithm 9.1, one right-hand side."""
    x, rest = torch.zeros_like(right), right
    z = inverse @ rest
    direction, steps = z, 0
    while rest.norm() > tolerance * right.norm():
        length = (rest @ z) / (direction @ matrix @ direction)
        x, after = x + length * direction, rest - length * matrix @ direction
        better = inverse @ after
        direction = better + (after @ better) / (rest @ z) * direction
        rest, z, steps = after, better, steps + 1
    return x, steps


@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradients_take_the_textbooks_steps(preconditioned):
    matrix, right = spectral(torch.logspace(0, 1, 30, dtype=torch.float64), 2), gaussian(2, 30, 3)
    inverse = spectral(torch.linspace(0.5, 2, 30, dtype=torch.float64), 2, seed=2)
    given = inverse if preconditioned else None
    found = conjugate_gradients(matrix, right, preconditioner=given, tolerance=1e-6, block=False)
    for i in range(2):
        for j in range(3):
            other = inverse[i] if preconditioned else torch.eye(30, dtype=torch.float64)
            x, steps = textbook(matrix[i], right[i, :, j], 1e-6, other)
            assert int(found.iterations[i, j]) == steps
            torch.testing.assert_close(found.value[i, :, j], x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("kind", ["dense", "array", "scipy", "coo", "csr", "operator", "callable", "linear operator"])
def test_any_matrix_with_products_is_solved(solver, kind):
    sparse = poisson(7)
    dense = torch.from_numpy(sparse.toarray())
    matrix = {
        "dense": dense,
        "array": sparse.toarray(),
        "scipy": sparse,
        "coo": dense.to_sparse(),
        "csr": as_square(sparse),
        "operator": as_operator(lambda x: dense @ x, shape=(49, 49)),
        "callable": lambda x: dense @ x,
        "linear operator": aslinearoperator(sparse),
    }[kind]
    right = gaussian(49, 4)
    found = solver(matrix, right, tolerance=1e-10)
    torch.testing.assert_close(found.value, torch.linalg.solve(dense, right), atol=1e-7, rtol=1e-7)
    single = solver(matrix, right[:, 0], tolerance=1e-10)
    assert single.residual.shape == ()
    torch.testing.assert_close(single.value, found.value[:, 0], atol=1e-7, rtol=1e-7)


def test_blocks_of_columns_are_one_solve():
    matrix, right = poisson(40), gaussian(1600, 400)
    found = conjugate_gradients(matrix, right, tolerance=1e-4)
    one = conjugate_gradients(matrix, right[:, 399], tolerance=1e-4)
    assert found.residual.shape == (400,)
    assert int(found.iterations[399]) == int(one.iterations)
    assert float(found.residual.max()) <= 1e-4


@pytest.mark.parametrize("solver", ALL)
def test_columns_that_are_done_wait_for_the_others(solver):
    matrix, right = spectral(torch.logspace(0, 2, 30, dtype=torch.float64)), gaussian(30, 3)
    right[:, 0] = 0
    right[:, 1] = torch.linalg.eigh(matrix)[1][:, 3]
    found = solver(matrix, right, **({"block": False} if solver is conjugate_gradients else {}))
    assert found.iterations.tolist()[0] == 0
    assert found.iterations.tolist()[1] <= 2
    assert found.iterations.tolist()[2] > 10
    assert float(found.value[:, 0].abs().max()) == 0
    torch.testing.assert_close(found.value, torch.linalg.solve(matrix, right), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("solver", ALL)
def test_derivatives_are_those_of_the_inverse(solver):
    matrix, right = spectral(torch.linspace(1, 3, 5, dtype=torch.float64), 2), gaussian(2, 5, 2)

    def value(a, b):
        return solver((a + a.mT) / 2, b, tolerance=1e-14).value

    inputs = (matrix.requires_grad_(), right.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


def test_derivatives_of_a_sparse_tensor_and_of_an_operators_right_hand_side():
    dense = torch.from_numpy(poisson(4).toarray())
    right, weights = gaussian(16, 2).requires_grad_(), gaussian(16, 2, seed=3)
    expected = torch.linalg.solve(dense, weights)
    for matrix in (as_square(poisson(4)), aslinearoperator(poisson(4))):
        (gradient,) = torch.autograd.grad((conjugate_gradients(matrix, right).value * weights).sum(), right)
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    entries = dense.to_sparse_csr().requires_grad_()
    (conjugate_gradients(entries, right.detach()).value * weights).sum().backward()
    full = -expected @ torch.linalg.solve(dense, right.detach()).T
    found = entries.grad.to_dense()
    torch.testing.assert_close(found[dense != 0], full[dense != 0], atol=1e-6, rtol=1e-6)


def test_a_gradient_that_cannot_be_solved_for_raises():
    matrix = spectral(torch.logspace(0, 6, 40, dtype=torch.float64))
    right = torch.linalg.eigh(matrix)[1][:, 0].clone().requires_grad_()
    value = conjugate_gradients(matrix, right, iterations=3, block=False).value
    with pytest.raises(NotConverged, match="raise iterations"):
        torch.autograd.grad((value * gaussian(40)).sum(), right)


def test_minres_solves_indefinite_and_singular_consistent_systems():
    values = torch.cat([torch.linspace(-5, -1, 10), torch.zeros(1), torch.linspace(1, 5, 10)]).double()
    matrix = spectral(values)
    right = matrix @ gaussian(21, 3)
    assert bool(minres(matrix, right).converged.all())
    outside = minres(matrix, gaussian(21, 3), check=False)
    assert not bool(outside.converged.any())
    assert int(outside.iterations.max()) < 100  # it sees that what is left is in the null space
    assert "outside its range" in outside.status
    told = conjugate_gradients(matrix, right, check=False)
    assert not bool(told.converged.any())
    assert "no positive curvature" in told.status


def test_minres_and_gmres_minimize_the_residual():
    matrix, right = spectral(torch.cat([-torch.linspace(1, 3, 8), torch.linspace(1, 9, 12)]).double()), gaussian(20)
    for steps in (1, 3, 7):
        krylov = torch.stack([torch.linalg.matrix_power(matrix, j + 1) @ right for j in range(steps)], 1)
        least = float(
            (right - krylov @ torch.linalg.lstsq(krylov, right[:, None]).solution[:, 0]).norm() / right.norm()
        )
        for solver in (minres, gmres):
            found = solver(matrix, right, iterations=steps, check=False)
            assert math.isclose(float(found.residual), least, rel_tol=1e-6), solver


def test_gmres_solves_what_is_not_normal_and_restarts():
    shifted = 3 * torch.eye(60, dtype=torch.float64) + torch.diag(torch.full((59,), 2.0), 1).double()
    right = gaussian(60, 2)
    for restart in (5, 60):
        found = gmres(shifted, right, restart=restart, tolerance=1e-10)
        torch.testing.assert_close(found.value, torch.linalg.solve(shifted, right), atol=1e-6, rtol=1e-6)
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()  # the first step gains nothing
    torch.testing.assert_close(gmres(rotation, gaussian(2)).value, torch.linalg.solve(rotation, gaussian(2)))
    with pytest.raises(NotConverged, match="no longer falls"):
        gmres(rotation, gaussian(2), restart=1)
    preconditioned = gmres(shifted, right, preconditioner=torch.linalg.inv(shifted + 0.1 * gaussian(60, 60) / 60))
    assert int(preconditioned.iterations.max()) < 8
    upper = shifted.clone().requires_grad_()
    (gmres(upper, right, preconditioner=lambda r: r / 3, tolerance=1e-12).value.sum()).backward()
    expected = torch.linalg.solve(shifted.T, torch.ones(60, 2).double())
    torch.testing.assert_close(upper.grad, -expected @ torch.linalg.solve(shifted, right).T, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("solver", ALL)
def test_sizes_far_from_one_and_one_by_one(solver):
    matrix, right = spectral(torch.linspace(1, 9, 6, dtype=torch.float64)), gaussian(6, 2)
    exact = torch.linalg.solve(matrix, right)
    for a, b in ((1e300, 1e300), (1e-300, 1e-300), (1e150, 1e-150), (1e-160, 1e100)):
        found = solver(matrix * a, right * b)
        assert float(((found.value * (a / b)) - exact).abs().max()) < 1e-6
    beyond = solver(matrix * 1e-200, right * 1e200, check=False)  # the solution is no number
    assert not bool(beyond.converged.any())
    assert solver([[4.0]], [8.0]).value.tolist() == [2.0]
    assert solver([[4.0]], [0.0]).value.tolist() == [0.0]


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize(
    ("argument", "matrix", "right", "extra"),
    [
        ("matrix", gaussian(3, 4), gaussian(3), {}),
        ("matrix", gaussian(3), gaussian(3), {}),
        ("matrix", torch.zeros(0, 0), gaussian(3), {}),
        ("matrix", gaussian(3, 3), gaussian(2, 3, 1), {}),
        ("matrix", "text", gaussian(3), {}),
        ("matrix", scipy.sparse.csr_matrix(np.diag([1.0, np.nan, 1.0])), gaussian(3), {}),
        ("right", torch.eye(3), gaussian(4), {}),
        ("right", torch.eye(3), gaussian(3, 0), {}),
        ("right", torch.eye(3).expand(2, 3, 3), gaussian(2, 3), {}),
        ("right", torch.eye(3), torch.tensor([1.0, math.inf, 1.0]), {}),
        ("preconditioner", torch.eye(3), gaussian(3), {"preconditioner": 3}),
        ("preconditioner", torch.eye(3), gaussian(3), {"preconditioner": lambda r: r[:2]}),
        ("preconditioner", torch.eye(3), gaussian(3), {"preconditioner": torch.full((3, 3), torch.nan)}),
        ("tolerance", torch.eye(3), gaussian(3), {"tolerance": math.nan}),
        ("iterations", torch.eye(3), gaussian(3), {"iterations": 0}),
    ],
)
def test_bad_input_is_refused_by_name(solver, argument, matrix, right, extra):
    with pytest.raises(BadInput) as caught:
        solver(matrix, right, **extra)
    assert caught.value.argument == argument


@pytest.mark.parametrize("solver", ALL)
def test_what_breaks_is_told(solver):
    matrix, right = spectral(torch.linspace(1, 9, 6, dtype=torch.float64)), gaussian(6)
    calls = []

    def spoiled(rest):
        calls.append(1)
        return rest if len(calls) < 3 else rest * torch.nan

    for other in (spoiled, lambda rest: 0 * rest):
        found = solver(matrix, right, preconditioner=other, check=False)
        assert not bool(found.converged), other
        assert bool(torch.isfinite(found.value).all())
    with pytest.raises(NotConverged, match="rounding"):
        solver(matrix, right, tolerance=1e-30)


def test_chebyshev_keeps_its_bound_and_neumann_is_its_series():
    values = torch.linspace(1, 100, 40, dtype=torch.float64)
    matrix, right = spectral(values), gaussian(40, 2)
    for steps in (1, 4, 9):
        apply = chebyshev(matrix, low=1, high=100, steps=steps)
        left = matrix @ apply(torch.eye(40, dtype=torch.float64)) - torch.eye(40)
        bound = 1 / math.cosh(steps * math.acosh(101 / 99))
        assert 0.8 * bound < float(torch.linalg.matrix_norm(left, 2)) < bound * (1 + 1e-9)
        root = math.sqrt((1 + bound) / (1 - bound))
        q = (root - 1) / (root + 1)
        found = conjugate_gradients(matrix, right, preconditioner=apply)
        # The theorem's rate; the residual is at most 10 off from the energy norm's.
        assert float(found.iterations.max()) <= 1 + math.log(1e-8 / 2 / 10) / math.log(q)
    power, series = right, torch.zeros_like(right)
    for _ in range(5):
        series, power = series + 0.01 * power, power - 0.01 * matrix @ power
    torch.testing.assert_close(neumann(matrix, scale=0.01, steps=5)(right), series)


def test_deflated_modes_no_longer_count():
    values = torch.cat([torch.logspace(-6, -4, 5), torch.linspace(1, 10, 45)]).double()
    matrix, right = spectral(values), gaussian(50, 3)
    modes = torch.linalg.eigh(matrix)[1][:, :5] @ gaussian(5, 5)  # any basis of their span
    found = conjugate_gradients(matrix, right, preconditioner=deflation(matrix, modes))
    # The condition number is 10 without them: the theorem's rate, for the residual at most sqrt(10) off from the energy norm's.
    q = (math.sqrt(10) - 1) / (math.sqrt(10) + 1)
    assert int(found.iterations.max()) <= math.log(1e-8 / 2 / math.sqrt(10)) / math.log(q)
    plain = conjugate_gradients(matrix, right, block=False, check=False)
    assert plain.iterations.min() > 2 * int(found.iterations.max())
    other = deflation(matrix, modes, preconditioner=jacobi(matrix))
    dense = other(torch.eye(50, dtype=torch.float64))
    torch.testing.assert_close(dense, dense.T, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(other(matrix @ modes), modes, atol=1e-6, rtol=1e-6)
    with pytest.raises(FactorizationFailed, match="linearly dependent"):
        deflation(matrix, torch.ones(50, 2, dtype=torch.float64))


def test_jacobi_undoes_diagonal_scaling():
    batch = spectral(torch.linspace(1, 4, 5, dtype=torch.float64), 3)
    torch.testing.assert_close(
        jacobi(batch)(torch.ones(3, 5, 1)), 1 / batch.diagonal(dim1=-2, dim2=-1)[..., None], check_dtype=False
    )
    matrix, right = spectral(torch.linspace(1, 4, 20, dtype=torch.float64)), gaussian(20, 2)
    scale = 10.0 ** torch.linspace(-4, 4, 20, dtype=torch.float64)
    plain = conjugate_gradients(matrix, right, preconditioner=jacobi(matrix))
    scaled = scale[:, None] * matrix * scale
    found = conjugate_gradients(
        scaled, scale[:, None] * right, preconditioner=jacobi(scaled), tolerance=1e-8, check=False
    )
    torch.testing.assert_close(found.value * scale[:, None], plain.value, atol=1e-5, rtol=1e-5)


def test_symmetric_over_relaxation_takes_the_root_of_the_condition_number():
    matrix, w = torch.from_numpy(poisson(3).toarray()), 1.3
    sweep = matrix.diagonal().diag() / w + matrix.tril(-1)
    inverse = w / (2 - w) * sweep @ torch.diag(1 / matrix.diagonal()) @ sweep.T
    right = gaussian(9, 2)
    torch.testing.assert_close(
        symmetric_over_relaxation(matrix, relaxation=w)(right), torch.linalg.solve(inverse, right)
    )
    steps = {}
    for cells in (16, 32):
        matrix, right = poisson(cells), gaussian(cells**2, 2)
        apply = symmetric_over_relaxation(matrix, relaxation=2 / (1 + math.sin(math.pi / (cells + 1))))
        dense = symmetric_over_relaxation(matrix.toarray(), relaxation=1.5)
        torch.testing.assert_close(symmetric_over_relaxation(matrix, relaxation=1.5)(right), dense(right))
        steps[cells] = [
            float(conjugate_gradients(matrix, right, preconditioner=p).iterations.max()) for p in (None, apply)
        ]
    assert steps[32][1] < 0.4 * steps[32][0]
    assert steps[32][1] < 1.6 * steps[16][1]  # its square root doubles the cells at the price of 1.4


def test_preconditioners_are_refused_by_name():
    operator = as_operator(lambda x: 2 * x, shape=(3, 3))
    for make in (jacobi, symmetric_over_relaxation):
        with pytest.raises(BadInput, match="entries"):
            make(operator)
        with pytest.raises(BadInput, match="zeros on its diagonal"):
            make(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(BadInput, match="high"):
        chebyshev(operator, low=2.0, high=1.0, steps=2)
    with pytest.raises(BadInput, match="directions"):
        deflation(operator, torch.ones(4, 1))


@pytest.mark.parametrize("upper", [False, True])
def test_sparse_triangles_are_solved_by_levels(upper):
    matrix = scipy.sparse.random(40, 40, 0.1, random_state=0, format="csr") + scipy.sparse.eye(40, format="csr")
    dense, right = torch.from_numpy(matrix.toarray()), gaussian(40, 3)
    diagonal = 2 + gaussian(40, 3).abs()
    strict = dense.triu(1) if upper else dense.tril(-1)
    found = triangular_solver(as_square(matrix), upper=upper)(diagonal)(right)
    for j in range(3):
        exact = torch.linalg.solve(strict + torch.diag(diagonal[:, j]), right[:, j])
        torch.testing.assert_close(found[:, j], exact)
    torch.testing.assert_close(diagonal_of(as_square(matrix)), dense.diagonal())
