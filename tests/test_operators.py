"""Matrices that are known by their products alone: what is checked at the entry, products, solutions, and who fits them."""

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import nearly
from nearly import Matrix, Solve
from nearly.core.errors import BadInput, FactorizationFailed, SolverFailed
from nearly.linalg.krylov import krylov_solve
from nearly.linalg.operator import as_operator
from nearly.matrices import Deflation, IncompleteFactorization, MatrixFreeSVD, RandomizedSVD, TruncatedSVD


def dense(rows: int = 30, columns: int = 20, rate: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    side = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(n, side, dtype=torch.float64, generator=generator))[0] for n in (rows, columns)
    )
    return (left * rate ** torch.arange(side)) @ right.T


def plane(cells: int, shift: float = 0.0, drift: float = 0.0) -> scipy.sparse.csr_matrix:
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(cells, cells))
    size = cells * cells
    moved = scipy.sparse.diags([drift, -shift], [1, 0], shape=(size, size))
    return scipy.sparse.csr_matrix(scipy.sparse.kronsum(line, line) + moved)


class Halves:
    """An object with `shape` and `@` on tensors, and nothing else."""

    shape = (20, 20)

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(x, torch.Tensor)
        return x / 2


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_every_kind_of_operator_is_the_matrix(shape):
    matrix = dense(*shape)
    kinds = [
        Matrix(lambda x: matrix @ x, shape=shape, transpose=lambda y: matrix.T @ y),
        Matrix(lambda x: (matrix.numpy() @ x.numpy())[::1], shape=shape, transpose=lambda y: matrix.T @ y),
        Matrix(aslinearoperator(matrix.numpy())),
        Matrix(LinearOperator(shape, matvec=lambda v: matrix.numpy() @ v, dtype=np.float64)),
    ]
    x, y = torch.randn(4, shape[1], dtype=torch.float64), torch.randn(4, shape[0], dtype=torch.float64)
    for target in kinds:
        assert target.shape == shape
        torch.testing.assert_close(target(x), x @ matrix.T)
        if target.operator.transposed is not None:
            torch.testing.assert_close(target.operator.T @ y.T, matrix.T @ y.T)
    assert [target.operator.transposed is None for target in kinds] == [False, False, False, True]
    halved = Matrix(Halves())
    assert halved.operator.symmetric
    symmetric = Matrix(lambda x: x.flip(0), shape=(20, 20)).operator  # its own transpose, though none was given
    torch.testing.assert_close(symmetric.T @ torch.eye(20), torch.eye(20).flip(0))
    torch.testing.assert_close(halved(torch.ones(2, 20)), torch.full((2, 20), 0.5).double())


def test_dtypes_are_the_operators():
    single = Matrix(aslinearoperator(dense().numpy().astype(np.float32)))
    assert single.dtype == torch.float32
    assert single.sample(3, 0).dtype == torch.float32
    assert Matrix(aslinearoperator(np.eye(4, dtype=np.int64))).dtype == torch.float64
    assert float((single(single.sample(3, 0).double()) - single.sample(3, 0).double() @ dense().T).abs().max()) < 1e-5


def test_products_have_derivatives():
    matrix = dense()
    target = Matrix(aslinearoperator(matrix.numpy()))
    x = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((target.operator @ x).square().sum(), x)
    torch.testing.assert_close(gradient, 2 * matrix.T @ matrix @ x.detach())


SQUARE = dense(20, 20)


def nan_after_one(x):
    return torch.where(torch.arange(20)[:, None] == 3, torch.nan, x)


@pytest.mark.parametrize(
    ("argument", "why", "build"),
    [
        ("shape", "given with a callable", lambda: Matrix(lambda x: x)),
        ("shape", "two integers", lambda: Matrix(lambda x: x, shape=3)),
        ("shape", ">= 1", lambda: Matrix(lambda x: x, shape=(0, 3))),
        ("shape", "an integer", lambda: Matrix(lambda x: x, shape=(2.0, 3))),
        ("shape", "plain callable", lambda: Matrix(Halves(), shape=(20, 20))),
        ("matrix", "callable", lambda: Matrix(SQUARE, shape=(20, 20))),
        ("matrix", "numeric", lambda: Matrix("identity")),
        ("matrix", r"able to take \(20, 2\) to \(30, 2\)", lambda: Matrix(lambda x: SQUARE @ x, shape=(30, 20))),
        ("matrix", "RuntimeError", lambda: Matrix(lambda x: SQUARE @ x, shape=(20, 30))),
        ("matrix", "able to take", lambda: Matrix(lambda x: "no", shape=(20, 20))),
        ("matrix", "able to take", lambda: Matrix(lambda x: x + 0j, shape=(20, 20))),
        ("matrix", "finite", lambda: Matrix(nan_after_one, shape=(20, 20))),
        ("matrix", "nonzero", lambda: Matrix(lambda x: 0 * x, shape=(20, 20))),
        ("matrix", "linear", lambda: Matrix(lambda x: SQUARE @ x + 1, shape=(20, 20))),
        ("matrix", "linear", lambda: Matrix(lambda x: x.abs(), shape=(20, 20))),
        ("matrix", "real", lambda: Matrix(aslinearoperator(np.eye(3) * 1j))),
        ("transpose", "a callable", lambda: Matrix(lambda x: SQUARE @ x, shape=(20, 20), transpose=SQUARE.T)),
        ("transpose", "that of", lambda: Matrix(lambda x: SQUARE @ x, shape=(20, 20), transpose=lambda y: SQUARE @ y)),
        ("transpose", "able", lambda: Matrix(lambda x: dense() @ x, shape=(30, 20), transpose=lambda y: dense() @ y)),
        ("matrix", "square", lambda: Solve(lambda x: dense() @ x, shape=(30, 20))),
        ("matrix", "linear", lambda: Solve(lambda x: SQUARE @ x**3, shape=(20, 20))),
    ],
)
def test_what_is_no_operator_is_refused_by_name(argument, why, build):
    with pytest.raises(BadInput, match=why) as caught:
        build()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("matrix", "solver"),
    [(plane(12), "cg"), (plane(12, shift=0.3), "minres"), (plane(12, drift=0.3), "gmres"), (-plane(12), "minres")],
)
def test_solutions_are_those_of_the_factorization(matrix, solver):
    target, exact = Solve(aslinearoperator(matrix)), Solve(matrix)
    assert target.solver == solver
    x = target.sample(6, 0)
    assert float(exact.error(exact(x), target(x)).max()) < 1e-8
    assert float(target(torch.zeros(2, 144, dtype=torch.float64)).abs().max()) == 0


