"""Unusual but legal use of linear algebra: no wrong number without a word."""

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator
from torch.autograd import forward_ad

from nearly.core.errors import BadInput, NotConverged
from nearly.linalg.components import principal_components
from nearly.linalg.factorize import (
    UpdatedSVD,
    empirical_interpolation,
    interpolative,
    inverse_root,
    lyapunov,
    perturb_then_diagonalize,
    randomized_svd,
    square_root,
)
from nearly.linalg.features import apply_features, fit_features
from nearly.linalg.kernel_thinning import gaussian_kernel
from nearly.linalg.kmeans_seeding import kmeans_seeds
from nearly.linalg.lanczos import ritz_pairs
from nearly.linalg.orthogonalize import logarithm, polar_factor
from nearly.linalg.precondition import chebyshev, deflation, jacobi
from nearly.linalg.sketch import sketched_least_squares, sparse_signs
from nearly.linalg.solve import conjugate_gradients, gmres, minres, successive_over_relaxation
from nearly.linalg.sparse import SparseFamily
from nearly.linalg.threads import eigh
from nearly.linalg.tucker import project, tucker


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


EYE = torch.eye(8, dtype=torch.float64)
SPD = draw(8, 8) @ draw(8, 8).T + 8 * EYE
RIGHT = draw(8, 3, seed=1)
SCALES = (1e-200, 1e200)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: conjugate_gradients(a, RIGHT).value,
        lambda a: conjugate_gradients(SPD, a).value,
        lambda a: gmres(SPD.to_sparse_csr(), a).value,
        lambda a: minres(aslinearoperator(SPD.numpy()), a).value,
        lambda a: successive_over_relaxation(a, RIGHT).value,
        lambda a: sketched_least_squares(a, RIGHT).value,
        lambda a: polar_factor(a).value,
        lambda a: logarithm(torch.linalg.matrix_exp(1e-2 * (a - a.T))),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_tangents_are_refused_and_not_lost(function):
    """Forward derivatives pass through `torch.no_grad`, and were zero."""
    with pytest.raises(NotImplementedError, match="jvp"), forward_ad.dual_level():
        function(forward_ad.make_dual(SPD + draw(8, 8), draw(8, 8)))
    with pytest.raises(RuntimeError, match=r"setup_context|storage|strides"):
        torch.func.jvp(function, (SPD,), (draw(8, 8),))


def with_duplicates(matrix):
    """The same matrix by rows, each entry as the sum of two at its place."""
    whole = scipy.sparse.csr_matrix(matrix.numpy())
    return scipy.sparse.csr_matrix(
        (np.repeat(whole.data, 2) * np.tile([3.0, -2.0], whole.nnz), np.repeat(whole.indices, 2), 2 * whole.indptr),
        shape=whole.shape,
    )


@pytest.mark.parametrize("form", [lambda m: m, lambda m: m.T.tocsr().T, lambda m: m.tolil(), lambda m: m.todok()])
def test_bounds_hold_of_entries_stored_twice(form):
    dense = draw(30, 20) * (draw(30, 20, seed=1) > 0.5)
    given = form(with_duplicates(dense))
    found = randomized_svd(given, 5, generator=generator())
    rest = torch.linalg.svdvals(dense)[5:]
    assert found.frobenius == pytest.approx(float(rest.norm()), rel=1e-6)
    assert found.spectral == pytest.approx(float(rest[0]), rel=1e-6)
    svd = UpdatedSVD(given, 5)
    assert svd.error == pytest.approx(float(rest.norm()), rel=1e-6)
    if isinstance(given, scipy.sparse.csr_matrix):
        assert given.nnz == 2 * int((dense != 0).sum())  # the caller's matrix is as it was


