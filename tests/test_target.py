"""Targets: values by hand, rows handed out once, failures reported, and bad input refused by name before any work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import nearly
from nearly.core.certificate import Probable
from nearly.core.errors import (
    BadInput,
    CertificateViolated,
    FactorizationFailed,
    NearlyError,
    OutOfDomain,
    SolverFailed,
    TooFewSamples,
)
from nearly.core.supply import Supply
from nearly.core.target import Target, row_hashes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIT = nearly.Box([0.0, 0.0], [1.0, 1.0])


def tensor(*rows: Any) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def table(n: int, width: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return inputs, torch.stack([inputs.sum(dim=1).sin(), inputs[:, 0]], dim=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- values by hand


def test_field_answers_and_measures_by_hand() -> None:
    field = nearly.Field(lambda mu: mu[0] * tensor(3.0, 4.0)[:, None].T[0], UNIT)
    assert field(tensor([0.5, 0.9], [1.0, 0.0])).tolist() == [[1.5, 2.0], [3.0, 4.0]]
    # ||(3, 4) - (3, 1)|| / ||(3, 4)|| = 3 / 5; a zero field predicted by zero has error 0, by anything else infinity.
    errors = field.error(tensor([3.0, 4.0], [0.0, 0.0], [0.0, 0.0]), tensor([3.0, 1.0], [0.0, 0.0], [1.0, 0.0]))
    assert errors.tolist() == [0.6, 0.0, math.inf]
    weighted = nearly.Field(lambda mu: mu, UNIT, product=[1.0, 9.0])
    assert float(weighted.norm(tensor([2.0, 1.0]))) == math.sqrt(13)
    assert float(weighted.error(tensor([2.0, 1.0]), tensor([2.0, 0.0]))) == pytest.approx(3 / math.sqrt(13))
    coupled = nearly.Field(lambda mu: mu, UNIT, product=scipy.sparse.csr_matrix([[2.0, 1.0], [1.0, 2.0]]))
    assert float(coupled.norm(tensor([1.0, 1.0]))) == math.sqrt(6)
    assert float(coupled.norm(tensor([1.0, -1.0]))) == math.sqrt(2)
    assert (field.unit, weighted.unit) == ("relative L2", "relative, in the problem's inner product")


def test_fields_of_any_shape_come_as_tensor_array_or_batch() -> None:
    grid = np.ones((2, 3))
    alone = nearly.Field(lambda mu: mu[0].item() * grid, UNIT)
    batch = nearly.Field(lambda mu: mu[:, 0, None, None] * torch.from_numpy(grid), UNIT, vectorized=True)
    points = tensor([0.5, 0.9], [1.0, 0.0])
    assert torch.equal(alone(points), batch(points))
    assert alone(points).shape == (2, 2, 3)
    assert alone.error(alone(points), 0 * alone(points)).tolist() == [1.0, 1.0]


def test_function_metrics_by_hand() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([3 * x[:, 0], 4 * x[:, 0]], dim=1)

    point, off = tensor([0.5, 0.0]), tensor([1.5, 3.0])
    absolute, relative, spread = (nearly.Function(f, UNIT, metric=m) for m in ("absolute", "relative", "spread"))
    assert absolute(point).tolist() == [[1.5, 2.0]]
    assert float(absolute.error(absolute(point), off)) == 1.0
    assert float(relative.error(relative(point), off)) == 0.4
    # Over 64 draws the spread of 5 x, x uniform, is near 5 / sqrt(12), and the same at every use.
    assert spread.spread == pytest.approx(5 / math.sqrt(12), rel=0.2)
    assert float(spread.error(spread(point), off)) == 1 / spread.spread
    one_by_one = nearly.Function(lambda x: float(x[0]), UNIT, vectorized=False)
    assert one_by_one(point).tolist() == [[0.5]]
    assert one_by_one(point).dtype == torch.float64 or one_by_one(point).dtype == torch.float32


def test_spread_of_data_is_that_of_the_fitting_rows() -> None:
    inputs, outputs = table(200)
    target = nearly.Function.from_data(inputs, outputs, certify=150)
    assert target.rows is not None
    kept = outputs[target.rows.fitting]
    assert target.spread == pytest.approx(float((kept - kept.mean(dim=0)).norm() / math.sqrt(50)), rel=1e-12)


@pytest.mark.parametrize("build", [torch.as_tensor, np.asarray, list, scipy.sparse.csr_matrix, scipy.sparse.coo_matrix])
def test_matrix_and_solve_by_hand(build: Callable[[Any], Any]) -> None:
    entries = [[2.0, 1.0], [0.0, 4.0]]
    matrix = build(np.array(entries)) if build is not list else entries
    product, solve = nearly.Matrix(matrix), nearly.Solve(matrix)
    x = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=product.dtype)
    assert product(x).tolist() == [[3.0, 4.0], [2.0, 8.0]]
    b = torch.tensor([[3.0, 4.0]], dtype=solve.dtype)
    assert solve(b).tolist() == [[1.0, 1.0]]
    assert product.sample(5, 0).shape == solve.sample(5, 0).shape == (5, 2)
    assert float(product.error(tensor([3.0, 4.0]), tensor([3.0, 1.0]))) == 0.6
    assert float(solve.error(tensor([3.0, 4.0]), tensor([3.0, 1.0]))) == 0.6
    wide = nearly.Matrix(scipy.sparse.csr_matrix(np.ones((2, 3), dtype=np.int64)))
    assert wide(wide.sample(4, 0)).shape == (4, 2)


def test_network_metrics_by_hand() -> None:
    data = torch.randn(120, 2, dtype=torch.float64, generator=generator())
    module = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
    nets = {m: nearly.Network(module, data, metric=m) for m in ("relative", "kl", "top1")}
    z, y = tensor([3.0, 4.0], [0.0, 1.0]), tensor([3.0, 1.0], [0.0, 2.0])
    assert nets["relative"].error(z, y).tolist() == [0.6, 1.0]
    assert nets["top1"].error(z, y).tolist() == [1.0, 0.0]
    p, q = [1 / (1 + math.e), math.e / (1 + math.e)], [1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)]
    by_hand = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(nets["kl"].error(z, y)[1]) == pytest.approx(by_hand, rel=1e-12)
    assert torch.equal(nets["kl"](z), z)
    assert float(nets["kl"].error(z, z + 5).abs().max()) < 1e-15  # softmax does not see a shift


def test_network_keeps_the_training_flag_and_answers_in_evaluation_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    net = nearly.Network(module, torch.randn(120, 4, generator=generator()))
    x = net.sample(10, 0)
    assert torch.equal(net(x), net(x))
    assert module.training
    assert not net(x).requires_grad


def test_measure_by_hand() -> None:
    points, weights = tensor([0.0, 0.0], [1.0, 0.0], [0.0, 2.0]), tensor(1.0, 1.0, 2.0)
    measure = nearly.Measure(points, weights=weights, scale=1.0)
    wave = tensor([math.pi, math.pi / 2, 0.0, 1.0])  # cos(pi x + pi y / 2)
    assert float(measure(wave)) == pytest.approx(0.25 * 1 + 0.25 * -1 + 0.5 * -1, abs=1e-15)
    assert measure.error(tensor([0.25], [0.0]), tensor([0.5], [-1.0])).tolist() == [0.25, 1.0]
    drawn = measure.sample(50, 3)
    values = drawn[:, -1:] * torch.cos(drawn[:, :2] @ points.T + drawn[:, 2:3])
    share = weights / 4
    spread = ((values - (values @ share)[:, None]).square() @ share).sqrt()
    assert torch.allclose(spread, torch.ones_like(spread))  # every test function has standard deviation 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: nearly.Field(lambda mu: mu, UNIT),
        lambda: nearly.Function(lambda x: x, UNIT),
        lambda: nearly.Matrix(torch.eye(3)),
        lambda: nearly.Solve(torch.eye(3)),
        lambda: nearly.Measure(torch.randn(50, 2, generator=generator())),
    ],
)
def test_draws_follow_their_seed_and_leave_the_global_state(build: Callable[[], Target]) -> None:
    target = build()
    before = torch.random.get_rng_state()
    assert torch.equal(target.sample(7, 5), target.sample(7, generator(5)))
    assert not torch.equal(target.sample(7, 5), target.sample(7, 6))
    pairs = target.draw(7, generator(5))
    assert torch.equal(pairs.outputs, target(pairs.inputs))
    assert torch.equal(torch.random.get_rng_state(), before)


# --- rows are handed out once


def test_rows_that_fit_never_certify() -> None:
    inputs, outputs = table(300)
    target = nearly.Field.from_data(inputs, outputs, seed=4)
    rows = target.rows
    assert rows is not None
    assert len(rows.certifying) == 90  # the least for 95% with confidence 99%
    assert sorted([*rows.fitting.tolist(), *rows.certifying.tolist()]) == list(range(300))
    surrogate = nearly.fields.NearestNeighbor(samples=150).fit(target)
    # Every stored reference is a fitting row, and every fitting row is in `seen`, used or not.
    assert set(row_hashes(inputs[rows.fitting]).tolist()) == set(surrogate.seen.tolist())
    certifying = target.draw(90, generator())
    assert not set(row_hashes(certifying.inputs).tolist()) & set(surrogate.seen.tolist())
    assert torch.equal(certifying.outputs, target(certifying.inputs))
    with pytest.raises(TooFewSamples, match="handed out once"):
        target.draw(1, generator())


@pytest.mark.parametrize("tolerance", [None, 1e9])
def test_a_loaded_surrogate_certifies_only_on_rows_it_never_saw(tmp_path: Path, tolerance: float | None) -> None:
    inputs, outputs = table(900)
    target = nearly.Function.from_data(inputs, outputs, certify=300, seed=1)
    if tolerance is None:
        surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64))
    else:  # a race also sets rows aside to choose with; they are seen too
        surrogate = nearly.fit(target, tolerance, methods=[nearly.fields.Mean(), nearly.fields.NearestNeighbor()])
    surrogate.save(tmp_path / "rows.safetensors")
    loaded = nearly.load(tmp_path / "rows.safetensors")
    assert set(loaded.seen.tolist()) == set(row_hashes(inputs[target.rows.fitting]).tolist())  # type: ignore[union-attr]
    other = nearly.Function.from_data(inputs, outputs, certify=500, seed=2)
    assert other.rows is not None
    overlap = torch.isin(other.rows.hashes[other.rows.certifying], loaded.seen).sum()
    assert overlap > 100, "another split certifies on rows that fitted, unless they are told"
    handed: list[torch.Tensor] = []
    take = other.rows.take
    other.rows.take = lambda n: (handed.append(other.rows.certifying[other.rows.handed :][:n]), take(n))[1]  # type: ignore[method-assign,union-attr]
    fresh = nearly.certify(loaded, other)
    assert fresh.samples == 500 - overlap
    assert not torch.isin(other.rows.hashes[torch.cat(handed)], loaded.seen).any()


def test_certifying_rows_are_spent_by_certify_too() -> None:
    inputs, outputs = table(400)
    target = nearly.Function.from_data(inputs, outputs, certify=250)
    surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64), samples=100)
    assert nearly.certify(surrogate, target, samples=100).samples == 100
    with pytest.raises(TooFewSamples, match="got 50"):
        nearly.certify(surrogate, target, samples=100)
    with pytest.raises(TooFewSamples, match="got 50"):
        nearly.certify(surrogate, target)


def test_two_certifications_of_one_target_share_no_row() -> None:
    inputs, outputs = table(400)
    target = nearly.Function.from_data(inputs, outputs, certify=200)
    first = nearly.fit(target, method=nearly.fields.Mean(), samples=100)
    handed: list[int] = []
    assert target.rows is not None
    take = target.rows.take

    def record(n: int) -> Any:
        pairs = take(n)
        handed.extend(row_hashes(pairs.inputs).tolist())
        return pairs

    before = set(row_hashes(inputs[target.rows.certifying[:100]]).tolist())  # those of the fit
    target.rows.take = record  # type: ignore[method-assign]
    nearly.certify(first, target, samples=100)
    assert len(set(handed)) == 100
    assert not before & set(handed)


@pytest.mark.parametrize(("quantile", "confidence", "least"), [(0.95, 0.95, 59), (0.95, 0.99, 90), (0.9, 0.9, 22)])
def test_from_data_keeps_the_least_that_the_level_needs(quantile: float, confidence: float, least: int) -> None:
    inputs, outputs = table(200)
    target = nearly.Field.from_data(inputs, outputs, quantile=quantile, confidence=confidence)
    assert target.rows is not None
    assert len(target.rows.certifying) == least
    surrogate = nearly.fit(target, method=nearly.fields.Mean(), quantile=quantile, confidence=confidence)
    assert isinstance(surrogate.certificate, Probable)
    assert surrogate.certificate.samples == least
    assert surrogate.certificate.source == "the source of the 200 rows of data"


def test_a_separate_certifying_set_is_used_whole_and_for_nothing_else() -> None:
    inputs, outputs = table(100)
    apart = table(120, seed=9)
    target = nearly.Function.from_data(inputs, outputs, certifying=apart)
    assert target.rows is not None
    surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=100))
    assert surrogate.certificate is not None
    assert surrogate.certificate.samples == 120  # type: ignore[union-attr]
    assert set(surrogate.seen.tolist()) == set(row_hashes(inputs).tolist())
    with pytest.raises(BadInput, match="certify must be left out"):
        nearly.Function.from_data(inputs, outputs, certify=90, certifying=apart)
    with pytest.raises(TooFewSamples, match="at least 90"):
        nearly.Function.from_data(inputs, outputs, certifying=table(89))
    with pytest.raises(BadInput, match="certifying must be of row shapes"):
        nearly.Function.from_data(inputs, outputs, certifying=table(120, width=4))


def test_data_answers_its_rows_and_nothing_else() -> None:
    inputs, outputs = table(200)
    target = nearly.Field.from_data(inputs, outputs)
    assert torch.equal(target(inputs[[150, 3]]), outputs[[150, 3]])
    with pytest.raises(OutOfDomain, match="input 1 is no row of the data"):
        target(torch.stack([inputs[0], inputs[1] + 1e-12]))
    first, second = target.sample(40, 0), target.sample(50, 0)
    assert not set(row_hashes(first).tolist()) & set(row_hashes(second).tolist())


# --- bad data


BAD_TABLES: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]], str]] = {
    "NaN input": (lambda x, y: (x.index_fill(0, torch.tensor([3]), math.nan), y), "inputs must be finite.*index .3, 0"),
    "infinite output": (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), math.inf)), "outputs must be finite"),
    "no rows": (lambda x, y: (x[:0], y[:0]), "inputs must be non-empty"),
    "no columns": (lambda x, y: (x, y[:, :0]), "outputs must be non-empty"),
    "one row": (lambda x, y: (x[:1], y[:1]), "at least 98"),
    "too few rows": (lambda x, y: (x[:97], y[:97]), "at least 98 .90 rows to certify and 8 to fit.; got 97"),
    "rows differ": (lambda x, y: (x, y[:-1]), "outputs must be of as many rows as inputs .200.; got 199.*transposed"),
    "transposed": (lambda x, y: (x, y.T), "outputs must be of as many rows"),
    "constant": (lambda x, y: (x, torch.ones_like(y)), "outputs must be of positive variance"),
    "complex": (lambda x, y: (x.to(torch.complex128), y), "inputs must be real"),
    "text": (lambda x, y: (np.array([["a"] * 3] * 200), y), "inputs must be numeric"),
    "objects": (lambda x, y: (x, np.array([[object()]] * 200)), "outputs must be numeric"),
    "ragged": (lambda x, y: ([[1.0], [2.0, 3.0]], y), "inputs must be numeric"),
    "a number": (lambda x, y: (3.0, y), "inputs must be at least 1-dimensional"),
    "nothing": (lambda x, y: (None, y), "inputs must be numeric"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.parametrize("noun", [nearly.Field, nearly.Function])
def test_bad_tables_are_refused_by_name(noun: Any, case: str) -> None:
    spoil, message = BAD_TABLES[case]
    with pytest.raises(BadInput, match=message) as caught:
        noun.from_data(*spoil(*table(200)))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, NearlyError)


def test_numbers_of_other_kinds_are_taken() -> None:
    whole = torch.arange(200)
    for inputs in (whole, whole > 100, whole.numpy(), whole.tolist(), whole.float(), whole.numpy().astype(np.float32)):
        target = nearly.Function.from_data(inputs, whole % 7)
        assert target.rows is not None
        assert target.rows.pairs.inputs.shape == target.rows.pairs.outputs.shape == (200, 1)
        assert target.rows.pairs.inputs.is_floating_point()
        surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=50))
        assert surrogate.certificate is not None


@pytest.mark.parametrize("bad", [-1, 1.5, "0", None, True, 2**63, math.nan])
def test_bad_seeds_are_refused(bad: Any) -> None:
    inputs, outputs = table(200)
    function = nearly.Function(lambda x: x.sum(dim=1), UNIT)
    calls: list[Callable[[], Any]] = [
        lambda: nearly.Field.from_data(inputs, outputs, seed=bad),
        lambda: nearly.Network(nn.Linear(3, 1, dtype=torch.float64), inputs, seed=bad),
        lambda: function.sample(3, bad),
        lambda: UNIT.sample(3, bad),
    ]
    if bad != 2**63:  # a fit mixes its seed, so that any number from 0 on will do
        calls += [
            lambda: nearly.fit(function, 1.0, seed=bad),
            lambda: nearly.fit(function, method="fields.Mean", seed=bad),
            lambda: nearly.certify(nearly.fields.Mean().fit(function), function, seed=bad),
        ]
    for call in calls:
        with pytest.raises(BadInput, match="seed must be an integer"):
            call()


@pytest.mark.parametrize("bad", [0, -5, 1.5, "90", True, math.nan])
def test_bad_counts_are_refused(bad: Any) -> None:
    inputs, outputs = table(200)
    with pytest.raises(BadInput, match="certify must be"):
        nearly.Field.from_data(inputs, outputs, certify=bad)
    with pytest.raises(BadInput, match="certify must be"):
        nearly.Network(nn.Linear(3, 1, dtype=torch.float64), inputs, certify=bad)
    function = nearly.Function(lambda x: x.sum(dim=1), UNIT)
    with pytest.raises(BadInput, match="n must be"):
        function.sample(bad, 0)
    for name in ("samples", "evaluations"):
        with pytest.raises(BadInput, match=f"{name} must be"):
            nearly.fit(function, 1.0, **{name: bad})


def test_certify_counts_that_leave_nothing_are_refused() -> None:
    inputs, outputs = table(200)
    with pytest.raises(TooFewSamples, match="certify must be at least 90"):
        nearly.Field.from_data(inputs, outputs, certify=89)
    for certify in (193, 10**9):
        with pytest.raises(TooFewSamples, match=f"{certify} rows to certify and 8 to fit"):
            nearly.Field.from_data(inputs, outputs, certify=certify)
        with pytest.raises(TooFewSamples, match=f"{certify} rows to certify and 8 to fit"):
            nearly.Network(nn.Linear(3, 1, dtype=torch.float64), inputs, certify=certify)


# --- bad constructions


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nearly.Field("solve", UNIT), "solver must be callable; got 'solve'"),
        (lambda: nearly.Function(3.0, UNIT), "f must be callable; got 3.0"),
        (lambda: nearly.Field(lambda mu: mu, [0, 1]), "domain must be a Box or a callable"),
        (lambda: nearly.Function(lambda x: x, "box"), "domain must be a Box or a callable"),
        (lambda: nearly.Function(lambda x: x, UNIT, metric="max"), "metric must be one of spread, absolute, relative"),
        (lambda: nearly.Network(lambda x: x, torch.ones(200, 2)), "module must be a torch.nn.Module"),
        (lambda: nearly.Network(nn.Identity(), torch.ones(200, 2), metric="l2"), "metric must be one of relative"),
        (lambda: nearly.Network(nn.Identity(), torch.full((200, 2), math.nan)), "data must be finite"),
        (lambda: nearly.Network(nn.Identity(), torch.ones(97, 2)), "data must be at least 98"),
        (lambda: nearly.Measure(torch.ones(1, 2)), "samples must be at least two distinct rows"),
        (lambda: nearly.Measure(torch.ones(5, 2)), "samples must be at least two distinct rows"),
        (lambda: nearly.Measure(torch.ones(5)), "samples must be 2-dimensional"),
        (lambda: nearly.Measure(tensor([0.0], [1.0]), weights=[1.0, -1.0]), "weights must be 2 positive numbers"),
        (lambda: nearly.Measure(tensor([0.0], [1.0]), weights=[1.0]), "weights must be 2 positive numbers"),
        (lambda: nearly.Measure(tensor([0.0], [1.0]), scale=math.nan), "scale must be"),
        (lambda: nearly.Measure(tensor([0.0], [1.0]), scale=0.0), "scale must be"),
        (lambda: nearly.Measure(tensor([0.0], [1.0]), scale="wide"), "scale must be"),
        (lambda: nearly.Matrix(torch.ones(3)), "matrix must be 2-dimensional"),
        (lambda: nearly.Matrix(torch.ones(0, 3)), "matrix must be non-empty"),
        (lambda: nearly.Matrix(torch.full((2, 2), math.nan)), "matrix must be finite"),
        (lambda: nearly.Matrix(torch.ones(2, 2, dtype=torch.complex64)), "matrix must be real"),
        (lambda: nearly.Matrix(np.array([["a"]])), "matrix must be numeric"),
        (lambda: nearly.Matrix(torch.zeros(2, 2)), "matrix must be nonzero"),
        (lambda: nearly.Matrix(scipy.sparse.csr_matrix((2, 2))), "matrix must be nonzero"),
        (lambda: nearly.Matrix(scipy.sparse.csr_matrix(np.full((2, 2), math.inf))), "matrix must be finite"),
        (lambda: nearly.Matrix(scipy.sparse.csr_matrix(np.full((2, 2), 1j))), "matrix must be real"),
        (lambda: nearly.Solve(torch.ones(2, 3)), "matrix must be square"),
        (lambda: nearly.Solve(scipy.sparse.csr_matrix(np.ones((2, 3)))), "matrix must be square"),
        (lambda: nearly.Field(lambda mu: mu, UNIT, product=[1.0, 0.0]), "product must be positive weights; got 1"),
        (lambda: nearly.Field(lambda mu: mu, UNIT, product=[1.0, math.nan]), "product must be finite"),
        (
            lambda: nearly.Field(lambda mu: mu, UNIT, product=scipy.sparse.csr_matrix([[1.0, 2.0], [0.0, 1.0]])),
            "product must be symmetric; got a matrix that differs from its transpose by 2",
        ),
        (
            lambda: nearly.Field(lambda mu: mu, UNIT, product=scipy.sparse.csr_matrix(np.ones((2, 3)))),
            "product must be square",
        ),
        (lambda: nearly.Field.from_data(*table(200), product=[1.0, 1.0, 1.0]), "product must be"),
    ],
)
def test_bad_constructions_are_refused_by_name(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build()


def laplacian(weights: np.ndarray) -> scipy.sparse.csr_matrix:
    """Of a chain without ends held fixed: singular, but its factors do not show an exact zero."""
    n = len(weights) + 1
    difference = scipy.sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n))
    return (difference.T @ scipy.sparse.diags(weights) @ difference).tocsr()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("kind", ["zero row", "repeated row", "chain"])
def test_singular_matrices_are_refused(kind: str, dense: bool) -> None:
    matrix = {
        "zero row": scipy.sparse.csr_matrix(np.diag([1.0, 0.0, 2.0])),
        "repeated row": scipy.sparse.csr_matrix(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 1.0, 1.0]])),
        "chain": laplacian(np.random.default_rng(0).uniform(0.1, 1.0, 40)),
    }[kind]
    with pytest.raises(FactorizationFailed, match="matrix is singular") as caught:
        nearly.Solve(matrix.toarray() if dense else matrix)
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("dense", [True, False])
def test_badly_scaled_matrices_that_are_not_singular_are_taken(dense: bool) -> None:
    rows = np.random.default_rng(1).standard_normal((30, 30)) + 10 * np.eye(30)
    solve = nearly.Solve(rows if dense else scipy.sparse.csr_matrix(rows))
    b = solve.sample(3, 0)
    assert np.allclose(solve(b).numpy() @ rows.T, b.numpy(), rtol=1e-10)


def test_wrong_input_widths_are_refused() -> None:
    for target in (nearly.Matrix(torch.eye(3)), nearly.Solve(torch.eye(3)), nearly.Measure(tensor([0.0], [1.0]))):
        with pytest.raises(BadInput, match="inputs must be"):
            target(torch.ones(2, 5))


# --- solvers that fail


def unreliable(fails: Callable[[torch.Tensor], bool], how: str) -> Callable[[torch.Tensor], Any]:
    def solve(mu: torch.Tensor) -> Any:
        good = torch.outer(mu, mu).flatten()
        if not fails(mu):
            return good
        if how == "raises":
            raise ArithmeticError("did not converge")
        return {
            "NaN": good * math.nan,
            "infinite": good + math.inf,
            "other shape": good[:2],
            "complex": torch.complex(good, good),
        }[how]

    return solve


REASONS = {
    "raises": "ArithmeticError: did not converge",
    "NaN": "NaN or infinite entries",
    "infinite": "NaN or infinite entries",
    "other shape": r"output of shape \(2,\)",
    "complex": "complex",
}


@pytest.mark.parametrize("how", REASONS)
@pytest.mark.parametrize("corner", ["low", "high"])
def test_a_solver_that_fails_somewhere_is_reported_and_left_out(how: str, corner: str) -> None:
    def fails(mu: torch.Tensor) -> bool:
        return bool(mu[0] < 0.15 if corner == "low" else mu[0] > 0.85)

    target = nearly.Field(unreliable(fails, how), UNIT, name="shaky")
    for seed in range(8):  # so that some draw begins with a failure
        pairs = target.draw(100, generator(seed))
        assert len(pairs) == 100
        assert not any(fails(mu) for mu in pairs.inputs)
        assert torch.equal(pairs.outputs, torch.stack([torch.outer(mu, mu).flatten() for mu in pairs.inputs]))
        assert 3 <= len(pairs.failures) <= 50
        assert all(f.startswith("at input (0.") for f in pairs.failures)
    surrogate = nearly.fit(target, method=nearly.fields.PODRegression(samples=60, degree=4))
    assert isinstance(surrogate.certificate, Probable)
    assert 10 <= surrogate.certificate.failures <= 80
    assert f"failed at {surrogate.certificate.failures} further inputs" in surrogate.certificate.describe()
    bad = tensor([0.05, 0.5]) if corner == "low" else tensor([0.95, 0.5])
    with pytest.raises(
        SolverFailed, match=f"shaky failed at 1 of 4 inputs; first at input 3: .*{REASONS[how]}"
    ) as told:
        target(torch.cat([tensor([0.5, 0.5]).expand(3, 2), bad]))
    assert isinstance(told.value, RuntimeError)


def test_a_vectorized_solver_that_fails_keeps_its_good_rows() -> None:
    def solve(mu: torch.Tensor) -> torch.Tensor:
        if bool((mu[:, 0] < 0.1).any()):
            raise ArithmeticError("did not converge")
        return mu.square()

    target = nearly.Field(solve, UNIT, vectorized=True)
    pairs = target.draw(200, generator())
    assert torch.equal(pairs.outputs, pairs.inputs.square())
    assert 5 <= len(pairs.failures) <= 60
    assert all("did not converge" in f for f in pairs.failures)
    with pytest.raises(SolverFailed, match="3 outputs for 2 inputs"):
        nearly.Field(lambda mu: torch.zeros(3, 4), UNIT, vectorized=True)(tensor([0.1, 0.2], [0.3, 0.4]))


@pytest.mark.parametrize("how", [how for how in REASONS if how != "other shape"])
@pytest.mark.parametrize("count", [1, 100])
def test_a_solver_that_always_fails_is_said(how: str, count: int) -> None:
    target = nearly.Field(unreliable(lambda mu: True, how), UNIT, name="broken")
    with pytest.raises(SolverFailed, match=f"broken fails at more than half of its inputs.*{REASONS[how]}"):
        target.draw(count, generator())
    with pytest.raises(NearlyError, match=REASONS[how]):
        nearly.fit(target, 0.1)
    with pytest.raises(SolverFailed):
        nearly.fit(target, method="fields.Mean")


def test_a_constant_function_is_said_where_its_spread_is_the_unit() -> None:
    constant = nearly.Function(lambda x: 0 * x[:, 0] + 3, UNIT)
    with pytest.raises(SolverFailed, match="same value everywhere; metric='absolute'"):
        nearly.fit(constant, method="fields.Mean")
    absolute = nearly.Function(constant.f, UNIT, metric="absolute")
    assert nearly.fit(absolute, method="fields.Mean").certificate.error < 1e-15  # type: ignore[union-attr]


def test_outputs_of_other_kinds_and_with_gradients_are_taken() -> None:
    step = nearly.Function(lambda x: x.sum(dim=1) > 1, UNIT)
    assert step(tensor([0.1, 0.2], [0.9, 0.8])).tolist() == [[0.0], [1.0]]
    assert nearly.fit(step, method="fields.NearestNeighbor").certificate is not None
    module = nn.Linear(2, 1, dtype=torch.float64)
    learned = nearly.Function(module, UNIT)
    assert not learned.draw(5, generator()).outputs.requires_grad
    surrogate = nearly.fit(learned, method="functions.PolynomialLeastSquares")
    assert surrogate.certificate.error < 1e-12  # type: ignore[union-attr]
    assert all(p.grad is None for p in module.parameters())


# --- refused before any work


class Counted:
    """A function that counts its evaluations."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.count += len(x)
        return x.sum(dim=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"tolerance": -1.0}, "tolerance must be"),
        ({"tolerance": math.nan}, "tolerance must be"),
        ({"tolerance": math.inf}, "tolerance must be"),
        ({"tolerance": "small"}, "tolerance must be a real number"),
        ({}, "tolerance must be given when no method is"),
        ({"tolerance": 0.1, "samples": 20}, "samples must be at least 104"),
        ({"method": "fields.Mean", "samples": 89}, "samples must be at least 90"),
        ({"method": "fields.Mean", "samples": 20, "quantile": 0.9, "confidence": 0.9}, "samples must be at least 22"),
        ({"tolerance": 0.1, "quantile": 1.0}, "quantile must be"),
        ({"tolerance": 0.1, "confidence": math.nan}, "confidence must be"),
        ({"method": "functions.PolynomialLeastSquare"}, "Near: functions.PolynomialLeastSquares"),
        ({"method": "fields.Kernel"}, "method must be an installed method.*Near: .*fields.KernelRegression"),
        ({"method": "???"}, "method must be an installed method"),
        ({"method": 3}, "method must be a method such as"),
        ({"method": nearly.fields.Mean}, "method must be a method such as"),
        ({"method": "matrices.TruncatedSVD"}, "it fits matrix targets, not a function"),
        ({"method": "fields.Mean", "methods": ["fields.Mean"]}, "methods must be left out when method is given"),
        ({"tolerance": 0.1, "methods": []}, "methods must be at least one"),
        ({"tolerance": 0.1, "methods": ["fields.Mean", "nothing.At.All"]}, "method must be an installed method"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_evaluation(arguments: dict[str, Any], message: str) -> None:
    f = Counted()
    target = nearly.Function(f, UNIT)
    with pytest.raises(BadInput, match=message):
        nearly.fit(target, **arguments)
    assert f.count == 0


def test_too_few_rows_are_refused_before_any_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    target = nearly.Field.from_data(*table(200))
    monkeypatch.setattr("nearly.fields.mean.Mean._fit", lambda *args: pytest.fail("fitted before it was refused"))
    for arguments in ({"quantile": 0.99}, {"confidence": 0.9999}, {"samples": 91}, {"samples": 89}):
        with pytest.raises(BadInput, match=r"(samples|certify) must be at least"):
            nearly.fit(target, method="fields.Mean", **arguments)  # type: ignore[arg-type]


def test_a_target_that_is_none_is_refused() -> None:
    for wrong in (None, torch.eye(3), lambda x: x, 3):
        with pytest.raises(BadInput, match="target must be a target such as"):
            nearly.fit(wrong, 0.1)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="target must be a target such as"):
            nearly.fields.Mean().fit(wrong)  # type: ignore[arg-type]


def test_data_cannot_answer_inputs_that_a_method_chooses() -> None:
    target = nearly.Field.from_data(*table(200))
    with pytest.raises(BadInput, match="target must be able to answer inputs that a method chooses"):
        Supply(target, 0).solve(torch.zeros(1, 3, dtype=torch.float64))


def test_a_bound_that_does_not_hold_is_never_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nearly.matrices.truncated_svd.TruncatedSVDModel.bound", lambda self, x: torch.full((len(x),), 1e-9)
    )
    with pytest.raises(CertificateViolated, match="it is no bound"):
        nearly.fit(nearly.Matrix(torch.diag(torch.arange(1.0, 9.0))), method=nearly.matrices.TruncatedSVD(rank=3))
