"""The command line on artifacts: certify and predict."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command_line import BLOCK, json_of, names_in

import nearly
from nearly.problems import build


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.safetensors"
    target = build("thermal_block", blocks=(2, 2), cells=8)
    nearly.fit(target, method="fields.ReducedBasis", samples=90).save(path)
    return path


def test_certify_confirms(run, artifact):
    result = run("certify", artifact, BLOCK, "--samples", "100", "--seed", "7")
    assert "not contradicted" in result.stdout
    assert "the 100 inputs" in " ".join(result.stdout.split())


def test_certify_finds_a_false_certificate_and_exits_1(run, artifact, tmp_path):
    import dataclasses

    surrogate = nearly.load(artifact)
    surrogate.certificate = dataclasses.replace(surrogate.certificate, error=surrogate.certificate.error / 1e3)
    surrogate.save(tmp_path / "liar.safetensors")
    result = run("certify", "liar.safetensors", BLOCK, code=1)
    assert "the recorded certificate is not true here" in result.stderr
    found = json_of(run("certify", "liar.safetensors", BLOCK, "--json", code=1))
    assert found["error"] == "CertificateViolated"
    assert found["fresh"]["error"] > found["recorded"]["error"]
    # Another problem is another source of inputs.
    run("certify", artifact, "thermal_block:blocks=(4,1),cells=10", code=2)


def test_a_damaged_artifact_is_refused(run, artifact, tmp_path):
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(content)
    for arguments in (["certify", "bad.safetensors", BLOCK], ["predict", "bad.safetensors", "x.npz", "-o", "y.npz"]):
        assert "digest" in run(*arguments, code=2).stderr


def test_predict_gives_outputs_and_bounds(run, artifact):
    x = build("thermal_block", blocks=(2, 2), cells=8).sample(5, 1)
    np.savez("x.npz", x=x.numpy())
    found = json_of(run("predict", artifact, "x.npz", "-o", "y.npz", "--json"))
    surrogate = nearly.load(artifact)
    with np.load("y.npz") as out, torch.no_grad():
        np.testing.assert_allclose(out["outputs"], surrogate(x).numpy(), rtol=1e-12)
        np.testing.assert_allclose(out["bounds"], surrogate.bound(x).numpy(), rtol=1e-6)
        assert found["arrays"] == {name: list(out[name].shape) for name in out.files}
    Path("x.csv").write_text("a,b,c,d\n" + "\n".join(",".join(map(repr, row)) for row in x.tolist()))
    run("predict", artifact, "x.csv", "-o", "z.npz")
    with np.load("y.npz") as y, np.load("z.npz") as z:
        np.testing.assert_array_equal(y["outputs"], z["outputs"])


def test_predict_outside_the_domain(run, artifact):
    np.savez("x.npz", x=np.array([[0.5] * 4, [0.5, 0.5, 0.5, 2.0]]))
    message = run("predict", artifact, "x.npz", "-o", "y.npz", code=2).stderr
    assert "1 of 2 inputs lie outside" in message
    assert "first: input 1" in message
    assert not Path("y.npz").exists()
    result = run("predict", artifact, "x.npz", "-o", "y.npz", "--outside", "warn")
    assert "Nothing is certified there" in result.stderr
    with np.load("y.npz") as out:
        assert out.files == ["outputs"]
    np.savez("x.npz", x=np.ones((2, 3)))
    assert "of shape (n, 4)" in run("predict", artifact, "x.npz", "-o", "y.npz", code=2).stderr


def test_a_failing_write_keeps_the_old_predictions(run, artifact, monkeypatch):
    np.savez("x.npz", x=np.full((2, 4), 0.5))
    Path("y.npz").write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in run("predict", artifact, "x.npz", "-o", "y.npz", code=2).stderr
    assert "No space left" in run("fit", BLOCK, "--method", "fields.Mean", "-o", "y.npz", code=2).stderr
    assert Path("y.npz").read_text() == "old"
    assert names_in(".") == ["x.npz", "y.npz"]
