"""Unusual but legal use of targets, data, domains and certificates: what comes back is what a naive computation gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn

import nearly
from nearly.core.certificate import Asked, Probable, certificate_from_manifest, certificate_to_manifest
from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.target import row_hashes
from nearly.core.validate import to_tensor
from nearly.linalg.operator import as_square

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOX = nearly.Box([0.0, 0.0], [1.0, 1.0])
NEIGHBOR = nearly.fields.NearestNeighbor(samples=1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 300, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 2, generator=generator()).to(dtype)
    return x, (30 * x).sin().sum(dim=1)


# --- functions and solvers


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_function_that_works_in_place_leaves_the_inputs_alone(vectorized: bool) -> None:
    def doubled(x: Tensor) -> Tensor:
        return x.mul_(2).sum(dim=-1)

    target = nearly.Function(doubled, BOX, vectorized=vectorized)
    pairs = target.draw(5, generator())
    assert torch.equal(pairs.inputs, BOX.sample(5, generator()))
    assert torch.equal(pairs.outputs[:, 0], (2 * pairs.inputs).sum(dim=1))
    asked = torch.ones(1, 2)
    target(asked)
    assert torch.equal(asked, torch.ones(1, 2))


@pytest.mark.parametrize("buffer", [torch.zeros(3, dtype=torch.float64), np.zeros(3)])
def test_a_solver_may_answer_in_one_buffer_every_time(buffer: Any) -> None:
    def solver(mu: Tensor) -> Any:
        buffer[:] = float(mu[0])
        return buffer

    pairs = nearly.Field(solver, BOX).draw(4, generator())
    assert torch.equal(pairs.outputs, pairs.inputs[:, :1].expand(4, 3))
    answers = nearly.Fidelity(solver, unknowns=3)(pairs.inputs)
    assert torch.equal(answers, pairs.outputs)


@pytest.mark.parametrize(
    ("f", "vectorized"),
    [
        (lambda x: math.exp(x[0]), False),  # Python's floats are double
        (lambda x: [math.exp(v) for v in x[:, 0].tolist()], True),
    ],
)
def test_numbers_in_double_precision_stay_so(f: Callable[[Tensor], Any], vectorized: bool) -> None:
    pairs = nearly.Function(f, BOX, vectorized=vectorized).draw(8, generator())
    torch.testing.assert_close(pairs.outputs[:, 0], pairs.inputs[:, 0].exp(), rtol=1e-15, atol=0.0)


def test_answers_of_several_precisions_take_the_highest() -> None:
    calls = 0

    def f(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x[0].float() if calls == 1 else x[0]

    pairs = nearly.Function(f, BOX, vectorized=False).draw(3, generator())
    assert torch.equal(pairs.outputs[1:, 0], pairs.inputs[1:, 0])


@pytest.mark.parametrize("method", ["fields.PODRegression", "functions.SparsePolynomial"])
@pytest.mark.parametrize("double", ["inputs", "outputs"])
def test_inputs_and_outputs_may_differ_in_precision(method: str, double: str) -> None:
    low, high = torch.float32, torch.float64
    ends = (high, low) if double == "inputs" else (low, high)

    def f(x: Tensor) -> Tensor:
        return x.to(ends[1]).sum(dim=1, keepdim=True).exp()

    noun: Any = nearly.Field if method.startswith("fields") else nearly.Function
    target = noun(f, lambda n, g: torch.rand(n, 2, generator=g).to(ends[0]), vectorized=True)
    surrogate = nearly.fit(target, method=method)
    x = target.sample(20, 1)
    torch.testing.assert_close(surrogate(x), f(x).to(ends[0]), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda n, g: torch.rand(100, 2, generator=g),
        lambda n, g: torch.rand(0, 2, generator=g),
        lambda n, g: torch.full((n, 2), math.nan),
        lambda n, g: "none",
    ],
    ids=["more rows", "no rows", "not finite", "no numbers"],
)
@pytest.mark.parametrize("noun", [nearly.Field, nearly.Function])
def test_a_sampler_must_draw_what_is_asked(noun: Any, sampler: Any) -> None:
    with pytest.raises(BadInput, match="domain"):
        noun(lambda x: x.nan_to_num(), sampler).draw(3, generator())


def test_a_sampler_may_draw_arrays() -> None:
    random = np.random.default_rng(0)
    sampler: Any = lambda n, g: random.random((n, 2))  # noqa: E731
    pairs = nearly.Function(lambda x: x.sum(dim=1), sampler).draw(70, generator())
    assert torch.equal(pairs.outputs[:, 0], pairs.inputs.sum(dim=1))


def test_a_sampler_must_draw_anew() -> None:
    x, _ = rows(2000)
    target = nearly.Function(lambda x: (30 * x).sin().sum(dim=1), lambda n, g: x[:n])
    with pytest.raises(BadInput, match="domain"):  # it would be certified on what was fitted
        nearly.fit(target, method=NEIGHBOR)
    with pytest.raises(BadInput, match="domain"):
        nearly.compare(target, [NEIGHBOR]).fitted[0]
    coin = nearly.Function(lambda x: x.sum(dim=1), lambda n, g: torch.randint(0, 2, (n, 1), generator=g).double())
    assert len({len(coin.draw(5, generator(seed))) for seed in range(300)}) == 1


# --- data


@pytest.mark.parametrize(
    "form", [lambda a: a[::-1], lambda a: a.astype(">f8"), lambda a: np.asfortranarray(a)[:, ::-1]]
)
def test_arrays_in_any_layout_are_data(form: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.random.default_rng(0).random((200, 2))
    target = nearly.Function.from_data(form(x), x.sum(axis=1))
    assert target.rows is not None
    assert np.array_equal(target.rows.pairs.inputs.numpy(), form(x).astype(float))
    assert np.array_equal(nearly.Matrix(form(x))(torch.eye(2, dtype=torch.float64)).numpy(), form(x).T)


def test_read_only_arrays_are_copied() -> None:
    """Tensors have no such flag: whoever writes to one of memory that is mapped for reading alone ends the process."""
    x = np.random.default_rng(0).random((200, 2))
    x.flags.writeable = False
    tensors = [to_tensor(x), nearly.Function.from_data(x, x.sum(axis=1)).rows.pairs.inputs, nearly.Matrix(x).matrix]
    tensors.append(as_square(scipy.sparse.csr_matrix((x[:5, 0], np.arange(5), np.arange(6)))).values())
    assert not any(np.shares_memory(tensor.numpy(), x) for tensor in tensors)


def test_no_rows_of_data_are_a_clear_answer() -> None:
    x, y = rows()
    assert nearly.Function.from_data(x, y)(x[:0]).shape == (0, 1)


def test_rows_are_told_in_any_precision() -> None:
    x, y = rows(400, torch.float32)
    surrogate = nearly.fit(nearly.Function.from_data(x, y), method=NEIGHBOR)
    with pytest.raises(TooFewSamples):  # the certifying rows of another split were fitted, all but a few
        nearly.certify(surrogate, nearly.Function.from_data(x.double(), y.double(), seed=5))
    assert row_hashes(torch.tensor([[0.0]])) == row_hashes(torch.tensor([[-0.0]]))


def test_fitted_rows_do_not_certify() -> None:
    x, y = rows()
    mixed = torch.randperm(len(x), generator=generator())[:200]
    nouns: list[Any] = [nearly.Function, nearly.Field]
    for noun in nouns:
        with pytest.raises(BadInput, match="certifying"):
            noun.from_data(x, y, certifying=(x[mixed], y[mixed]))
        with pytest.raises(BadInput, match="certifying"):
            noun.from_data(x, y, certifying=5)
    with pytest.raises(BadInput, match="certifying"):
        nearly.Network(nn.Linear(2, 1), x, certifying=x[mixed])
    few = torch.randint(0, 5, (300, 2), generator=generator())  # repeats by right
    assert nearly.Function.from_data(few, few.sum(dim=1), certifying=(few[:100], few[:100].sum(dim=1))).rows is not None


# --- networks


def test_a_network_whose_first_layer_works_in_place() -> None:
    data = torch.randn(300, 4, generator=generator())
    kept = data.clone()
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    target = nearly.Network(module, data)
    pairs = target.draw(90, generator())
    assert torch.equal(data, kept)
    assert float(pairs.inputs.min()) < 0
    with torch.no_grad():
        assert torch.equal(pairs.outputs, module(pairs.inputs.clone()))


# --- domains


def test_a_logarithmic_box_ends_at_its_lower_end() -> None:
    box = nearly.Box([1e-8, 0.0], [1.0, 1.0], log=[True, False])
    x = torch.tensor([[0.0, 0.5], [-1e-7, 0.5], [1e-12, 0.5], [1e-8, 0.0], [1.0, 1.0]])
    assert box.contains(x).tolist() == [False, False, False, True, True]
    assert box.contains(box.lower[None].float()).all()


def test_a_box_too_wide_for_its_precision_is_refused() -> None:
    with pytest.raises(BadInput, match="upper"):
        nearly.Box([-1e308], [1e308])


def test_whole_numbers_lie_in_a_box() -> None:
    assert BOX.contains(torch.tensor([[0, 1], [0, 2]])).tolist() == [True, False]


# --- certificates


def test_a_matrix_of_another_width_is_refused() -> None:
    matrix = torch.randn(6, 6, generator=generator())
    surrogate = nearly.fit(nearly.Matrix(matrix), method="matrices.TruncatedSVD")
    with pytest.raises(BadInput, match="inputs"):
        nearly.certify(surrogate, nearly.Matrix(matrix[:, :5]))


def test_a_certificate_speaks_in_the_unit_of_its_errors() -> None:
    def f(x: Tensor) -> Tensor:
        return 1e-3 * x.sum(dim=1).exp()

    surrogate = nearly.fit(nearly.Function(f, BOX), method="fields.Mean")
    with pytest.raises(BadInput, match="target"):
        nearly.certify(surrogate, nearly.Function(f, BOX, metric="absolute"))


@pytest.mark.parametrize("confidence", [-0.5, 0.0, 1.0, math.nan, "high"])
def test_the_confidence_of_many_statements_is_checked_as_given(confidence: Any) -> None:
    with pytest.raises(BadInput, match="confidence"):
        Asked(confidence=confidence, statements=2)
    with pytest.raises(BadInput, match="confidence"):
        nearly.fit(nearly.Function(lambda x: x.sum(dim=1), BOX), 0.5, confidence=confidence)


def test_an_infinite_level_survives_a_file(tmp_path: Path) -> None:
    x, _ = rows()
    y = torch.zeros(300, 3)
    y[::2] = 1  # the relative error at a zero output is infinite
    surrogate = nearly.fit(nearly.Field.from_data(x, y), method="fields.Mean")
    surrogate.save(tmp_path / "in finite.nearly")
    loaded = nearly.load(tmp_path / "in finite.nearly").certificate
    assert isinstance(loaded, Probable)
    assert loaded.error == math.inf
    assert certificate_from_manifest(certificate_to_manifest(surrogate.certificate)) == surrogate.certificate


# --- surrogates


@pytest.mark.parametrize("method", ["fields.KernelRegression", "fields.NearestNeighbor"])
def test_models_of_features_export(method: str) -> None:
    target = nearly.Function(lambda x: x.sum(dim=1).exp(), nearly.Box([1e-3, 1.0], [1.0, 2.0], log=[True, False]))
    model = nearly.fit(target, method=method).model
    x = target.sample(5, 1)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))