def test_single_precision_is_solved_to_its_own_digits():
    matrix = plane(8, shift=0.3).astype(np.float32)
    target, exact = Solve(aslinearoperator(matrix)), Solve(matrix.astype(np.float64))
    x = target.sample(4, 0)
    assert target(x).dtype == torch.float32
    assert float(exact.error(exact(x.double()), target(x).double()).max()) < 1e-2


def test_a_singular_operator_is_told_at_once():
    with pytest.raises(FactorizationFailed, match=r"left a relative residual of .*singular"):
        Solve(lambda x: x - x.mean(dim=0), shape=(20, 20))


def test_products_that_turn_nan_fail_the_input_and_name_the_iteration():
    calls = []

    def spoiled(x):
        calls.append(1)
        return 2 * x if len(calls) < 20 else x * torch.nan

    target = Solve(spoiled, shape=(20, 20))
    calls.extend([1] * 20)
    with pytest.raises(SolverFailed, match="conjugate gradients left a relative residual of nan"):
        target(torch.ones(3, 20))


def test_zero_and_solved_columns_do_not_disturb_others():
    matrix = torch.from_numpy(plane(10).toarray())
    right = torch.randn(100, 3, dtype=torch.float64)
    right[:, 1] = 0
    operator = as_operator(lambda x: matrix @ x, shape=(100, 100))
    solution, residual = krylov_solve(operator, right, "cg")
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), atol=1e-8, rtol=1e-8)
    assert float(residual.max()) < 1e-10


def test_members_that_need_entries_refuse_by_name():
    matrix, solve = Matrix(lambda x: SQUARE @ x, shape=(20, 20)), Solve(aslinearoperator(plane(5)))
    for method, target in ((TruncatedSVD(), matrix), (RandomizedSVD(), matrix), (IncompleteFactorization(), solve)):
        with pytest.raises(BadInput, match="needs the matrix's entries"):
            method.fit(target)
    with pytest.raises(BadInput, match="transpose"):
        MatrixFreeSVD().fit(matrix)
    with pytest.raises(BadInput, match="for operators"):
        MatrixFreeSVD().fit(Matrix(SQUARE))
    with pytest.raises(BadInput, match="not symmetric"):
        Deflation().fit(Solve(aslinearoperator(plane(5, drift=0.3))))
    with pytest.raises(BadInput, match="not positive definite"):
        Deflation().fit(Solve(aslinearoperator(plane(12, shift=0.3))))


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (12, 9)])
def test_matrix_free_factors_are_nearly_the_best(shape):
    matrix = dense(*shape, rate=0.8)
    target = Matrix(aslinearoperator(matrix.numpy()))
    left_out = matrix - (model := MatrixFreeSVD(rank=10).fit(target).model).left @ model.right
    best = torch.linalg.svdvals(matrix)[min(10, *shape) :].norm()
    assert float(left_out.norm()) <= 1.01 * float(best) + 1e-12


def test_products_of_a_fit_are_counted_and_limited():
    target = Matrix(aslinearoperator(dense(300, 200, 0.8).numpy()))
    surrogate = nearly.fit(target, method=MatrixFreeSVD(rank=4))
    assert surrogate.certificate.__class__.__name__ == "Probable"
    assert surrogate.cost.evaluations == 3 * (4 + 10) + 4  # three blocks of the Krylov space, and the triplets
    with pytest.raises(BadInput, match="evaluations must be at least 12"):
        nearly.fit(target, tolerance=0.5, evaluations=20)


def test_deflation_of_an_operator_is_that_of_the_matrix(tmp_path):
    matrix = plane(12)
    for steps in (1, 6):
        given = Deflation(rank=6, steps=steps).fit(
            Solve(matrix * 0.25)
        )  # of unit diagonal, as an operator is taken to be
        target = Solve(aslinearoperator(matrix * 0.25))
        found = Deflation(rank=6, steps=steps).fit(target)
        x = target.sample(5, 0)
        torch.testing.assert_close(found(x), given(x), atol=1e-5, rtol=1e-5)
    found.save(tmp_path / "deflation.safetensors")
    with pytest.raises(BadInput, match="Solve of an operator"):
        nearly.load(tmp_path / "deflation.safetensors")
    loaded = nearly.load(tmp_path / "deflation.safetensors", target=target)
    assert torch.equal(loaded(x), found(x))
    assert Deflation(rank=6).fit(target).model.steps == 6