@pytest.mark.parametrize("scale", SCALES)
def test_size_is_no_matter(scale):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    tensor = x[:, None, None] + x[:, None] * x
    core, factors = tucker(scale * tensor, 1e-12, directions=3)
    assert core.shape == (2, 2, 2)
    assert torch.allclose(project(core / scale, [factor.T for factor in factors]), tensor)

    rows = draw(10, 50)
    expected, found = principal_components(rows), principal_components(scale * rows)
    assert torch.allclose(found[3] / scale, expected[3])
    assert torch.allclose(found[1].abs(), expected[1].abs())

    points = 2.0 ** round(np.log2(scale)) * draw(200, 3)  # by a power of two the same draws
    seeds = kmeans_seeds(points, 5, generator=generator()).indices
    assert seeds.tolist() == kmeans_seeds(draw(200, 3), 5, generator=generator()).indices.tolist()

    kernel = gaussian_kernel(scale)(scale * draw(4, 2), scale * draw(5, 2))
    assert torch.allclose(kernel, gaussian_kernel(1.0)(draw(4, 2), draw(5, 2)))
    assert torch.allclose(ritz_pairs(SPD.__matmul__, scale * RIGHT[:, 0], 8)[0], torch.linalg.eigvalsh(SPD))
    assert fit_features(scale * draw(40, 50))["feature_axes"].shape == fit_features(draw(40, 50))["feature_axes"].shape


def test_fields_that_are_all_one_have_moderate_features():
    x = torch.full((10, 50), 3.3, dtype=torch.float64)
    assert apply_features(x + 1e-3, **fit_features(x)).abs().max() < 1


def test_components_in_single_precision_are_orthonormal():
    rows = (draw(30, 3) @ draw(3, 400, seed=1)).float()
    _, components, coordinates, values = principal_components(rows, center=False)
    assert components.shape == (3, 400)
    assert {part.dtype for part in (components, coordinates, values)} == {torch.float32}
    assert torch.allclose(components @ components.T, torch.eye(3), atol=1e-5)


def test_conjugate_views():
    matrix, right = draw(400, 4, dtype=torch.complex128).conj(), draw(400, 2, dtype=torch.complex128, seed=1)
    found = sketched_least_squares(matrix, right).value
    assert torch.allclose(found, torch.linalg.lstsq(matrix.resolve_conj(), right).solution)
    sketch = sparse_signs(8, 400)
    assert torch.allclose(sketch(matrix), sketch(matrix.resolve_conj()))
    negative = torch.complex(torch.zeros_like(SPD), -SPD).conj().imag
    found = randomized_svd(negative, 3, generator=generator())
    assert torch.allclose(found.values, torch.linalg.svdvals(SPD)[:3])


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta:UserWarning")
def test_block_sparse_tensors():
    expected = torch.linalg.solve(SPD, RIGHT)
    for given in (SPD.to_sparse_bsr((2, 2)), SPD.to_sparse_bsc((4, 2)), SPD.to_sparse_csc()):
        assert torch.allclose(conjugate_gradients(given, RIGHT).value, expected)


@pytest.mark.parametrize("solver", [conjugate_gradients, minres, gmres])
def test_matrices_without_entries(solver):
    nothing = scipy.sparse.csr_matrix((8, 8))
    assert not solver(nothing, 0 * RIGHT).value.any()
    with pytest.raises(NotConverged):
        solver(nothing, RIGHT)


INVERSE = torch.linalg.inv(SPD)


@pytest.mark.parametrize(
    "preconditioner",
    [
        INVERSE.float(),
        INVERSE.numpy(),
        scipy.sparse.csr_matrix(INVERSE.numpy()),
        aslinearoperator(INVERSE.numpy().astype(np.float32)),
        chebyshev(SPD.float(), low=4.0, high=40.0, steps=4),
        deflation(SPD.float(), torch.eye(8)[:, :2], preconditioner=jacobi(SPD)),
    ],
)
@pytest.mark.parametrize("right", [RIGHT, torch.complex(RIGHT, RIGHT.flip(0))])
def test_preconditioners_of_other_libraries_and_precisions(preconditioner, right):
    expected = torch.linalg.solve(SPD.to(right.dtype), right)
    for solver in (conjugate_gradients, minres, gmres):
        found = solver(SPD, right, preconditioner=preconditioner)
        assert found.value.dtype == right.dtype
        assert torch.allclose(found.value, expected, atol=1e-8)


