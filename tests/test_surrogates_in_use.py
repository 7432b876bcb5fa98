"""Surrogates where they are used: rows that repeat, other precisions, many rows, inside other modules, and at the command line."""

from __future__ import annotations

import copy
import re
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import nearly
from nearly.cli.commands import _as_typed, main
from nearly.core.certify import predict
from nearly.core.domain import Cloud
from nearly.core.errors import BadInput, CertificateViolated, Interrupted, OutOfDomain, TooFewSamples
from nearly.core.search import race
from nearly.functions import WeightedLeastSquares
from nearly.matrices import RandomizedSVD, TruncatedSVD
from nearly.problems import thermal_block

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KIND = torch.float64
BOX = nearly.Box([0.0, 0.0], [1.0, 1.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = KIND) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def categories(n: int, g: torch.Generator) -> Tensor:
    return nn.functional.one_hot(torch.randint(0, 20, (n,), generator=g), 20).double() / 3 + 0.1


def settings(n: int, g: torch.Generator) -> Tensor:
    return 0.1 * torch.randint(0, 4, (n, 3), generator=g).double()


def constant(n: int, g: torch.Generator) -> Tensor:
    return torch.cat([torch.rand(n, 2, dtype=KIND, generator=g), torch.full((n, 1), 1e9 / 3, dtype=KIND)], dim=1)


# --- what the data look like


@pytest.mark.parametrize("law", [categories, settings, constant])
@pytest.mark.parametrize("model", ["double", "single"])
@pytest.mark.parametrize("inputs", ["batch", "one by one", "single precision"])
def test_rows_that_repeat_are_like_themselves(
    law: Callable[[int, torch.Generator], Tensor], model: str, inputs: str
) -> None:
    """At distance zero from a reference but for rounding, which depends on the batch and on the precision."""
    cloud = Cloud.fit(law(1024, generator()))
    x = law(200, generator(1))
    if model == "single":
        cloud = cloud.float()
    if inputs == "one by one":
        inside = torch.cat([cloud.contains(row) for row in x.split(1)])
    else:
        inside = cloud.contains(x.float() if inputs == "single precision" else x)
    assert inside.double().mean() > 0.95
    moved = x.clone()
    moved[:, 0] += 3.0
    assert not cloud.contains(moved).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_columns_in_any_unit_are_looked_at(dtype: torch.dtype) -> None:
    """A thickness of millimeters beside a modulus of 200 GPa: ten times the thickness is no input like the data."""
    unit = torch.tensor([2e10, 1e-4, 1.0])
    x = (torch.rand(600, 3, generator=generator()) * unit + 10 * unit).to(dtype)
    cloud = Cloud.fit(x[:500])
    assert cloud.contains(x[500:]).double().mean() > 0.9
    for column in range(3):
        moved = x[500:].clone()
        moved[:, column] *= 1.5
        assert not cloud.contains(moved).any()


def test_a_cloud_answers_in_half_precision() -> None:
    cloud = Cloud.fit(torch.rand(300, 2, generator=generator()))
    for dtype in (torch.float16, torch.bfloat16):
        assert copy.deepcopy(cloud).to(dtype).contains(torch.full((2, 2), 0.5, dtype=dtype)).all()


# --- bounds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", [TruncatedSVD, RandomizedSVD])
@pytest.mark.parametrize("values", ["flat", "steep"])
def test_bounds_of_low_rank_hold_for_any_vector(dtype: torch.dtype, method: Any, values: str) -> None:
    """Also where hardly anything is kept, and where rounding is all that is left of the product; truth in higher precision."""
    size = 40
    left, right = (torch.linalg.qr(draw(size, size, seed=seed))[0] for seed in (1, 2))
    sizes = torch.ones(size, dtype=KIND) if values == "flat" else 0.01 ** torch.arange(size, dtype=KIND)
    matrix = ((left * sizes) @ right).to(dtype)
    inputs = torch.cat([draw(200, size), right, right[:1] + 1e-8 * draw(20, size), torch.eye(size, dtype=KIND)])
    inputs = inputs.to(dtype)
    outputs = inputs.numpy().astype(np.longdouble) @ matrix.numpy().astype(np.longdouble).T
    for rank in (1, 2, 20, size):
        surrogate = method(rank=rank).fit(nearly.Matrix(matrix))
        answers, bound = (part.numpy().astype(np.longdouble) for part in (surrogate(inputs), surrogate.bound(inputs)))
        error = np.sqrt(((outputs - answers) ** 2).sum(axis=1) / (outputs**2).sum(axis=1))
        assert (bound >= error).all(), rank


def test_a_matrix_of_equal_singular_values_is_certified() -> None:
    for seed in range(5):
        orthogonal = torch.linalg.qr(draw(64, 64, seed=seed))[0]
        assert nearly.fit(nearly.Matrix(orthogonal), method=TruncatedSVD(rank=1)).certificate.ratio_least >= 1


@pytest.mark.parametrize("conductivity", [-0.1, 0.0, -5.0])
def test_there_is_no_bound_where_the_problem_is_not_coercive(conductivity: float) -> None:
    surrogate = nearly.fields.ReducedBasis(rank=4).fit(thermal_block((2, 1), cells=8))
    surrogate.outside = "warn"
    for inputs in ([conductivity, 1.0], [conductivity, conductivity]):
        with pytest.warns(UserWarning, match="outside"):
            assert surrogate.bound(torch.tensor([inputs], dtype=KIND)).isposinf().all()


# --- as modules


def smooth(x: Tensor) -> Tensor:
    return torch.stack([torch.sin(3 * x[:, 0]) + x[:, 1] ** 2, x.sum(dim=1)], dim=1)


@pytest.mark.parametrize("method", ["fields.KernelRegression", "functions.PolynomialLeastSquares"])
def test_many_rows_are_answered_part_by_part(method: str) -> None:
    """What is held at once are the distances of some rows to all that were fitted, not of all rows."""
    surrogate, rows = nearly.fit(nearly.Function(smooth, BOX), method=method), []
    x = BOX.sample(7000, 1)
    surrogate.model.register_forward_pre_hook(lambda model, args: rows.append(len(args[0])))
    answers = surrogate(x)
    assert max(rows) < 3000
    assert torch.allclose(answers, predict(surrogate, x), rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(surrogate(x.requires_grad_()).sum(), x)[0].isfinite().all()


def test_a_surrogate_in_training_answers_as_it_was_certified() -> None:
    """A pipeline's `train()` switches neither dropout on nor statistics of batches."""
    module = nn.Sequential(nn.Linear(6, 16), nn.Dropout(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    surrogate = nearly.fit(nearly.Network(module, draw(200, 6)), method="networks.TruncatedLayers")
    x = draw(50, 6, seed=1, dtype=torch.float32)
    surrogate.outside = "warn"
    expected = surrogate.model(x)
    pipeline = nn.Sequential(surrogate.model, nn.Linear(3, 1)).train()
    for _ in range(2):
        pipeline(x).sum().backward()
    assert pipeline[1].training
    assert torch.equal(surrogate.model(x), expected)


@pytest.mark.parametrize(
    "method",
    [
        "fields.Mean",
        "fields.KernelRegression",
        "fields.NearestNeighbor",
        nearly.fields.FourierNeuralOperator(samples=20, epochs=1, width=4),
    ],
    ids=str,
)
def test_models_export_for_batches_of_any_size(method: Any) -> None:
    x = draw(120, 8)
    model = nearly.fit(nearly.Field.from_data(x, x.cumsum(dim=1)), method=method).model
    shapes = ({0: torch.export.Dim("n", min=2, max=4096)},)
    exported = torch.export.export(model, (x[:7],), dynamic_shapes=shapes).module()
    assert torch.allclose(exported(x[:5]), model(x[:5]))


# --- targets and races


def test_data_that_have_certified_say_so() -> None:
    x = torch.rand(300, 2, dtype=KIND, generator=generator())
    target = nearly.Function.from_data(x, x.sum(dim=1))
    surrogate = nearly.fit(target, method="fields.Mean")
    uses: list[Callable[[], Any]] = [
        lambda: nearly.fit(target, method="fields.Mean"),
        lambda: nearly.compare(target),
        lambda: nearly.certify(surrogate, target),
    ]
    for use in uses:
        with pytest.raises(TooFewSamples, match="handed out once, so build a new target"):
            use()


def test_samples_most_of_which_are_equal_make_a_measure() -> None:
    samples = torch.cat([torch.zeros(800, 2, dtype=KIND), draw(200, 2)])
    assert 0.5 < nearly.Measure(samples).scale < 3
    assert nearly.Measure(1e200 * samples).scale == pytest.approx(1e200 * nearly.Measure(samples).scale)
    samples[:] = 0
    samples[1] = 1
    with pytest.raises(BadInput, match="scale must be given"):
        nearly.Measure(samples.repeat(2, 1)[:1500])


@pytest.mark.parametrize("metric", ["kl", "top1"])
@pytest.mark.parametrize("module", [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))])
def test_one_number_is_no_class(metric: Any, module: nn.Module) -> None:
    """Its softmax is 1 whatever it is: every surrogate would be certified without an error."""
    with pytest.raises(BadInput, match="metric"):
        nearly.Network(module, draw(200, 4), metric=metric)


def test_a_sparse_output_is_a_failure_with_its_reason() -> None:
    with pytest.raises(nearly.core.errors.SolverFailed, match="sparse"):
        nearly.fit(nearly.Function(lambda x: x.to_sparse(), BOX), method="fields.Mean")


def test_a_race_fits_no_polynomial_whose_points_take_minutes() -> None:
    target = nearly.Function(lambda x: (x[:, 0] - 0.3).abs(), BOX)
    assert WeightedLeastSquares().budgets(target, 10**9) == [2, 4, 8, 16, 32]


def test_an_interrupted_race_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the most accurate surrogate was thrown out, as its bound was none."""
    decaying = nearly.Matrix(torch.diag(0.5 ** torch.arange(12, dtype=KIND)))
    calls = []

    def violated(*args: Any) -> None:
        calls.append(args)
        raise CertificateViolated("no bound") if len(calls) == 1 else KeyboardInterrupt

    monkeypatch.setattr("nearly.core.search.state", violated)
    with pytest.raises(Interrupted) as told:
        race(decaying, 0.1)
    assert len(calls) == 2
    assert told.value.best is not None


# --- the command line


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((200, 2))
    lines = [f"{a:.6f},{b:.6f},{a + b:.6f}" for a, b in x]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    return path


def test_columns_are_told_by_their_names(table: Path) -> None:
    """Those of a file in another order, or with others beside them, are those that were fitted."""
    folder, x = table.parent, np.random.default_rng(1).random((200, 2))
    values = x[:, 0] + 10 * x[:, 1]
    fitted = [f"{a:.6f},{b:.6f},{y:.6f}" for (a, b), y in zip(x, values, strict=True)]
    (folder / "fit.csv").write_text("\n".join(["a,b,y", *fitted]))
    assert invoke("fit", "fit.csv", "--outputs", "y", "--method", "functions.PolynomialLeastSquares")[0] == 0
    asked, told = x[:5], []
    orders = {"a,b": [0, 1], "b,extra,a": [1, 0, 0], "first,second": [0, 1]}
    for head, places in orders.items():
        rows = [",".join(f"{one:.6f}" for one in row) for row in asked[:, places]]
        (folder / "ask.csv").write_text("\n".join([head, *rows]))
        code, text = invoke("predict", "fit.safetensors", "ask.csv", "--out", "found.npz")
        assert code == 0, text
        told.append("in their order" in text)
        assert np.allclose(np.load("found.npz")["outputs"].ravel(), values[:5], atol=1e-4)
    assert told == [False, False, True]
    (folder / "ask.csv").write_text("a,c\n0.5,0.5\n")
    code, text = invoke("predict", "fit.safetensors", "ask.csv", "--out", "found.npz")
    assert (code, "no b" in text, "--key" in text) == (2, True, True)
    turned = [f"{b:.6f},{a:.6f},{y:.6f}" for (a, b), y in zip(x, values, strict=True)]
    (folder / "turned.csv").write_text("\n".join(["b,a,y", *turned]))
    code, text = invoke("certify", "fit.safetensors", "turned.csv", "--outputs", "y")
    assert (code, "--inputs must be a,b" in text) == (2, True)


def test_a_comparison_is_not_lost_to_the_name_of_its_picture(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearly.core.compare.compare", lambda *_, **__: pytest.fail("compared before"))
    code, text = invoke("compare", "t.csv", "--outputs", "y", "--plot", "front.pdf")
    assert (code, "must be a .png or .svg file" in text) == (2, True)


def test_tables_that_cannot_be_read_say_where(table: Path) -> None:
    head, *rows = table.read_text().splitlines()
    (table.parent / "units.csv").write_text("\n".join([head, "m,s,m", *rows]))
    (table.parent / "comma.csv").write_text("\n".join([head, *rows]).replace(",", ";").replace(".", ","))
    (table.parent / "latin.csv").write_bytes("größe,b,y\n".encode("latin-1"))
    for name, message in (
        ("units", "column 'a' of units.csv must be of numbers; got 'm' in line 2"),
        ("comma", "column 'a' of comma.csv must be of numbers; got '0,"),
        ("latin", "latin.csv must be text in UTF-8"),
    ):
        code, text = invoke("fit", f"{name}.csv", "--outputs", "y", "--method", "fields.Mean")
        assert (code, message in text) == (2, True), text


def test_predict_names_its_own_options(table: Path) -> None:
    assert invoke("fit", "t.csv", "--outputs", "y", "--method", "fields.Mean", "-o", "m.nearly")[0] == 0
    np.savez("two.npz", first=np.ones((3, 2)), second=np.ones(3))
    code, text = invoke("predict", "m.nearly", "two.npz", "-o", "answers.npz")
    assert (code, "--key" in text) == (2, True)
    np.savez("missing.npz", x=np.full((3, 2), np.nan))
    code, text = invoke("predict", "m.nearly", "missing.npz", "-o", "answers.npz")
    assert (code, "--drop-missing" in text) == (2, False)


@pytest.mark.parametrize("command", ["fit", "report", "data"])
def test_a_name_that_is_too_long_is_refused(table: Path, command: str) -> None:
    long, plain = 300 * "x", ["fit", "t.csv", "--outputs", "y", "--method", "fields.Mean"]
    words = {
        "fit": [*plain, "-o", long],
        "report": [*plain, "--report", long],
        "data": ["compare", f"{long}.csv", "--outputs", "y"],
    }
    code, text = invoke(*words[command])
    assert (code, "an existing file" in text if command == "data" else "too long" in text) == (2, True)


def test_the_command_that_certifies_an_interrupted_fit_is_whole(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise Interrupted(nearly.fields.Mean().fit(nearly.Function(smooth, BOX)))

    monkeypatch.setattr("nearly.core.search.race", interrupted)
    code, text = invoke("fit", "t.csv", "--outputs", "y", "--drop-missing", "--tolerance", "0.1", "-o", "so far.nearly")
    found = re.search(r"nearly (certify .*)", text)
    assert code == 130
    assert found is not None
    assert shlex.split(found[1]) == ["certify", "so far.nearly", "t.csv", "--outputs", "y", "--drop-missing"]
    assert shlex.split(_as_typed("a b:n=(1, 2)", {"lower": "0,1", "noun": None})) == ["a b:n=(1, 2)", "--lower", "0,1"]


def test_strange_rows_are_refused_by_a_surrogate_of_discrete_data() -> None:
    x = categories(400, generator())
    surrogate = nearly.fit(nearly.Function.from_data(x, x @ torch.arange(20.0, dtype=KIND)), method="fields.Mean")
    assert surrogate(x[:1]).shape == surrogate(x[:1].float()).shape == (1, 1)
    with pytest.raises(OutOfDomain):
        surrogate(x[:1] + x[1:2])
