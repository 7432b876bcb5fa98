"""Surrogates as modules and as files: round trips, what a misdescribed file says, dtypes, gradients, compilation."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import nearly
from nearly.core.artifact import read_artifact, write_artifact
from nearly.core.cost import Cost
from nearly.core.errors import ArtifactError, BadInput
from nearly.core.surrogate import operations_of_maps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOX = nearly.Box([0.0, 0.0], [1.0, 1.0])
GRID = torch.linspace(0, 1, 24, dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def function(domain: Any = BOX) -> nearly.Function:
    return nearly.Function(lambda x: torch.stack([x.sum(dim=1).exp(), x[:, 0]], dim=1), domain)


def field() -> nearly.Field:
    return nearly.Field(lambda mu: torch.exp(mu[0] * GRID) + mu[1] * GRID, BOX)


def data() -> nearly.Function:
    x = torch.rand(300, 2, dtype=torch.float64, generator=generator())
    return nearly.Function.from_data(x, x.sum(dim=1).exp())


def block() -> nearly.Field:
    pytest.importorskip("skfem")
    return nearly.problems.thermal_block((2, 1), cells=6)


def normal_inputs(n: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=g)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "mean, box": (function, lambda: nearly.fields.Mean()),
    "neighbor, log box": (
        lambda: function(nearly.Box([0.1, 0.1], [1.0, 2.0], log=[True, False])),
        lambda: nearly.fields.NearestNeighbor(samples=50),
    ),
    "neighbor, sampler": (lambda: function(normal_inputs), lambda: nearly.fields.NearestNeighbor(samples=50)),
    "kernel, data": (data, lambda: nearly.fields.KernelRegression(samples=60)),
    "polynomials, box": (function, lambda: nearly.functions.PolynomialLeastSquares(samples=60)),
    "polynomials, data": (data, lambda: nearly.functions.PolynomialLeastSquares(samples=60)),
    "pod": (field, lambda: nearly.fields.PODRegression(samples=60, degree=4)),
    "reduced basis": (block, lambda: nearly.fields.ReducedBasis(rank=4)),
    "svd, anywhere": (
        lambda: nearly.Matrix(torch.randn(20, 15, dtype=torch.float64, generator=generator())),
        lambda: nearly.matrices.TruncatedSVD(rank=4),
    ),
    "subsample, anywhere": (
        lambda: nearly.Measure(torch.randn(400, 2, dtype=torch.float64, generator=generator())),
        lambda: nearly.measures.RandomSubsample(size=20),
    ),
}


@functools.cache
def fitted(case: str) -> nearly.Surrogate:
    build, method = CASES[case]
    return nearly.fit(build(), method=method())


def inputs_of(case: str, n: int = 12) -> torch.Tensor:
    target = CASES[case][0]()
    return target.sample(n, 5)


# --- files


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_is_what_was_saved(case: str, tmp_path: Path) -> None:
    surrogate, x = fitted(case), inputs_of(case)
    path = tmp_path / "surrogate.safetensors"
    before = {k: v.clone() for k, v in surrogate.state_dict().items()}
    surrogate.save(path)
    loaded = nearly.load(path)
    assert torch.equal(loaded(x), surrogate(x))
    if surrogate.model.theorem is not None:
        assert torch.equal(loaded.bound(x), surrogate.bound(x))
    assert loaded.domain.settings() == surrogate.domain.settings()
    for name in ("certificate", "cost", "method", "hyperparameters", "noun", "unit", "columns", "bytes"):
        assert getattr(loaded, name) == getattr(surrogate, name), name
    assert type(loaded.certificate) is type(surrogate.certificate)
    assert type(loaded.domain) is type(surrogate.domain)
    assert loaded.domain.describe() == surrogate.domain.describe()
    assert loaded.model.operations == surrogate.model.operations
    after = loaded.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) and after[k].dtype == before[k].dtype for k in before)
    # Saved again, it is the same file, byte for byte.
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_without_certificate_and_cost_it_comes_back_without(tmp_path: Path) -> None:
    surrogate = nearly.fields.Mean().fit(function())
    assert surrogate.certificate is None
    surrogate.save(tmp_path / "plain.safetensors")
    loaded = nearly.load(tmp_path / "plain.safetensors")
    assert loaded.certificate is None
    assert loaded.cost is None
    assert nearly.certify(loaded, function()) is loaded.certificate


def test_a_part_of_the_target_is_asked_for_by_name(tmp_path: Path) -> None:
    target = block()
    surrogate = nearly.fit(target, method="fields.CoarseSolve")
    surrogate.save(tmp_path / "coarse.safetensors")
    with pytest.raises(BadInput, match=r"target must be given to load a surrogate of fields.CoarseSolve"):
        nearly.load(tmp_path / "coarse.safetensors")
    loaded = nearly.load(tmp_path / "coarse.safetensors", target=target)
    x = target.sample(3, 1)
    assert torch.equal(loaded(x), surrogate(x))


def remove(*names: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in names:
            (tensors if name in tensors else manifest).pop(name)

    return change


def put(part: str, value: Any, *path: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        place = manifest
        for key in path:
            place = place[key]
        place[part] = value

    return change


def reshape(name: str, *shape: int) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = torch.zeros(*shape, dtype=torch.float64)

    return change


def rename(old: str, new: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[new] = tensors.pop(old)

    return change


MISDESCRIBED: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], None], str]] = {
    "unknown method": ("pod", put("method", "fields.PODRegresion"), "Near: fields.PODRegression"),
    "method of another room": ("pod", put("method", "matrices.TruncatedSVD"), "odd.safetensors"),
    "method of another kind": ("pod", put("method", 7), "odd.safetensors"),
    "no method": ("pod", remove("method"), "method"),
    "no domain": ("pod", remove("domain"), "domain"),
    "no settings": ("pod", remove("settings"), "settings"),
    "no certificate entry": ("pod", remove("certificate"), "certificate"),
    "no cost entry": ("pod", remove("cost"), "cost"),
    "no noun": ("pod", remove("noun"), "noun"),
    "no columns": ("pod", remove("columns"), "columns"),
    "columns that are text": ("pod", put("columns", "abc"), "columns"),
    "columns without names": ("pod", put("columns", [1, 2]), "columns"),
    "no fingerprints": ("pod", remove("seen"), "seen"),
    "no tensor": ("pod", remove("model.mean"), "mean"),
    "one tensor too many": ("svd, anywhere", lambda m, t: t.update({"model.extra": torch.zeros(2)}), "extra"),
    "renamed tensor": ("pod", rename("model.mean", "model.average"), "mean"),
    "unknown setting": ("svd, anywhere", put("extra", 1, "settings"), "extra"),
    "settings that are none": ("pod", put("settings", [1, 2]), "odd.safetensors"),
    "settings that are text": ("pod", put("settings", "shape"), "odd.safetensors"),
    "unknown domain": ("pod", put("kind", "ball", "domain"), "anywhere, box, cloud"),
    "domain that is none": ("pod", put("domain", None), "odd.safetensors"),
    "box settings": ("pod", put("settings", {"side": 2}, "domain"), "odd.safetensors"),
    "box without an end": ("pod", remove("domain.upper"), "upper"),
    "crossed box": ("pod", rename("domain.upper", "domain.lower"), "upper"),
    "box of another shape": ("pod", reshape("domain.lower", 3), "upper must be above lower"),
    "cloud without references": ("kernel, data", remove("domain.references"), "references"),
    "cloud without a rate": ("kernel, data", put("settings", {}, "domain"), "false_alarm"),
    "certificate of no kind": ("pod", put("kind", "Guarantee", "certificate"), "certificate.kind must be one of"),
    "certificate under a stronger name": ("pod", put("kind", "Bound", "certificate"), "theorem"),
    "certificate field of another type": ("pod", put("error", "tiny", "certificate"), "certificate"),
    "certificate with a field too many": ("pod", put("theorem", "mine", "certificate"), "theorem"),
    "certificate beyond a probability": ("pod", put("quantile", 2.0, "certificate"), "quantile"),
    "certificate that is a list": ("pod", put("certificate", [1]), "odd.safetensors"),
    "certificate of a kind that is a list": ("pod", put("kind", [], "certificate"), "odd.safetensors"),
    "cost of another type": ("pod", put("batch", "many", "cost"), "cost"),
    "cost that is text": ("pod", put("cost", "cheap"), "odd.safetensors"),
    "coefficients of another shape": ("pod", reshape("model.coefficients", 3, 2), "odd.safetensors"),
    "components of another shape": ("pod", reshape("model.components", 2, 7), "odd.safetensors"),
    "fields of another shape": ("pod", put("shape", [5, 5], "settings"), "odd.safetensors"),
    "shape that is text": ("pod", put("shape", ["a"], "settings"), "odd.safetensors"),
    "weights of another shape": ("kernel, data", reshape("model.weights", 2, 1), "odd.safetensors"),
    "reduced operators of another shape": ("reduced basis", reshape("model.operators", 2, 7, 7), "odd.safetensors"),
    "residual of another shape": ("reduced basis", reshape("model.residual_operators", 2, 4, 1), "odd.safetensors"),
    "theta of another shape": ("reduced basis", reshape("model.operator_exponents", 3, 3), "odd.safetensors"),
    "singular vectors of another shape": ("svd, anywhere", reshape("model.left", 20, 3), "odd.safetensors"),
    "singular vectors of another rank": ("svd, anywhere", reshape("model.right", 5, 15), "odd.safetensors"),
    "weights of points": ("subsample, anywhere", reshape("model.weights", 7), "odd.safetensors"),
}


@pytest.mark.parametrize("name", MISDESCRIBED)
def test_a_misdescribed_file_is_refused(name: str, tmp_path: Path) -> None:
    """Each file is whole and signed; what it says of itself is wrong. Loading or the first call says so, as an artifact error."""
    case, change, message = MISDESCRIBED[name]
    path = tmp_path / "odd.safetensors"
    fitted(case).save(path)
    manifest, tensors = read_artifact(path)
    change(manifest, tensors)
    write_artifact(path, manifest, tensors)
    with pytest.raises(ArtifactError, match=message) as caught:
        nearly.load(path)
    assert isinstance(caught.value, OSError)
    assert str(path) in str(caught.value)


# --- as a module


@pytest.mark.parametrize("case", CASES)
def test_answers_come_in_the_dtype_of_the_inputs(case: str) -> None:
    surrogate, x = copy.deepcopy(fitted(case)), inputs_of(case)
    wanted = surrogate(x)
    assert wanted.dtype == torch.float64
    single = surrogate(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    surrogate.to(torch.float32)
    # Kernel sums cancel too much for single precision: they stay as they were fitted.
    assert surrogate.model.dtype == (torch.float64 if case == "kernel, data" else torch.float32)
    moved = surrogate(x)
    assert moved.dtype == torch.float64
    assert torch.allclose(moved, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_a_certificate_that_stays_after_a_move_to_float32_is_true(case: str) -> None:
    """Rounding its tensors may cost a surrogate more than its certified error; then the certificate must not stay."""
    target, surrogate = CASES[case][0](), copy.deepcopy(fitted(case)).to(torch.float32)
    if surrogate.certificate is not None:
        nearly.certify(surrogate, target, seed=9, samples=None if target.rows is None else len(target.rows.certifying))


@pytest.mark.parametrize("wrap", [lambda one: one, torch.nn.Sequential], ids=["alone", "inside another module"])
def test_other_tensors_withdraw_the_certificate(wrap: Callable[[Any], Any]) -> None:
    surrogate = nearly.fit(function(), method="fields.NearestNeighbor", samples=120)
    certificate, outer = surrogate.certificate, wrap(surrogate)
    kept = {name: tensor.clone() for name, tensor in outer.state_dict().items()}
    outer.load_state_dict(kept)
    assert surrogate.certificate is certificate
    changed = next(name for name, tensor in kept.items() if name.endswith("outputs") and tensor.is_floating_point())
    outer.load_state_dict(kept | {changed: kept[changed] + 1e-9})
    assert surrogate.certificate is None
    surrogate.certificate = certificate
    outer.load_state_dict({name: tensor.float() if name == changed else tensor for name, tensor in kept.items()})
    assert surrogate.certificate is None


def test_whole_numbers_are_answered_in_the_dtype_of_the_model() -> None:
    surrogate = fitted("polynomials, box")
    corners = torch.tensor([[0, 1], [1, 1]])
    assert torch.equal(surrogate(corners), surrogate(corners.double()))
    assert surrogate(corners).dtype == torch.float64
    matrix = fitted("svd, anywhere")
    ones = torch.ones(2, 15, dtype=torch.int64)
    assert torch.equal(matrix(ones), matrix(ones.double()))
    assert torch.equal(matrix.bound(ones), matrix.bound(ones.double()))


@pytest.mark.parametrize("bad", [[[0.5, 0.5]], None, 3.0, torch.tensor(0.5), torch.zeros(1, 2, dtype=torch.complex64)])
def test_what_is_no_batch_of_inputs_is_refused(bad: Any) -> None:
    with pytest.raises(BadInput, match="inputs must be a real tensor with one row per input"):
        fitted("polynomials, box")(bad)


@pytest.mark.parametrize("case", CASES)
def test_inputs_of_another_width_are_refused(case: str) -> None:
    x = inputs_of(case)
    with pytest.raises(BadInput, match="inputs must be"):
        fitted(case)(torch.cat([x, x], dim=1))


@pytest.mark.parametrize("case", CASES)
def test_no_inputs_get_no_answers(case: str) -> None:
    x = inputs_of(case)
    assert fitted(case)(x[:0]).shape == (0, *fitted(case)(x).shape[1:])


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("mean", "neighbor"))])
def test_gradients_agree_with_differences(case: str) -> None:
    surrogate, x = fitted(case), inputs_of(case, 3)
    middle = x.mean(dim=0, keepdim=True).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: surrogate(v)[:, :4], (middle,), atol=1e-4, rtol=1e-3)
    (gradient,) = torch.autograd.grad(surrogate(middle).sum(), middle)
    assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize("case", CASES)
def test_the_model_compiles(case: str) -> None:
    surrogate, x = fitted(case), inputs_of(case)
    compiled = torch.compile(surrogate.model, backend="eager")
    assert torch.allclose(compiled(x), surrogate.model(x), rtol=1e-12, atol=1e-12)
    torch._dynamo.reset()


def test_it_lives_inside_other_modules() -> None:
    surrogate = copy.deepcopy(fitted("pod"))
    net = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.Sigmoid(), surrogate)
    out = net(torch.zeros(5, 2, dtype=torch.float64))
    assert out.shape == (5, 24)
    out.sum().backward()
    assert net[0].weight.grad is not None
    assert list(surrogate.parameters()) == []
    state = {k: v.clone() for k, v in net.state_dict().items()}
    net[2].model.mean += 1
    net.load_state_dict(state)
    assert torch.equal(net(torch.zeros(5, 2, dtype=torch.float64)), out)
    copied = copy.deepcopy(surrogate)
    assert copied.certificate == surrogate.certificate
    assert torch.equal(copied(inputs_of("pod")), surrogate(inputs_of("pod")))


def test_a_bound_is_given_only_where_there_is_a_theorem() -> None:
    x = inputs_of("pod")
    with pytest.raises(BadInput, match=r"of a method with a Bound certificate; got fields.PODRegression"):
        fitted("pod").bound(x)
    target = CASES["svd, anywhere"][0]()
    y = inputs_of("svd, anywhere")
    surrogate = fitted("svd, anywhere")
    assert bool((target.error(target(y), surrogate(y)) <= surrogate.bound(y)).all())
    assert surrogate.bound(y.float()).dtype == torch.float32
    with pytest.raises(BadInput):
        fitted("reduced basis").bound(torch.zeros(1, 3, dtype=torch.float64))


def test_cuda_where_there_is_one() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for case in CASES:
        surrogate, x = fitted(case), inputs_of(case)
        moved = copy.deepcopy(surrogate).to("cuda")
        assert torch.allclose(moved(x.to("cuda")).cpu(), surrogate(x), rtol=1e-9, atol=1e-9)


def test_operations_of_maps_by_hand() -> None:
    assert operations_of_maps((3, 4), (5, 3)) == 2 * (12 + 15)
    assert isinstance(fitted("pod").cost, Cost)
