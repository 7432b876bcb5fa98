"""The command line on files of data: arrays, series, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command_line import json_of, names_in

import nearly


def _data(rows=260, seed=0):
    x = np.random.default_rng(seed).random((rows, 1))
    return x, np.cos(x * np.arange(1.0, 6.0))


def test_data_files_from_fit_to_certify_and_predict(run, tmp_path):
    x, y = _data()
    np.savez("d.npz", x=x, y=y)
    found = json_of(run("fit", "d.npz", "--tolerance", "0.1", "--json"))
    assert found["artifact"] == "d.safetensors"
    assert found["cost"]["target_seconds_alone"] is None
    certified = json_of(run("certify", "d.safetensors", "d.npz", "--json"))
    # Rows that fitted or chose never certify again: the file's other rows are those that certified.
    assert certified["fresh"]["samples"] == found["certificate"]["samples"]
    assert certified["fresh"]["error"] == pytest.approx(found["certificate"]["error"], rel=1e-12)
    # Of a file that no fit has seen, all rows certify.
    fresh_x, fresh_y = _data(150, seed=1)
    np.savez("fresh.npz", x=fresh_x, y=fresh_y)
    assert json_of(run("certify", "d.safetensors", "fresh.npz", "--json"))["fresh"]["samples"] == 150
    np.savez("ask.npz", inputs=x[:7])
    run("predict", "d.safetensors", "ask.npz", "-o", "out.npz")
    with np.load("out.npz") as out:
        np.testing.assert_allclose(out["outputs"], y[:7], atol=0.02)
        assert out.files == ["outputs"]


def test_few_test_rows_certify_at_the_level_they_carry(run):
    x, y = _data(300)
    np.savez("d.npz", train_x=x[:260], train_y=y[:260], test_x=x[260:], test_y=y[260:])
    result = run("fit", "d.npz", "--tolerance", "0.1", "--json")
    assert "40 rows of test_x certify; with confidence 0.99 they carry the 0.89 quantile, not 0.95" in result.stderr
    certificate = json_of(result)["certificate"]
    assert (certificate["samples"], certificate["quantile"]) == (40, 0.89)  # 0.89^40 = 0.0095
    assert len(nearly.load("d.safetensors").seen) == 260
    again = json_of(run("certify", "d.safetensors", "d.npz", "--json"))["fresh"]
    assert (again["samples"], again["quantile"]) == (40, 0.89)
    assert again["error"] == pytest.approx(certificate["error"], rel=1e-12)
    compared = run("compare", "d.npz", "--method", "fields.Mean", "--method", "fields.KernelRegression:samples=50")
    assert "the 0.87 quantile" in compared.stderr  # two statements at once: 0.87^40 = 0.0038
    bad = run("fit", "d.npz", "--tolerance", "0.1", "--quantile", "0.95", code=2)
    assert "certifying must be at least 90" in bad.stderr
    assert (
        "named both or neither" in run("fit", "d.npz", "--tolerance", "0.1", "--test-inputs", "test_x", code=2).stderr
    )
    kept = json_of(run("fit", "d.npz", "--tolerance", "0.1", "--certify", "100", "--json"))["certificate"]
    assert (kept["samples"], kept["quantile"]) == (100, 0.95)
    np.savez("d.npz", train_x=x[:200], train_y=y[:200], test_x=x[200:], test_y=y[200:])
    result = run("fit", "d.npz", "--tolerance", "0.1", "--json")
    assert not result.stderr
    assert json_of(result)["certificate"]["samples"] == 100
    np.savez("d.npz", train_x=x[:200], train_y=y[:200], test_x=x[200:205], test_y=y[200:205])
    assert "rows of test_x must be at least 7" in run("fit", "d.npz", "--tolerance", "0.1", code=2).stderr


def _wave(rows=2000):
    time = np.arange(rows)
    noise = np.random.default_rng(0).normal(size=(2, rows)) / 50
    return np.sin(2 * np.pi * time / 24) + noise[0], np.cos(2 * np.pi * time / 24) + 2 + noise[1]


def test_a_series_from_fit_to_forecast(run):
    a, b = _wave()
    lines = [
        f"day {place},{one!r},{other!r}" for place, (one, other) in enumerate(zip(a.tolist(), b.tolist(), strict=True))
    ]
    Path("s.csv").write_text("\n".join(["date,a,b", *lines]))
    told = ("--window", "12", "--horizon", "6")
    chosen = ("--method", "fields.PODRegression", "--tolerance", "0.2")
    result = run("fit", "s.csv", *told, *chosen, "--json")
    certificate = json_of(result)["certificate"]
    assert certificate["samples"] == 2000 // 3 // 18
    assert certificate["quantile"] == 0.88  # 0.88^37 = 0.0088
    assert "certified on 37 later windows that share no row" in certificate["source"]
    assert "date of s.csv holds text and is left out" in result.stderr
    again = json_of(run("certify", "s.safetensors", "s.csv", *told, "--json"))["fresh"]
    assert again["error"] == pytest.approx(certificate["error"], rel=1e-12)
    overlapping = run("certify", "s.safetensors", "s.csv", *told, "--certify", "60", code=2)
    assert "must be those of the fit" in overlapping.stderr
    assert "what follows its last 12 is foretold" in run("predict", "s.safetensors", "s.csv", "-o", "f.npz").stderr
    with np.load("f.npz") as found:
        later = np.stack(_wave(2006), axis=1)[2000:]
        assert found["outputs"].shape == (1, 6, 2)
        assert np.abs(found["outputs"][0] - later).max() < 0.3
        foretold = found["outputs"]
    Path("turned.csv").write_text(
        "\n".join(["b,a", *(f"{y!r},{x!r}" for x, y in zip(a.tolist(), b.tolist(), strict=True))])
    )
    run("predict", "s.safetensors", "turned.csv", "-o", "f.npz")
    with np.load("f.npz") as found:
        assert np.array_equal(found["outputs"], foretold)
    Path("short.csv").write_text("a,b\n1,2\n")
    assert (
        "rows of the series must be at least 12"
        in run("predict", "s.safetensors", "short.csv", "-o", "f.npz", code=2).stderr
    )
    Path("p.toml").write_text('data = "s.csv"\nwindow = 12\nhorizon = 6\noutputs = "a"\ninputs = "a, b"\n')
    assert json_of(run("fit", "p.toml", *chosen, "-o", "p.safetensors", "--json"))["ok"]
    with torch.no_grad():
        model = nearly.load("p.safetensors").model
        assert model(torch.zeros(1, 12, 2, dtype=torch.float64)).shape == (1, 6, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "12"], "window and horizon must be given both or neither"),
        (["--window", "12", "--horizon", "0"], "horizon must be an integer >= 1; got 0"),
        (["--window", "12", "--horizon", "6", "--noun", "function"], "noun must be field with window and horizon"),
        (
            ["--window", "12", "--horizon", "6", "--test-inputs", "a", "--test-outputs", "b"],
            "test_inputs must be left out",
        ),
        (["--window", "12", "--horizon", "6", "--inputs", "date"], "column 'date' of s.csv must be of numbers"),
        (["--window", "12", "--horizon", "6", "--outputs", "bb"], "got 'bb'. Near: b."),
        (
            ["--window", "12", "--horizon", "6"],
            "column 'b' of s.csv must be of numbers; got a missing value in line 100",
        ),
        (["--window", "200", "--horizon", "100", "--drop-missing"], "windows side by side must be at least 7"),
    ],
)
def test_what_a_series_cannot_be(run, options, message):
    a, b = _wave()
    lines = [f"day {k},{a[k]},{'' if k in (98, 105) else b[k]}" for k in range(len(a))]
    Path("s.csv").write_text("\n".join(["date,a,b", *lines]))
    assert message in run("fit", "s.csv", *options, "--tolerance", "0.2", code=2).stderr


def test_windows_that_touch_missing_values_are_counted(run):
    a, _ = _wave()
    Path("s.csv").write_text("\n".join(["a", *("" if k == 98 else repr(float(a[k])) for k in range(len(a)))]))
    arguments = ("--window", "12", "--horizon", "6", "--drop-missing", "--method", "fields.Mean", "--tolerance", "2")
    assert "18 more windows to fit touch missing values" in run("fit", "s.csv", *arguments).stderr


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda x, y: np.savez("d.npz", x=x, y=np.where(y > 0.9999, np.nan, y)), "y of d.npz must be finite"),
        (lambda x, y: np.savez("d.npz", x=x, y=np.array([{}] * len(x), dtype=object)), "pickled objects"),
        (lambda x, y: Path("d.npz").write_bytes(b"PK\x03\x04 but no more"), "a .npz file, whole"),
        (lambda x, y: np.savez("d.npz", x=x, y=np.ones((len(x), len(x)))), "told by --inputs-axis and --outputs-axis"),
        (lambda x, y: np.savez("d.npz", x=x, y=np.ones_like(y)), "of positive variance"),
        (lambda x, y: np.savez("d.npz", x=x[:50], y=y[:50]), "at least 98"),
    ],
)
def test_bad_data_exit_2(run, write, message):
    write(*_data())
    assert message in run("fit", "d.npz", "--tolerance", "0.1", code=2).stderr
    assert names_in(".") == ["d.npz"]


def test_turned_outputs_are_used_and_said_to_be(run):
    x, y = _data()
    np.savez("d.npz", x=x, y=y.T)
    result = run("fit", "d.npz", "--method", "fields.KernelRegression:samples=50", "--json")
    assert "counted by the last axis of y" in result.stderr
    np.savez("d.npz", x=x, y=y)
    told = run("certify", "d.safetensors", "d.npz", "--json")
    assert json_of(told)["fresh"]["error"] == pytest.approx(json_of(result)["certificate"]["error"], rel=1e-12)


def test_predict_leaves_whole_numbers_to_networks_that_take_them(run, monkeypatch):
    from nearly.core import surrogate as module

    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 8)
    network = torch.nn.Sequential(table, torch.nn.Flatten(), torch.nn.Linear(24, 5))
    tokens = torch.randint(0, 50, (400, 3), generator=torch.Generator().manual_seed(0))
    target = nearly.Network(network, tokens)
    nearly.fit(target, method="networks.TruncatedLayers").save("n.safetensors")
    surrogate, load = nearly.load("n.safetensors", target=target), module.load
    monkeypatch.setattr(module, "load", lambda path, *, target=None: load(path, target=nearly.Network(network, tokens)))
    asked = tokens[surrogate.contains(tokens)][:9]
    np.savez("x.npz", x=asked.numpy())
    run("predict", "n.safetensors", "x.npz", "-o", "y.npz")
    with np.load("y.npz") as found, torch.no_grad():
        np.testing.assert_array_equal(found["outputs"], surrogate(asked).numpy())
