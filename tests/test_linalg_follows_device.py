"""Linear algebra on another device gives what it gives on the host, there, and mixes nothing of both."""

from functools import partial

import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator
from tests.following import assert_follows, assert_nothing_left_out, draw, generator, given, sloped, slopes

from nearly.linalg.features import fit_features
from nearly.linalg.kernel_thinning import gaussian_kernel
from nearly.linalg.operator import as_operator, as_square
from nearly.linalg.sketch import sparse_signs

EYE = torch.eye(6, dtype=torch.float64)
X, Y, TALL, BATCH = draw(6, 6), draw(6, 2), draw(12, 4), draw(3, 5, 4)
CX, CY, CTALL = (draw(*shape, dtype=torch.complex128) for shape in ((6, 6), (6, 2), (12, 4)))
SPD, HERMITIAN, SKEW = X @ X.mT + EYE, CX @ CX.mH + EYE, X - X.mT
TURN, FRAME = torch.linalg.matrix_exp(0.3 * SKEW), torch.linalg.qr(BATCH)[0]
LAPLACE = 2.1 * EYE - EYE.roll(1, 0).tril() - EYE.roll(-1, 0).triu()
HILBERT = 1 / (torch.arange(8, dtype=torch.float64)[:, None] + torch.arange(12) + 1)
POINTS = draw(40, 3).tanh()
POSITIVE = POINTS.exp()
TARGETS = torch.stack([POINTS[:, 0] * POINTS[:, 1], POSITIVE.sum(1)], 1)
DEGREES = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [2, 1, 0]])
GENERATOR = generator()


# Matrices of every kind


def forms(matrix, put):
    return put(matrix), as_square(put(matrix).to_sparse(), complex_too=True)


def there(matrix, put):
    """An operator of the device, with its transpose."""
    moved = put(matrix)
    products = moved.__matmul__, moved.shape, moved.mT.__matmul__
    return as_operator(*products, device=moved.device, complex_too=True)


def of_any_kind(put):
    """A matrix dense, sparse, as an operator of the host, and as what has no device: arrays, a list, a callable."""
    matrix, rows = put(LAPLACE), scipy.sparse.csr_matrix(LAPLACE.numpy())
    host = as_operator(LAPLACE.__matmul__, (6, 6))
    return matrix, matrix.to_sparse(), rows, aslinearoperator(rows), host, LAPLACE.tolist(), lambda x: matrix @ x


def squares(f, put):
    return [f(one, 6, device=put(Y).device) @ put(Y) for one in of_any_kind(put)]


def operators(f, put):
    """Of a callable, a complex Hermitian one, an object with products, and one of arrays."""
    tall, hermitian, y = put(TALL), put(HERMITIAN), put(Y[:4])
    plain = f(lambda x: tall @ x, tall.shape, lambda x: tall.mT @ x, device=tall.device)
    turned = f(lambda x: hermitian @ x, (6, 6), complex_too=True, device=tall.device)
    arrays = f(aslinearoperator(TALL.numpy()))
    products = [turned @ put(CY), turned.H @ put(Y), arrays @ y, arrays.T @ tall, f(plain) @ y]
    return sloped(plain.__matmul__, y), plain.T @ tall, products


def systems(f, put):
    found = [f(one, put(Y)) for one in of_any_kind(put)]
    inverse = put(torch.linalg.inv(LAPLACE) + 0.01 * EYE)
    found += [f(put(LAPLACE), put(Y), preconditioner=one) for one in (inverse, lambda x: inverse @ x)]
    found += [f(put(HERMITIAN), put(CY)), f(put(SPD), put(CY)), f(there(HERMITIAN, put), put(CY))]
    through = [lambda y: f(forms(LAPLACE, put)[1], y).value, lambda y: f(put(SPD), y).value]
    return found, [sloped(one, put(Y)) for one in through], sloped(lambda a: f(a, put(Y)).value, put(SPD))


def preconditioned(operator=True, **options):
    """Products with residuals, complex ones too, of dense and sparse matrices and of operators."""

    def call(f, put):
        found = []
        for matrix, rests in ((SPD, (Y, CY)), (HERMITIAN, (CY,))):
            for one in (*forms(matrix, put), *[there(matrix, put)] * operator):
                made = f(one, **options)
                found += [made(put(rest)) for rest in rests]
        return found

    return call


