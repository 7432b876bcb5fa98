"""Data that others made and published, where the folder `shared/data` lies beside the repository; skipped where it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import nearly
from nearly.cli import main
from nearly.core.datafile import read_data, read_series
from nearly.core.windows import cut_windows
from nearly.fields import KernelRegression
from nearly.problems import allen_cahn, burgers

FOLDER = Path(__file__).parents[1] / ".." / "shared" / "data"


def _file(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {FOLDER}")
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return call


def test_burgers_with_a_shock():
    with np.load(_file("burgers_shock.npz")) as file:  # on [-1, 1] with both ends, viscosity 0.01 / pi, from -sin(pi x)
        x, t, published = (torch.from_numpy(file[name]).squeeze() for name in ("x", "t", "u"))
    # On the unit interval y = (x + 1) / 2, u / 2 is the solution of viscosity / 4; being odd, it vanishes at the ends.
    points = 1024
    y = torch.arange(points, dtype=torch.float64) / points
    target = burgers(points, 0.01 / math.pi / 4, time=float(t[-1]), times=len(t) - 1, steps=20 * (len(t) - 1))
    modes = 2 * torch.fft.rfft(target.solver(torch.sin(2 * math.pi * y) / 2), norm="forward")[:, : points // 2]
    waves = torch.exp(1j * math.pi * torch.arange(points // 2)[:, None] * (x + 1))
    found = 2 * (modes @ waves).real - modes[:, :1].real
    assert (found.T - published[:, 1:]).abs().max() < 1e-5


def test_allen_cahn():
    with np.load(_file("allen_cahn.npz")) as file:  # one period of [-1, 1] on 512 points, from x^2 cos(pi x)
        published = torch.from_numpy(file["u"]).T
    target = allen_cahn(512, times=200)
    found = target.solver(published[0])
    assert target.error(published[None, 1:], found[None]) < 1e-6
    # The initial condition has a kink where the period closes, which is smoothed within the first steps.
    assert (found - published[1:]).abs().max() < 1e-5


def test_kernel_regression_on_burgers():
    data = read_data(_file("burgers16.npz"))
    assert data.names == ("x", "y")
    assert data.inputs.dtype == data.outputs.dtype == np.float32
    x, y = torch.from_numpy(data.inputs), torch.from_numpy(data.outputs)
    target = nearly.Field.from_data(x[:700], y[:700], certifying=(x[-100:], y[-100:]))
    surrogate = KernelRegression(samples=700).fit(target)
    assert float(target.error(y[-100:], surrogate.model(x[-100:].double()).to(y)).mean()) <= 0.0025


def test_darcy_certifies_on_its_own_fifty_rows(run):
    path, said = _file("darcy16.npz"), []
    data = read_data(path, notes=said.append)
    assert data.names == ("train_x", "train_y", "test_x", "test_y")
    assert "train_x bool, train_y float32" in said[0]
    assert data.inputs.dtype == np.float64
    assert len(data.inputs) == 1000
    method = ("--method", "fields.KernelRegression:samples=1000")
    result = run("fit", path, *method, "--json")
    assert "50 rows of test_x certify; with confidence 0.99 they carry the 0.91 quantile, not 0.95" in result.stderr
    certificate = json.loads(result.stdout)["certificate"]
    assert (certificate["samples"], certificate["quantile"]) == (50, 0.91)
    assert certificate["error"] < 0.35
    assert "at least 90" in run("fit", path, *method, "--quantile", "0.95", code=2).stderr
    assert len(json.loads(run("compare", path, *method, "--method", "fields.Mean", "--json").stdout)["rows"]) == 2


def test_a_series_of_17_420_hours(run):
    path, said = _file("ETTh1.csv"), []
    data = read_series(path, notes=said.append)
    x, y = data.inputs, data.outputs
    assert said == [f"note: date of {path} holds text and is left out"]
    assert x.shape == y.shape == (17_420, 7)
    made = cut_windows(x, y, window=96, horizon=96)
    assert (len(made.fitting[0]), len(made.certifying[0])) == (4096, 17_420 // 3 // 192)
    np.testing.assert_array_equal(made.certifying[1][-1], x[-96:])
    told = ("--window", "96", "--horizon", "96")
    fitted = run("fit", path, *told, "--method", "fields.PODRegression:samples=1024", "--json")
    certificate = json.loads(fitted.stdout)["certificate"]
    assert (certificate["samples"], certificate["quantile"]) == (30, 0.85)
    assert certificate["error"] < 0.95  # of the mean: 1.08
    run("predict", "ETTh1.safetensors", path, "-o", "next.npz")
    with np.load("next.npz") as found:
        assert found["outputs"].shape == (1, 96, 7)