def test_a_wrong_preconditioner_is_named():
    with pytest.raises(BadInput, match="preconditioner must be of shape"):
        conjugate_gradients(SPD, RIGHT, preconditioner=np.ones((8, 3)))


def test_deflation_keeps_its_directions():
    directions = EYE[:, :2].clone()
    apply = deflation(SPD, directions)
    before = apply(RIGHT)
    directions.zero_()
    assert torch.equal(apply(RIGHT), before)


def test_inference_mode():
    batch = SPD.expand(300, 8, 8).contiguous() + 4 * EYE
    wanted = eigh(batch)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            big = torch.block_diag(*batch[:4]).expand(40, 32, 32)
            found = eigh(big)[0]  # enough work for one matrix a thread
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(found[0], wanted[:4].flatten().sort().values)
    jordan = torch.diag(torch.ones(5, dtype=torch.float64), 1)
    expected = perturb_then_diagonalize(jordan, 1e-3)
    with torch.inference_mode():
        assert torch.equal(perturb_then_diagonalize(jordan.clone(), 1e-3).values, expected.values)


def test_lyapunov_beyond_positive_definite():
    indefinite = torch.diag(torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)) + 0.1
    right = SPD[:3, :3]
    found = lyapunov(indefinite, right)
    assert torch.allclose(indefinite @ found + found @ indefinite, right)
    with pytest.raises(BadInput, match="right must be Hermitian"):
        lyapunov(SPD, draw(8, 8))
    assert lyapunov(2 * torch.eye(2, dtype=torch.int64), [[4, 0], [0, 8]]).round(decimals=9).tolist() == [
        [1, 0],
        [0, 2],
    ]


def test_what_is_refused_by_name():
    with pytest.raises(BadInput, match="matrix must be dense"):
        polar_factor(SPD.to_sparse_coo())
    shift = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(BadInput, match="shift must be"):
        successive_over_relaxation(SPD, RIGHT, shift=shift)
    with torch.no_grad():
        assert successive_over_relaxation(SPD, RIGHT, shift=shift).converged.all()
    with pytest.raises(BadInput, match=r"operators\[0\] must be real"):
        SparseFamily([scipy.sparse.csr_matrix(SPD.numpy() + 0j)], np.arange(8))
    for free in (np.arange(8.0), np.ones(1, dtype=bool)):
        with pytest.raises(BadInput, match="free must be"):
            SparseFamily([scipy.sparse.csr_matrix(SPD.numpy())], free)
    chosen = empirical_interpolation(SPD, rank=3)
    for rows in ([1.5], torch.tensor([True, False, True])):
        with pytest.raises(BadInput, match="rows must be integers"):
            chosen.discard(rows=rows)


@pytest.mark.parametrize("restart", [1, 3])
def test_short_restarts_may_gain_little_each(restart):
    """Cycles that were cut off are no sign of rounding."""
    matrix = scipy.sparse.diags([-1.3, 2.0, -0.7], [-1, 0, 1], shape=(60, 60)).tocsr()
    found = gmres(matrix, torch.ones(60, dtype=torch.float64), restart=restart, iterations=20_000)
    assert found.iterations > 100
    with pytest.raises(NotConverged):  # stagnation: the least residual is that of x = 0
        gmres(torch.roll(EYE, 1, 0), EYE[:, 0], restart=restart, iterations=20_000)


def test_inverse_roots_that_are_none_or_out_of_range():
    for matrix in (torch.diag(torch.tensor([2.0, -1.0, 1.0])), torch.eye(3) * 1e-40):
        for route in ("eigh", "newton"):
            with pytest.raises(NotConverged):
                inverse_root(matrix, power=1, route=route)


def test_interpolation_keeps_its_digits_beside_a_large_mean():
    matrix = draw(6, 6) + 1e8
    found = interpolative(matrix, 6)
    assert found.error < 1e-5
    assert (matrix[:, found.columns] @ found.weights - matrix).norm() < 1e-5


def test_gradients_that_overflowed_pass_through_roots():
    matrix = SPD.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.inf * square_root(matrix, route="minimax").value.sum(), matrix)
    assert not slope.isfinite().any()