def deflated(f, put):
    moved, directions = put(SPD), put(EYE[:, :2])
    matrices = [*forms(SPD, put), there(SPD, put), lambda x: moved @ x]
    return [f(one, directions)(put(rest)) for one in matrices for rest in (Y, CY)], f(put(HERMITIAN), directions)(
        put(CY)
    )


def krylov(*options):
    return lambda f, put: [f(there(SPD, put), put(Y), name) for name in options]


def chosen(f, put):
    return [("cg", "minres", "gmres").index(f(there(one, put))) for one in (SPD, X + X.mT, X)]


def triangular(f, put):
    diagonal, right = put(2 + Y[:, :1].abs()), put(Y)
    return [f(matrix, upper=upper)(diagonal)(right) for matrix in forms(LAPLACE, put) for upper in (False, True)]


# Factors


def updated_svd(f, put):
    svd = f(put(TALL), 4)
    for add, part in (
        (svd.add_rows, (2, 4)),
        (svd.add_columns, (14, 3)),
        (svd.add_rows, (70, 7)),
    ):  # many: a Krylov space
        add(put(draw(*part)))
    svd.add_product(put(draw(84, 1)), put(draw(7, 1)))
    return svd.left @ svd.values.diag() @ svd.right, svd.factors().values, svd.error, f(put(TALL.to_sparse()), 2).values


def empirical_interpolation(f, put):
    found = f(put(HILBERT), rank=4)
    at_rows, at_columns = put(HILBERT)[found.rows], put(HILBERT)[:3, found.columns]
    fewer = found.discard(rows=found.rows[1:2]).interpolate(at_rows[[0, 2, 3]])
    return found, fewer, found.coefficients(at_rows), found.interpolate(at_rows), found.cross(at_columns, at_rows)


def power_interpolation(f, put):
    found, theta = f(put(POSITIVE), 6, degree=3), put(POSITIVE[:5])
    return found, found.weights(theta), found.inverse_bound(theta), found.log_determinant_bound(theta, 9)


def randomized_svd(matrix, **options):
    """Signs of singular vectors are rounding's."""

    def call(f, put):
        found = f(put(matrix), 3, generator=generator(), **options)
        return found.left @ found.values.diag() @ found.right, found.spectral, found.frobenius

    return call


def separated_operator(f, put):
    x, parameter = put(torch.linspace(0, 1, 20, dtype=torch.float64)), put(POINTS[:, :1])
    found = f(lambda m: torch.diag(torch.exp(m[0] * x)), lambda m: torch.exp(m * x), parameter, rank=4)
    return found.matrices, found(parameter[0]), found.weights(parameter[:2])


def pivots(f, put):
    core, right = put(SPD).clone(), put(EYE).clone()
    for factorization in ("eigen", "cholesky"):
        f(core, right, put(torch.tensor([[0, 3], [1, 2]])), factorization)
    return core, right


# Others


def features_of_module(f, put):
    module = torch.nn.Module()
    for name, value in fit_features(POSITIVE).items():
        module.register_buffer(name, value)
    return f(put(module), put(POINTS))


def online_dictionary(f, put):
    learner = f(4, device=put(X).device)
    for _ in range(3):
        learner.update(put(TALL))
    return learner.dictionary


def on_manifold(point, *names, **options):
    def call(f, put):
        manifold, x, u, v = (
            f(**options),
            put(point),
            put(0.1 * draw(*point.shape)),
            put(0.1 * draw(*point.shape, seed=1)),
        )
        manifold.check(x)
        g, other = manifold.gradient(x, u), manifold.gradient(x, v)
        moves = [sloped(partial(move, x), g) for move in (manifold.exponential, manifold.retract)]
        along = [getattr(manifold, name)(x, manifold.exponential(x, g)) for name in names]
        return g, manifold.inner(x, g, other), manifold.transport(x, g, other), moves, along

    return call


def trained_inverse(f, put):
    network = torch.nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(draw(*parameter.shape))
    network = put(network)
    return f(network, put(LAPLACE), steps=3, batch=2), list(network.parameters())


def sketched(*shape, **options):
    def call(f, put):
        sketch = f(*shape, **options)
        return [sloped(sketch, put(one)) for one in (TALL, CTALL, TALL[:, 0], draw(2, 12, 3))]

    return call


def quantized(*arguments, **options):
    def call(f, put):
        found = f(put(arguments[0]), *arguments[1:], **options)
        return found.codes, found.dequantize(), found.error_bound()

    return call


def kernel(f, put):
    return f(0.7)(put(POINTS), put(POINTS[:5]))


