"""The problems' solvers against solutions known otherwise, and what they say about themselves against dense algebra."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch

from nearly.core.domain import Box
from nearly.core.errors import BadInput, FactorizationFailed, MissingExtra
from nearly.linalg.sparse import SparseFamily
from nearly.problems._finite_elements import Crisscross
from nearly.problems.convection_diffusion import convection_diffusion
from nearly.problems.darcy_flow import darcy_flow
from nearly.problems.digits_classifier import _images, digits_classifier
from nearly.problems.smooth_function import smooth_function
from nearly.problems.thermal_block import thermal_block

if TYPE_CHECKING:
    from nearly.core.nouns import Field

pytest.importorskip("skfem")


def poisson(points: np.ndarray) -> np.ndarray:
    """The solution of -Laplace(u) = 1 on the unit square, u = 0 on its boundary, by its double sine series."""
    odd = np.arange(1, 400, 2)
    sines = np.sin(np.pi * points[:, :, None] * odd)
    weights = 16 / (np.pi**4 * np.outer(odd, odd) * (odd[:, None] ** 2 + odd**2))
    return np.einsum("ni,ij,nj->n", sines[:, 0], weights, sines[:, 1])


def slope(errors: list[float], ratio: float) -> float:
    """The order seen between the last two of errors, of meshes finer by `ratio` each."""
    return math.log(errors[-2] / errors[-1]) / math.log(ratio)


def scattered(n: int = 400) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(n, 2))


# --- sparse families


def random_family(size: int = 40, terms: int = 3) -> tuple[list[scipy.sparse.csr_matrix], np.ndarray]:
    generator = np.random.default_rng(1)
    operators = []
    for _ in range(terms):
        half = scipy.sparse.random(size, size, density=0.06, random_state=generator)
        skew = scipy.sparse.random(size, size, density=0.02, random_state=generator)
        operators.append((half @ half.T + skew - skew.T + scipy.sparse.eye(size)).tocsr())
    return operators, np.sort(generator.permutation(size)[:31])


def test_sparse_family_equals_dense_algebra() -> None:
    operators, free = random_family()
    family = SparseFamily(operators, free)
    coefficients = np.array([0.3, 1.7, 2.0])
    dense = sum(c * a.toarray() for c, a in zip(coefficients, operators, strict=True))
    inner = np.zeros_like(dense)
    inner[np.ix_(free, free)] = dense[np.ix_(free, free)]
    np.testing.assert_allclose(family.assemble(coefficients).toarray(), inner, atol=1e-14)
    rhs = np.random.default_rng(2).normal(size=(40, 70))
    expected = np.zeros_like(rhs)
    expected[free] = np.linalg.solve(dense[np.ix_(free, free)], rhs[free])
    factor = family.factor(coefficients)
    np.testing.assert_allclose(factor(rhs), expected, atol=1e-12)
    np.testing.assert_allclose(factor(rhs[:, 3]), expected[:, 3], atol=1e-12)
    assert factor(rhs[:, :0]).shape == (40, 0)


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_sparse_family_eliminates_down_to_nothing(cells: int) -> None:
    chain = scipy.sparse.diags([2.0 * np.ones(cells), -np.ones(cells - 1)], [0, 1])
    solution = SparseFamily([(chain + chain.T) / 2], np.arange(cells)).factor(np.ones(1))(np.ones(cells))
    np.testing.assert_allclose((chain + chain.T) / 2 @ solution, 1.0, atol=1e-13)


def test_sparse_family_refuses_singular_matrices() -> None:
    ring = scipy.sparse.diags([np.full(30, 6.0)], [0]).tolil()
    for shift in (1, 2, 3):
        for i in range(30):
            ring[i, (i + shift) % 30] = ring[(i + shift) % 30, i] = -1.0
    family = SparseFamily([ring.tocsr()], np.arange(30))
    with pytest.raises(FactorizationFailed):
        family.factor(np.ones(1))(np.eye(30)[0])
    with pytest.raises(FactorizationFailed, match="positive"):
        SparseFamily([scipy.sparse.diags([1.0, 0.0])], np.arange(2)).factor(np.ones(1))
    with pytest.raises(FactorizationFailed):
        family.factor(np.zeros(1))


def test_sparse_family_rejects_bad_input() -> None:
    operators, free = random_family()
    family = SparseFamily(operators, free)
    for coefficients in (np.ones(2), np.array([1.0, np.nan, 1.0])):
        with pytest.raises(BadInput, match="coefficients"):
            family.factor(coefficients)
    with pytest.raises(BadInput, match="rhs"):
        family.factor(np.ones(3))(np.ones(31))
    with pytest.raises(BadInput, match="rhs"):
        family.factor(np.ones(3))(np.full(40, np.inf))
    with pytest.raises(BadInput, match="free"):
        SparseFamily(operators, np.array([0, 0]))
    with pytest.raises(BadInput, match="operators"):
        SparseFamily([], free)
    with pytest.raises(BadInput, match=r"operators\[1\]"):
        SparseFamily([operators[0], scipy.sparse.eye(3)], free)


# --- mesh


def test_crisscross_counts_and_areas() -> None:
    mesh = Crisscross(5)
    assert mesh.unknowns == 36 + 25
    assert len(mesh.free) == 16 + 25
    corners = mesh.points[mesh.triangles]
    edges = corners[:, 1:] - corners[:, :1]
    np.testing.assert_allclose(np.linalg.det(edges), 2 / (4 * 25), rtol=1e-12)
    np.testing.assert_allclose(mesh.centroids, corners.mean(axis=1), atol=1e-15)


def test_interpolation_is_exact_for_piecewise_linear_functions() -> None:
    coarse, fine = Crisscross(3), Crisscross(12)
    points = np.concatenate([fine.points, scattered()])
    matrix = coarse.interpolation(points)
    np.testing.assert_allclose(matrix @ coarse.points, points, atol=1e-14)
    assert matrix.data.min() >= -1e-15
    hat = np.random.default_rng(3).normal(size=coarse.unknowns)
    # Nested meshes: the coarse function is one of the fine ones, so that going through them changes nothing.
    through = fine.interpolation(scattered()) @ (coarse.interpolation(fine.points) @ hat)
    np.testing.assert_allclose(through, coarse.interpolation(scattered()) @ hat, atol=1e-12)


def test_missing_scikit_fem_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skfem", None)
    with pytest.raises(MissingExtra, match=r"nearly\[fem\]"):
        thermal_block(cells=4)


# --- thermal block


def test_thermal_block_converges_with_order_two_in_l2_and_one_in_energy() -> None:
    points, l2, energy = scattered(), [], []
    exact = 0.03514425373878841  # the integral of u, and so its energy: Saint-Venant's torsion constant over four
    for cells in (8, 16, 32):
        field = thermal_block((2, 2), cells)
        u = field.solver(torch.ones(4, dtype=torch.float64)).numpy()
        l2.append(float(np.sqrt(np.mean((Crisscross(cells).interpolation(points) @ u - poisson(points)) ** 2))))
        energy.append(math.sqrt(exact - u @ (field.product @ u)))  # Galerkin: errors subtract in energy
    assert abs(slope(l2, 2) - 2) < 0.15
    assert abs(slope(energy, 2) - 1) < 0.15


def test_thermal_block_assembles_as_scikit_fem_does() -> None:
    from skfem import Basis, BilinearForm, ElementTriP1, LinearForm, MeshTri
    from skfem.helpers import dot, grad

    field, mesh = thermal_block((3, 2), 7), Crisscross(7)
    mu = torch.arange(1, 7, dtype=torch.float64) / 6
    basis = Basis(MeshTri(mesh.points.T.copy(), mesh.triangles.T.copy()), ElementTriP1())
    x, y = mesh.centroids.T
    column = (x > 1 / 3).astype(int) + (x > 2 / 3)
    # An odd count of squares puts centroids on the line y = 1/2; those belong to the block above.
    kappa = mu.numpy()[column + 3 * (y > 0.5 - 1e-9)]
    matrix = BilinearForm(lambda u, v, w: kappa[:, None] * dot(grad(u), grad(v))).assemble(basis).toarray()
    load = LinearForm(lambda v, w: 1.0 * v).assemble(basis)
    expected = np.zeros(mesh.unknowns)
    expected[mesh.free] = np.linalg.solve(matrix[np.ix_(mesh.free, mesh.free)], load[mesh.free])
    np.testing.assert_allclose(field.solver(mu), expected, atol=1e-13)


def test_thermal_block_solves_its_affine_system() -> None:
    field = thermal_block(cells=20)
    system = field.system
    assert system is not None
    for mu in field.sample(3, 0):
        u = field.solver(mu).numpy()
        theta = system.operator_coefficients(mu[None])[0].tolist()
        matrix = sum(t * a for t, a in zip(theta, system.operators, strict=True))
        assert np.linalg.norm(matrix @ u - system.loads[0]) < 1e-10 * np.linalg.norm(system.loads[0])
        assert u @ (matrix @ u) == pytest.approx(system.loads[0] @ u, rel=1e-12)
        assert u.min() >= 0.0


def test_thermal_block_numbers_its_blocks_by_columns_then_rows() -> None:
    field = thermal_block((3, 2), 12)
    mu = torch.arange(1, 7, dtype=torch.float64) / 6
    u = field.solver(mu)
    mirrored = field.solver(mu.reshape(2, 3).flip(1).reshape(-1))
    turned = field.solver(mu.flip(0))
    mesh = Crisscross(12)
    for other, points in ((mirrored, mesh.points * [-1, 1] + [1, 0]), (turned, 1 - mesh.points)):
        np.testing.assert_allclose(mesh.interpolation(points) @ other.numpy(), u, atol=1e-13)
    # The hottest block conducts worst: block 0, on the lower left.
    hottest = mesh.points[int(u.argmax())]
    assert hottest[0] < 0.5
    assert hottest[1] < 0.5


@pytest.mark.parametrize("build", [lambda: thermal_block((2, 2), 4), lambda: thermal_block(cells=7)])
def test_thermal_block_bound_is_below_the_coercivity_constant(build) -> None:
    field = build()
    system = field.system
    free = np.ix_(system.free, system.free)
    product = field.product.toarray()
    np.testing.assert_array_equal(product, product.T)
    assert np.linalg.eigvalsh(product[free]).min() > 0.0
    parameters = field.sample(5, 0)
    for mu, bound in zip(parameters, system.coercivity(parameters).tolist(), strict=True):
        matrix = sum(t * a.toarray() for t, a in zip(mu.tolist(), system.operators, strict=True))
        smallest = scipy.linalg.eigh(matrix[free], product[free], eigvals_only=True)[0]
        assert bound <= smallest * (1 + 1e-12)
        assert bound == pytest.approx(float(mu.min()))


# --- convection and diffusion


def test_convection_diffusion_assembles_as_scikit_fem_does() -> None:
    from skfem import Basis, BilinearForm, ElementTriP1, LinearForm, MeshTri
    from skfem.helpers import dot, grad

    field = convection_diffusion(10)
    system, mesh = field.nonaffine, Crisscross(10)
    assert system is not None
    mu = torch.tensor([0.4, 0.6, 30.0], dtype=torch.float64)
    values = system.coefficient(mu[None])[0]
    basis = Basis(MeshTri(mesh.points.T.copy(), mesh.triangles.T.copy()), ElementTriP1(), intorder=6)
    inclusion = np.exp(-((mesh.centroids - [0.4, 0.6]) ** 2).sum(axis=1) / 0.02)
    np.testing.assert_allclose(values, inclusion, rtol=1e-13)

    @BilinearForm
    def direct(u, v, w):
        wind = np.stack(
            [np.sin(np.pi * w.x[0]) * np.cos(np.pi * w.x[1]), -np.cos(np.pi * w.x[0]) * np.sin(np.pi * w.x[1])]
        )
        return (1 + 9 * inclusion[:, None]) * dot(grad(u), grad(v)) + 30.0 * dot(wind, grad(u)) * v

    free = mesh.free
    expected = direct.assemble(basis).toarray()[np.ix_(free, free)]
    affine = system.affine
    theta = affine.operator_coefficients(mu[None])[0].tolist()
    matrix = sum(t * a for t, a in zip(theta, affine.operators, strict=True)) + system.assemble_operator(values.numpy())
    np.testing.assert_allclose(matrix.toarray()[np.ix_(free, free)], expected, atol=2e-4)  # quadrature of b
    u, load = field.solver(mu).numpy(), affine.loads[0] + system.assemble_load(values.numpy())
    assert np.linalg.norm(matrix @ u - load) < 1e-10 * np.linalg.norm(load)
    convection = affine.operators[1].toarray()
    np.testing.assert_allclose(convection, -convection.T, atol=1e-15)
    direct_load = LinearForm(lambda v, w: (1 + 20 * inclusion[:, None]) * v).assemble(basis)
    np.testing.assert_allclose(load[free], direct_load[free], rtol=1e-12)


def test_convection_diffusion_is_linear_in_its_field_and_sees_it_at_single_points() -> None:
    system = convection_diffusion(6).nonaffine
    assert system is not None
    parameters = torch.tensor([[0.3, 0.7, 1.0], [0.5, 0.5, 40.0]], dtype=torch.float64)
    fields = system.coefficient(parameters)
    index = torch.tensor([0, 17, 80])
    assert torch.equal(system.coefficient_at(parameters, index), fields[:, index])
    assert fields.shape == (2, len(system.points))
    a, b = fields.numpy()
    together, apart = system.assemble_operator(2 * a - b), 2 * system.assemble_operator(a) - system.assemble_operator(b)
    np.testing.assert_allclose(together.toarray(), apart.toarray(), atol=1e-14)
    np.testing.assert_allclose(
        system.assemble_load(2 * a - b), 2 * system.assemble_load(a) - system.assemble_load(b), atol=1e-14
    )


def test_convection_diffusion_is_coercive_with_constant_one() -> None:
    field = convection_diffusion(6)
    system = field.nonaffine
    assert system is not None
    free = np.ix_(system.affine.free, system.affine.free)
    parameters = field.sample(4, 0)
    assert system.coercivity(parameters).tolist() == [1.0] * 4
    for mu in parameters:
        matrix = sum(
            t * a.toarray()
            for t, a in zip(
                system.affine.operator_coefficients(mu[None])[0].tolist(), system.affine.operators, strict=True
            )
        )
        matrix = matrix + system.assemble_operator(system.coefficient(mu[None])[0].numpy()).toarray()
        symmetric = (matrix + matrix.T)[free] / 2
        assert scipy.linalg.eigh(symmetric, field.product.toarray()[free], eigvals_only=True)[0] >= 1 - 1e-12


def test_convection_diffusion_converges_with_order_two() -> None:
    mu = torch.tensor([0.45, 0.6, 20.0], dtype=torch.float64)
    points, values = scattered(2000), []
    for cells in (30, 60, 120):
        values.append(Crisscross(cells).interpolation(points) @ convection_diffusion(cells).solver(mu).numpy())
    differences = [float(np.linalg.norm(coarse - fine)) for coarse, fine in pairwise(values)]
    assert abs(slope(differences, 2) - 2) < 0.15


# --- Darcy flow


def test_darcy_flow_converges_with_order_two() -> None:
    constant = []
    for cells in (8, 16, 32):
        centers = (np.stack(np.indices((cells, cells)), axis=-1).reshape(-1, 2) + 0.5) / cells
        u = darcy_flow(cells).solver(torch.full((cells, cells), 2.0, dtype=torch.float64))
        constant.append(float(np.sqrt(np.mean((u.numpy().ravel() - poisson(centers) / 2) ** 2))))
    assert abs(slope(constant, 2) - 2) < 0.15

    def solve(cells: int) -> torch.Tensor:
        center = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        return darcy_flow(cells).solver(torch.exp(torch.sin(4 * center)[:, None] - torch.cos(5 * center) * center))

    # Centers of a grid are centers of the grid three times as fine.
    grids = solve(15), solve(45), solve(135)
    smooth = [float((a - b[1::3, 1::3]).norm()) / len(a) for a, b in pairwise(grids)]
    assert abs(slope(smooth, 3) - 2) < 0.15


def test_darcy_flow_takes_harmonic_averages() -> None:
    a = np.array([[1.0, 5.0, 2.0], [4.0, 0.5, 3.0], [2.0, 8.0, 1.0]])
    matrix = np.zeros((9, 9))
    for i in range(3):
        for j in range(3):
            for k, m in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                inside = 0 <= k < 3 and 0 <= m < 3
                # Half a cell of each side in series; at the boundary half of one.
                conductance = 1 / (0.5 / a[i, j] + (0.5 / a[k, m] if inside else 0.0))
                matrix[3 * i + j, 3 * i + j] += conductance
                if inside:
                    matrix[3 * i + j, 3 * k + m] -= conductance
    expected = np.linalg.solve(matrix, np.full(9, 1 / 9)).reshape(3, 3)
    np.testing.assert_allclose(darcy_flow(3).solver(torch.from_numpy(a)), expected, atol=1e-15)


def test_darcy_flow_balances_and_turns_with_its_medium() -> None:
    field = darcy_flow(16)
    a = field.sample(1, 3)[0]
    u = field.solver(a)
    outflow = sum(2 * (a * u).select(axis, end).sum() for axis in (0, 1) for end in (0, -1))
    assert float(outflow) == pytest.approx(1.0, rel=1e-11)
    np.testing.assert_allclose(field.solver(a.T.contiguous()), u.T, atol=1e-15)
    np.testing.assert_allclose(field.solver(a.flip(0)), u.flip(0), atol=1e-15)


@pytest.mark.parametrize("medium", ["two-valued", "lognormal"])
def test_darcy_media_have_the_stated_law(medium: str) -> None:
    cells, n = 8, 4000
    a = darcy_flow(cells, medium).sample(n, 5)
    if medium == "two-valued":
        assert set(a.unique().tolist()) == {3.0, 12.0}
        assert float((a == 12.0).to(torch.float64).mean()) == pytest.approx(0.5, abs=0.02)
        return
    z = (a.log() / 4).reshape(n, -1).numpy()
    centers = (np.arange(cells) + 0.5) / cells
    cosines = np.where(np.arange(cells) == 0, 1.0, math.sqrt(2)) * np.cos(np.pi * np.outer(centers, np.arange(cells)))
    modes = np.einsum("ai,bj->abij", cosines, cosines).reshape(cells**2, -1)
    k = np.indices((cells, cells)).reshape(2, -1)
    spectrum = 9 / (np.pi**2 * (k**2).sum(axis=0) + 9) ** 2
    spectrum[0] = 0.0
    covariance = (modes * spectrum) @ modes.T
    # Five standard deviations of an empirical covariance of n Gaussian draws.
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    assert (np.abs(z.T @ z / n - covariance) < 5 * spread).all()


def test_darcy_flow_refuses_what_is_no_permeability() -> None:
    solver = darcy_flow(4).solver
    for bad in (torch.ones(3, 3), torch.zeros(4, 4), torch.full((4, 4), torch.nan)):
        with pytest.raises(BadInput, match="permeability"):
            solver(bad)


# --- all fields


FIELDS = {
    "thermal": lambda: thermal_block(cells=48),
    "convection": lambda: convection_diffusion(40),
    "darcy": lambda: darcy_flow(32),
    "lognormal": lambda: darcy_flow(32, "lognormal"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_coarse_fidelities_get_better_with_their_unknowns(name: str) -> None:
    field: Field = FIELDS[name]()
    inputs = field.sample(6, 0)
    outputs = field(inputs)
    errors = []
    for fidelity in field.coarse:
        answers = torch.stack([fidelity.solver(x) for x in inputs])
        errors.append(float(field.error(outputs, answers).mean()))
    assert len(errors) >= 3
    assert errors == sorted(errors)
    assert 0.0 < errors[0] < 0.1
    unknowns = [fidelity.unknowns for fidelity in field.coarse]
    assert unknowns == sorted(unknowns, reverse=True)
    assert unknowns[0] < outputs[0].numel() / 3


@pytest.mark.parametrize("name", FIELDS)
def test_same_seed_same_bits_and_inputs_untouched(name: str) -> None:
    state = torch.get_rng_state()
    one, two = FIELDS[name](), FIELDS[name]()
    first, second = one.sample(2, 7), two.sample(2, 7)
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    kept = first.clone()
    assert torch.equal(one(first), two(second))
    assert torch.equal(first, kept)
    assert not torch.equal(first, one.sample(2, 8))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("build", [thermal_block, convection_diffusion, darcy_flow])
@pytest.mark.parametrize("cells", [0, 1, -3, 2.5, True, "8", float("nan")])
def test_cells_must_be_an_integer_of_at_least_two(build, cells) -> None:
    with pytest.raises(BadInput, match="cells"):
        build(cells=cells)


@pytest.mark.parametrize("blocks", [(3,), (0, 2), (2, 1.5), 3, "33"])
def test_blocks_must_be_two_positive_integers(blocks) -> None:
    with pytest.raises(BadInput, match="blocks"):
        thermal_block(blocks, cells=4)


def test_medium_must_be_known() -> None:
    with pytest.raises(BadInput, match="medium"):
        darcy_flow(4, "sand")


# --- digits


def test_digits_classifier_is_good_and_repeatable() -> None:
    pytest.importorskip("sklearn")
    state = torch.get_rng_state()
    net, again = digits_classifier(), digits_classifier()
    assert torch.equal(torch.get_rng_state(), state)
    for mine, other in zip(net.module.parameters(), again.module.parameters(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other)
    assert net.rows is not None
    assert again.rows is not None
    rows = net.rows.pairs.inputs
    assert torch.equal(rows, again.rows.pairs.inputs)
    assert rows.shape == (8192, 64)
    assert len(rows.unique(dim=0)) == len(rows)
    images, labels = _images()
    held_out = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[1200:]
    right = (net(images[held_out]).argmax(dim=1) == labels[held_out]).float().mean()
    assert float(right) > 0.95
    assert not torch.equal(digits_classifier(1, 8).rows.pairs.inputs, rows)


@pytest.mark.parametrize(("argument", "value"), [("seed", -1), ("seed", 0.5), ("width", 0), ("width", "8")])
def test_digits_classifier_rejects_bad_input(argument: str, value: object) -> None:
    with pytest.raises(BadInput, match=argument):
        digits_classifier(**{argument: value})


def test_missing_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"nearly\[learn\]"):
        digits_classifier()


# --- functions


def chebyshev_errors(kind: str, degrees: list[int]) -> list[float]:
    """Largest errors of Chebyshev interpolation in one dimension."""
    f = smooth_function(kind, dimension=1)
    grid = np.linspace(-1, 1, 20001)
    exact = f(torch.from_numpy(grid)[:, None])[:, 0].numpy()
    errors = []
    for degree in degrees:
        p = np.polynomial.chebyshev.chebinterpolate(lambda x: f(torch.from_numpy(x)[:, None])[:, 0].numpy(), degree)
        errors.append(float(np.abs(np.polynomial.chebyshev.chebval(grid, p) - exact).max()))
    return errors


@pytest.mark.parametrize(("kind", "order"), [("cubic", 3), ("kink", 1)])
def test_finite_smoothness_gives_its_algebraic_rate(kind: str, order: int) -> None:
    degrees = np.unique(np.geomspace(20, 400, 40).astype(int))
    errors = chebyshev_errors(kind, degrees.tolist())
    assert abs(-np.polyfit(np.log(degrees), np.log(errors), 1)[0] - order) < 0.15


def test_analytic_function_has_the_rate_of_its_ellipse() -> None:
    low, high = chebyshev_errors("analytic", [20, 80])
    assert (low / high) ** (1 / 60) == pytest.approx((1 + math.sqrt(26)) / 5, rel=0.01)


@pytest.mark.parametrize(("kind", "degrees"), [("entire", [3, 6, 9]), ("oscillatory", [12, 15, 18])])
def test_entire_functions_fall_faster_than_geometrically(kind: str, degrees: list[int]) -> None:
    errors = chebyshev_errors(kind, degrees)
    assert errors[2] / errors[1] < errors[1] / errors[0] < 0.2


@pytest.mark.parametrize("kind", ["analytic", "entire", "oscillatory", "cubic", "kink"])
def test_functions_keep_dtype_and_domain(kind: str) -> None:
    f = smooth_function(kind, dimension=3)
    assert isinstance(f.domain, Box)
    x = f.sample(5, 0)
    assert f(x).shape == (5, 1)
    assert f(x.float()).dtype == torch.float32
    assert torch.allclose(f(x.float()).double(), f(x), atol=1e-5)


@pytest.mark.parametrize(("argument", "value"), [("kind", "rough"), ("dimension", 0), ("dimension", 1.5)])
def test_smooth_function_rejects_bad_input(argument: str, value: object) -> None:
    with pytest.raises(BadInput, match=argument):
        smooth_function(**{argument: value})
