"""False certificates are caught: changed files, other sources, targets that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import nearly
from nearly.core.artifact import read_artifact, write_artifact
from nearly.core.certificate import Bound, Probable
from nearly.core.certify import SAMPLES
from nearly.core.domain import Anywhere
from nearly.core.errors import BadInput, CertificateViolated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def decaying(seed: int = 0) -> nearly.Matrix:
    """Five large singular values, then equal ones: the bound of a rank-5 truncation is sharp."""
    left, right = (
        torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64, generator=g))[0]
        for g in (torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 100))
    )
    values = torch.full((40,), 0.05, dtype=torch.float64)
    values[:5] = 1.0
    return nearly.Matrix(left @ torch.diag(values) @ right)


def smooth(shift: float = 0.0) -> nearly.Function:
    return nearly.Function(lambda x: torch.exp(x.sum(dim=1) + shift * x[:, 0]), nearly.Box([0.0, 0.0], [1.0, 1.0]))


def tampered(
    surrogate: nearly.Surrogate, path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
) -> nearly.Surrogate:
    """Save, change manifest and tensors, sign anew, load."""
    surrogate.save(path)
    manifest, tensors = read_artifact(path)
    change(manifest, tensors)
    write_artifact(path, manifest, tensors)
    return nearly.load(path)


def nothing(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    pass


def test_an_honest_artifact_is_certified_again(tmp_path: Path) -> None:
    """No false alarm, and the fresh certificate replaces the recorded one."""
    for target, method in ((decaying(), "matrices.TruncatedSVD"), (smooth(), "fields.KernelRegression")):
        surrogate = nearly.fit(target, method=method)
        loaded = tampered(surrogate, tmp_path / "honest.safetensors", nothing)
        assert loaded.certificate == surrogate.certificate
        fresh = nearly.certify(loaded, target, seed=17)
        assert loaded.certificate is fresh
        assert fresh != surrogate.certificate
        assert fresh.samples == SAMPLES
        assert type(fresh) is type(surrogate.certificate)


def test_a_halved_bound_is_caught(tmp_path: Path) -> None:
    target = decaying()
    surrogate = nearly.fit(target, method=nearly.matrices.TruncatedSVD(rank=5))
    assert isinstance(surrogate.certificate, Bound)
    assert 1 <= surrogate.certificate.ratio_most < 1.01

    def halve(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.tail"] /= 2

    with pytest.raises(CertificateViolated, match="below the true error at 200 of 200"):
        nearly.certify(tampered(surrogate, tmp_path / "bound.safetensors", halve), target, seed=17)


def test_a_halved_bound_of_a_reduced_basis_is_caught(tmp_path: Path) -> None:
    pytest.importorskip("skfem")
    target = nearly.problems.thermal_block((2, 1), cells=8)
    surrogate = nearly.fit(target, method=nearly.fields.ReducedBasis(rank=2))
    assert isinstance(surrogate.certificate, Bound)
    assert 1 <= surrogate.certificate.ratio_least < 2

    def halve(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.residual_operators", "model.residual_loads"):
            tensors[name] /= 2

    with pytest.raises(CertificateViolated, match="below the true error"):
        nearly.certify(tampered(surrogate, tmp_path / "bound.safetensors", halve), target, seed=17)


def test_a_halved_level_is_caught(tmp_path: Path) -> None:
    target = smooth()
    surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64))

    def halve(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        manifest["certificate"]["error"] /= 2

    changed = tampered(surrogate, tmp_path / "level.safetensors", halve)
    with pytest.raises(CertificateViolated, match="recorded certificate is not true here") as caught:
        nearly.certify(changed, target, seed=17, samples=1000)
    # The error carries what the fresh inputs say; the false statement is not quietly replaced.
    assert isinstance(caught.value.fresh, Probable)
    assert isinstance(surrogate.certificate, Probable)
    assert caught.value.fresh.error == pytest.approx(surrogate.certificate.error, rel=0.5)
    assert isinstance(changed.certificate, Probable)
    assert changed.certificate.error == surrogate.certificate.error / 2


def test_swapped_weights_are_caught(tmp_path: Path) -> None:
    """The tensors of a surrogate of a slightly other target under the manifest of the right one."""
    target = smooth()
    method = nearly.fields.KernelRegression(samples=100)
    surrogate, other = nearly.fit(target, method=method), nearly.fit(smooth(0.5), method=method)
    other.save(tmp_path / "other.safetensors")
    _, swapped = read_artifact(tmp_path / "other.safetensors")
    assert swapped["model.weights"].shape == surrogate.model.weights.shape

    def swap(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors.update(swapped)

    with pytest.raises(CertificateViolated, match=r"\d{3} of 200 fresh errors exceed"):
        nearly.certify(tampered(surrogate, tmp_path / "swapped.safetensors", swap), target, seed=17)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
@pytest.mark.parametrize("end", ["lower", "upper", "log"])
def test_a_wrong_box_is_caught(tmp_path: Path, end: str, scale: float) -> None:
    target = nearly.Function(lambda x: x[:, 0] / scale, nearly.Box([scale], [2 * scale]))
    surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64))

    def stretch(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        domain = tensors[f"domain.{end}"]
        tensors[f"domain.{end}"] = ~domain if end == "log" else domain * (0.5 if end == "lower" else 2.0)

    with pytest.raises(CertificateViolated, match="the certificate speaks of inputs from the box"):
        nearly.certify(tampered(surrogate, tmp_path / "box.safetensors", stretch), target, seed=17)
    wider = nearly.Function(target.f, nearly.Box([scale], [2.1 * scale]))
    with pytest.raises(CertificateViolated, match="but the target draws from the box"):
        nearly.certify(surrogate, wider, seed=17)


def test_a_domain_of_everything_is_caught(tmp_path: Path) -> None:
    """A box or a cloud replaced by the domain that admits all inputs."""
    cloudy = nearly.Function(smooth().f, lambda n, generator: torch.randn(n, 2, generator=generator).double())
    for target in (smooth(), cloudy):
        surrogate = nearly.fit(target, method=nearly.fields.NearestNeighbor(samples=64))

        def open_up(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
            manifest["domain"] = {"kind": "anywhere", "settings": {}}
            for name in [name for name in tensors if name.startswith("domain.")]:
                del tensors[name]

        changed = tampered(surrogate, tmp_path / "anywhere.safetensors", open_up)
        assert isinstance(changed.domain, Anywhere)
        with pytest.raises(CertificateViolated, match="inputs of any size"):
            nearly.certify(changed, target, seed=17)


def test_inputs_of_another_source_are_caught() -> None:
    def source(shift: float) -> nearly.Function:
        def sampler(n: int, generator: torch.Generator) -> torch.Tensor:
            return shift + torch.randn(n, 3, dtype=torch.float64, generator=generator)

        return nearly.Function(lambda x: x.sum(dim=1), sampler, metric="absolute")

    surrogate = nearly.fit(source(0.0), method=nearly.fields.Mean())
    nearly.certify(surrogate, source(0.0), seed=17)
    with pytest.raises(CertificateViolated, match="come from another source"):
        nearly.certify(surrogate, source(3.0), seed=17)


def test_another_noun_or_no_target_is_refused() -> None:
    surrogate = nearly.fit(smooth(), method=nearly.fields.Mean())
    for wrong in (decaying(), torch.eye(3), None):
        with pytest.raises(BadInput, match="target must be a function"):
            nearly.certify(surrogate, wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"surrogate must be a nearly.Surrogate"):
        nearly.certify(surrogate.model, smooth())  # type: ignore[arg-type]