def calibrated(dtype, **options):
    return given(draw(6, 5, 2, dtype=dtype), draw(6, 5, dtype=dtype), **options)


CALLS = {
    "batched_lu.lu_factors": [given(X), given(CX), given(BATCH[:, :4])],
    "batched_lu.solve_all": [given(X, Y), given(CX, CY), given(BATCH[:, :4], BATCH[:, :4])],
    "chebyshev.chebyshev": slopes(POINTS[:, 0], 5),
    "components.principal_components": [given(POINTS), given(POINTS, product=POSITIVE[0], rank=2, center=False)],
    "factorize.UpdatedSVD": updated_svd,
    "factorize.cur": [given(HILBERT, 3), given(CX, 4), given(BATCH, tolerance=0.3)],
    "factorize.empirical_interpolation": [empirical_interpolation, given(HILBERT, tolerance=1e-3, norm="2")],
    "factorize.generalized_nystrom": [given(BATCH, 2), given(CTALL, 3)],
    "factorize.hippo_legs": lambda f, put: f(5, device=put(X).device),
    "factorize.interpolative": [slopes(HILBERT, 3), given(CX), given(BATCH, 2)],
    "factorize.inverse_root": slopes(SPD, power=2, route="newton", tolerance=1e-12),
    "factorize.inverse_root_of": [given(SPD, 4, route="eigh"), given(SPD, 4, route="newton"), given(HERMITIAN, 2)],
    "factorize.ldu": [slopes(X), given(CX), given(BATCH[:, :4])],
    "factorize.lyapunov": [given(SPD, X + X.mT), given(HERMITIAN, CX + CX.mH)],
    "factorize.matrix_free_svd": lambda f, put: [f(there(a, put), 2, generator=generator()) for a in (TALL, TALL.mT)],
    "factorize.nearest_kronecker_sum": [slopes(TALL, (3, 2), terms=2), given(CTALL, (2, 2))],
    "factorize.perturb_then_diagonalize": [
        lambda f, put: sloped(lambda a: f(a, 1e-2, steps=2).values, put(X)),
        given(CX, 1e-3, steps=2),
    ],
    "factorize.pivot": pivots,
    "factorize.pivot_potential": given(SPD),
    "factorize.power_interpolation": power_interpolation,
    "factorize.projected_core": [
        slopes(TALL, TALL[:, :2], TALL[:3]),
        given(TALL, TALL[:, :2], TALL[:3], left_test=draw(12, 3), right_test=draw(4, 3)),
    ],
    "factorize.pseudo_inverse": [slopes(TALL, TALL.mT), given(CTALL, CTALL.mH)],
    "factorize.randomized_svd": [
        *(randomized_svd(a, tolerance=tolerance) for a in (TALL, HILBERT) for tolerance in (None, 1e-8)),
        randomized_svd(1e200 * HILBERT),
    ],
    "factorize.separate_operator": separated_operator,
    "factorize.square_root": [slopes(SPD, route=route, tolerance=1e-12) for route in ("minimax", "pade", "eigh")],
    "features.apply_features": given(POINTS, **fit_features(POSITIVE)),
    "features.features_of": features_of_module,
    "features.fit_features": [given(POSITIVE), given(draw(50, 40))],
    "features.some": [given(POINTS[0] > bound) for bound in (0.0, 1e9)],
    "gaussian_process.correlation": [slopes(kind, POINTS, POINTS[:4]) for kind in ("matern", "gaussian")],
    "gaussian_process.learn": given(POINTS[:10, :1], POINTS[:10, 1:2], GENERATOR),
    "kernel_ridge.apply_kernel_ridge": given(POINTS, POINTS[:9], TARGETS[:9], POSITIVE[0, 0]),
    "kernel_ridge.fit_kernel_ridge": given(POINTS, TARGETS),
    "kernel_ridge.matern": slopes(POSITIVE),
    "kernel_thinning.gaussian_kernel": kernel,
    "kernel_thinning.kernel_thinning": [
        given(draw(5000, 2), 16, gaussian_kernel(1.0), generator=GENERATOR),
        given(POINTS, 5, gaussian_kernel(1.0), generator=GENERATOR, weights=POSITIVE[:, 0]),
    ],
    "kernel_thinning.laplace_kernel": kernel,
    "kmeans_seeding.kmeans_seeds": [
        given(POINTS, 6, generator=GENERATOR),
        given(POINTS, 40, generator=GENERATOR, weights=POSITIVE[:, 0], tries=3),
    ],
    "kmeans_seeding.nearest_seed": given(POINTS, POINTS[:4]),
    "krylov.choose_solver": chosen,
    "krylov.krylov_solve": krylov("cg", "minres"),
    "lanczos.ritz_pairs": lambda f, put: f(put(SPD).__matmul__, put(Y[:, 0]), 4),
    "legendre.fit_polynomials": given(POINTS, TARGETS, 3),
    "legendre.leave_one_out_fit": given(TALL, draw(12, 2)),
    "legendre.legendre": [slopes(POINTS, DEGREES), lambda f, put: f(put(POINTS), DEGREES)],
    "manifolds.PoincareBall": on_manifold(0.2 * POINTS, "logarithm", "distance", "add", curvature=0.5),
    "manifolds.PositiveDefinite": on_manifold(SPD, "logarithm", "distance"),
    "manifolds.Stiefel": [on_manifold(FRAME, retraction=one) for one in ("polar", "qr", "cayley")],
    "matching_pursuit.matching_pursuit": given(TALL, draw(12, 2), (draw(3, 12) > -1).double(), 3),
    "operator.Operator": lambda f, put: f((12, 4), put(TALL).__matmul__, None, Y.dtype, put(Y).device) @ put(Y[:4]),
    "operator.adjoint": lambda f, put: [f(a) @ put(CY) for a in (*forms(HERMITIAN, put), there(HERMITIAN, put))],
    "operator.as_operator": operators,
    "operator.as_square": squares,
    "operator.csr": lambda f, put: f(*map(put, (DEGREES[2], DEGREES[0, :1], Y[0, :1])), (2, 2)) @ put(Y[:2]),
    "operator.diagonal_of": lambda f, put: [f(one) for one in (*forms(X, put), *forms(CX, put))],
    "operator.on_parts": lambda f, put: f(put(X).__matmul__)(put(CY)),
    "promotion.in_precision": lambda f, put: f(put(X.float()).__matmul__, torch.float32)(put(CY)),
    "derivatives.asked": lambda f, put: [f(put(X)), f(put(X), put(Y).requires_grad_())],
    "operator.transpose": lambda f, put: [f(one) @ put(Y) for one in forms(X, put)],
    "optimal_sampling.christoffel": given(DEGREES, 5, GENERATOR),
    "optimal_sampling.projection_dpp": given(DEGREES, 2, GENERATOR),
    "optimal_sampling.weighted_fit": given(POINTS, TARGETS, DEGREES),
    "orthogonalize.bjorck": [slopes(TURN, 3), given(0.1 * CTALL)],
    "orthogonalize.cayley": slopes(SKEW),
    "orthogonalize.cayley_neumann": slopes(0.1 * SKEW, tolerance=1e-12),
    "orthogonalize.exponential": slopes(SKEW),
    "orthogonalize.householder": slopes(BATCH),
    "orthogonalize.inverse_cayley": given(TURN),
    "orthogonalize.inverse_householder": given(TURN),
    "orthogonalize.logarithm": given(TURN),
    "orthogonalize.orthogonality": given(BATCH),
    "orthogonalize.orthogonalize": [given(BATCH), given(CTALL, schedule="muon")],
    "orthogonalize.polar_factor": [slopes(BATCH, route=one, tolerance=1e-12) for one in ("minimax", "newton_schulz")],
    "orthogonalize.skew": slopes(POINTS, 3),
    "precondition.chebyshev": preconditioned(low=1.0, high=9.0, steps=4),
    "precondition.deflation": deflated,
    "precondition.jacobi": preconditioned(operator=False),
    "precondition.neumann": preconditioned(scale=0.1, steps=3),
    "precondition.symmetric_over_relaxation": preconditioned(operator=False),
    "products.hermitian_product": [given(TALL, TALL.mT), given(X, X.mT, SPD, beta=0.5, alpha=2.0)],
    "products.multiply_add": given(SPD, X, X, beta=0.5),
    "promotion.promoted": given(X.float(), CX),
    "quantize.quantize": [
        *(quantized(POINTS, bits, kind, 16) for bits in (4, 8) for kind in ("linear", "linear_square", "dynamic")),
        quantized(POSITIVE.float(), signed=False),
    ],
    "recover.OnlineOrthogonalDictionary": online_dictionary,
    "recover.self_calibrate": [
        calibrated(torch.float64),
        calibrated(torch.complex128, common=True),
        calibrated(torch.complex128, method="spectral"),
    ],
    "scaling.binary_scale": [given(X, 0), given(CX, (0, 1))],
    "scaling.row_norms": [given(X), given(CX)],
    "sketch.approximate_leverage_scores": [given(a, probes=4) for a in (draw(60, 4), BATCH, CTALL)],
    "sketch.cosine_transform": [slopes(TALL), given(CTALL)],
    "sketch.gaussian": sketched(5, 12),
    "sketch.hadamard_transform": slopes(TALL[:8]),
    "sketch.leverage_scores": [slopes(TALL), given(CTALL), given(BATCH)],
    "sketch.orthonormal_columns": [given(TALL), given(CTALL.mT)],
    "sketch.ridgeless_risk": given(9, POSITIVE[:, 0]),
    "sketch.root_leverage_scores": given(TALL, p=1.5),
    "sketch.sample_rows": [given(POSITIVE[:, 0], count) for count in (5, 50)],
    "sketch.sketch_and_solve": slopes(TALL, draw(12, 2), sparse_signs(8, 12)),
    "sketch.sketched_least_squares": [slopes(TALL, draw(12, 2)), given(CTALL, draw(12))],
    "sketch.sketched_ridgeless": [given(TALL, draw(12, 2)), given(CTALL, draw(12), sizes=[3, 5])],
    "sketch.sparse_signs": sketched(5, 12, nonzeros=3),
    "sketch.subsampled_cosine": sketched(5, 12),
    "sketch.subsampled_hadamard": sketched(5, 12),
    "solve.conjugate_gradients": systems,
    "solve.gmres": systems,
    "solve.minres": systems,
    "solve.successive_over_relaxation": slopes(LAPLACE, Y, relaxation=POSITIVE[:2, 0].clamp(max=1.5), iterations=9999),
    "solve.train_approximate_inverse": trained_inverse,
    "sparse_polynomial.fit_sparse_polynomial": given(POINTS, TARGETS, 3),
    "tensor_train.tensor_train": slopes(BATCH),
    "tensor_train.train_to_tensor": given([draw(1, 4, 3), draw(3, 5, 1)]),
    "threads.each_part": lambda f, put: f(torch.linalg.svdvals, [put(X), put(TALL)]),
    "threads.cholesky": [given(SPD), given(HERMITIAN)],
    "threads.eigh": [given(SPD), given(HERMITIAN)],
    "threads.svd": [given(BATCH), given(CX)],
    "triangular.triangular_solver": triangular,
    "tucker.project": given(BATCH, [draw(3, 2), draw(5, 2), draw(4, 2)], skip=1),
    "tucker.tucker": given(BATCH, 0.3, 3),
    "two_factors.TwoFactors": lambda f, put: f(put(TALL), put(TALL).mT).matrix,
}
REASONS = {
    "what functions of the table, or iterations, return": """factorize.CUR factorize.Diagonalization
        factorize.EmpiricalInterpolation factorize.Factors factorize.Interpolative factorize.KroneckerSum factorize.LDU
        factorize.LowRank factorize.Nystrom factorize.PowerInterpolation factorize.SeparatedOperator
        gaussian_process.Hyperparameters kmeans_seeding.Seeds quantize.Quantized recover.Calibration recover.Completion
        recover.KroneckerSparse sketch.Ridgeless sketch.RowSample sketch.Sensitivities sketch.Sketch""",
    "abstract": "manifolds.Manifold",
    "without tensors": """derivatives.first_only krylov.tolerance_of legendre.count_terms legendre.least_terms
        operator.is_operator quantize.code_book quantize.radius sketch.optimal_sketch_size threads.one_blas_thread""",
    "made of integers, on the host": "chebyshev.coefficient_map chebyshev.extreme_points legendre.total_degree",
    "a choice a round, on the host": "solve.ChebyshevBandit solve.TsallisINF",
    "of arrays": """orthogonalize.dense_times orthogonalize.extend_orthonormal orthogonalize.sparse_times sparse.Factor
        sparse.SparseFamily triangular.levels""",
}
SKIPPED = {name: reason for reason, names in REASONS.items() for name in names.split()}


@pytest.mark.parametrize("name", CALLS)
def test_it_follows_its_tensors(name):
    assert_follows(f"linalg.{name}", CALLS[name])


def test_nothing_public_is_left_out():
    assert_nothing_left_out("linalg", {f"linalg.{name}" for name in (*CALLS, *SKIPPED)})
