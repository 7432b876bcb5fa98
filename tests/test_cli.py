"""The command line: what it prints, what it saves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import nearly
from nearly.cli import main
from nearly.cli.problem import open_problem, parse_arguments
from nearly.cli.stored import Statement
from nearly.core.errors import BadInput
from nearly.problems import available, build

BLOCK = "thermal_block:blocks=(2,2),cells=8"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


def _json(result):
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def _names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# Help and methods: no torch.


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["methods"], ["methods", "--noun", "field", "--json"]]
)
def test_help_and_methods_import_no_torch(arguments):
    code = (
        "import sys\nfrom nearly.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_methods_lists_the_cards(run):
    from nearly.core.registry import cards

    listed = _json(run("methods", "--json"))["methods"]
    assert [card["id"] for card in listed] == list(cards())
    fields = {card["id"] for card in _json(run("methods", "--noun", "field", "--json"))["methods"]}
    assert fields == {name for name, card in cards().items() if "field" in card["nouns"]}
    assert "fields.ReducedBasis" in run("methods").stdout
    run("methods", "--noun", "fild", code=2)


# fit


def test_fit_saves_a_certified_surrogate_and_says_so(run, tmp_path):
    result = run("fit", BLOCK, "--tolerance", "0.05", "--samples", "110", "--report", "rep")
    surrogate = nearly.load("thermal_block.safetensors")
    assert surrogate.certificate.error <= 0.05
    assert surrogate.certificate.samples == 110
    assert f"at most {surrogate.certificate.error:.3g} with" in " ".join(result.stdout.split())
    assert surrogate.method in result.stdout
    assert not result.stderr
    assert _names(tmp_path) == ["rep", "thermal_block.safetensors"]
    assert {"report.html", "errors.png"} <= set(_names("rep"))


def test_fit_prints_one_json_document(run):
    found = _json(
        run("fit", BLOCK, "--tolerance", "0.05", "--samples", "110", "--seed", "4", "-o", "a.safetensors", "--json")
    )
    surrogate = nearly.load("a.safetensors")
    assert found["ok"] is found["reached"] is True
    assert found["certificate"]["error"] == surrogate.certificate.error
    assert found["method"] == surrogate.method
    assert found["artifact"] == "a.safetensors"
    assert found["cost"]["evaluations"] == surrogate.cost.evaluations
    assert found["race"][0]["method"] == surrogate.method
    assert len(found["race"]) > 1
    again = _json(
        run("fit", BLOCK, "--tolerance", "0.05", "--samples", "110", "--seed", "4", "-o", "b.safetensors", "--json")
    )
    assert again["certificate"] == found["certificate"]


def test_fit_with_a_method_and_parameters(run):
    found = _json(run("fit", BLOCK, "--method", "fields.ReducedBasis:rank=3", "--json"))
    assert found["hyperparameters"]["rank"] == 3
    assert len(found["race"]) == 1
    grown = _json(run("fit", BLOCK, "--method", "fields.ReducedBasis", "--tolerance", "1e-3", "--json"))
    assert grown["reached"]
    assert [row["method"] for row in grown["race"]] == ["fields.ReducedBasis"]
    assert grown["race"][0]["rungs"] > 1


def test_a_missed_tolerance_exits_1_saves_the_best_and_says_what_would_help(run):
    arguments = ("fit", BLOCK, "--method", "fields.Mean", "--tolerance", "1e-6", "--samples", "110")
    result = run(*arguments, code=1)
    assert "not reached" in result.stderr
    assert "What would help" in result.stderr
    assert "saved in thermal_block.safetensors" in result.stderr
    assert nearly.load("thermal_block.safetensors").method == "fields.Mean"
    found = _json(run(*arguments, "--json", code=1))
    assert found["ok"] is found["reached"] is False
    assert found["error"] == "ToleranceNotReached"
    assert found["advice"]
    assert found["certificate"]["error"] > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "thermal_blok", "--tolerance", "0.1"], "Near: thermal_block."),
        (["fit", "nothing/here", "--tolerance", "0.1"], "PROBLEM must be a built-in problem"),
        (["fit", "none.npz", "--tolerance", "0.1"], "an existing file; got none.npz"),
        (["fit", "none.toml", "--tolerance", "0.1"], "No such file"),
        (["fit", "no_such_module:f", "--tolerance", "0.1"], "no_such_module (ModuleNotFoundError"),
        (["fit", "math:sinus", "--tolerance", "0.1"], "one of math; got 'sinus'"),
        (["fit", "math:sin", "--tolerance", "0.1"], "With lower and upper"),
        (["fit", "math:pi", "--tolerance", "0.1"], "a target or a function that returns one; got float"),
        (["fit", "thermal_block:cell=8", "--tolerance", "0.1"], "got 'cell'. Near: cells."),
        (["fit", "thermal_block:cells=1", "--tolerance", "0.1"], "cells must be an integer >= 2; got 1"),
        (["fit", "thermal_block:cells=__import__('os')", "--tolerance", "0.1"], "of the form name=value"),
        (["fit", BLOCK], "tolerance must be given when no method is"),
        (["fit", BLOCK, "--tolerance", "0"], "tolerance must be finite and > 0.0; got 0.0"),
        (["fit", BLOCK, "--tolerance", "-1"], "tolerance must be finite and > 0.0; got -1.0"),
        (["fit", BLOCK, "--tolerance", "nan"], "tolerance must be finite and > 0.0; got nan"),
        (["fit", BLOCK, "--tolerance", "inf"], "tolerance must be finite and > 0.0; got inf"),
        (["fit", BLOCK, "--tolerance", "abc"], "'abc' is not a valid float"),
        (["fit", BLOCK, "--tolerance", "0.1", "--quantile", "1.5"], "quantile must be"),
        (["fit", BLOCK, "--tolerance", "0.1", "--confidence", "nan"], "confidence must be"),
        (["fit", BLOCK, "--tolerance", "0.1", "--samples", "20"], "samples must be at least 104"),
        (["fit", BLOCK, "--tolerance", "0.1", "--seed", "-1"], "seed must be"),
        (["fit", BLOCK, "--tolerance", "0.1", "--lower", "0"], "options must be left out with a built-in problem"),
        (["fit", BLOCK, "--method", "fields.ReducedBass"], "Near: fields.ReducedBasis"),
        (
            ["fit", BLOCK, "--method", "fields.ReducedBasis:rang=3"],
            "parameters of fields.ReducedBasis must be among rank",
        ),
        (["fit", BLOCK, "--method", "fields.ReducedBasis:rank=0"], "rank must be an integer >= 1; got 0"),
        (["fit", BLOCK, "--method", "networks.TruncatedLayers"], "able to fit"),
        (["fit", BLOCK, "--tolerance", "0.1", "-o", "none/a.safetensors"], "there is no folder none"),
        (["fit", BLOCK, "--tolerance", "0.1", "-o", "."], "it is a folder"),
        (["fit", BLOCK, "--tolerance", "0.1", "--report", "file/rep"], "file is no folder"),
        (["demo", "--tolerance", "nan"], "tolerance must be finite"),
        (["demo", "--out", "file"], "file is no folder"),
        (["compare", BLOCK, "--method", "fields.Meen"], "Near: fields.Mean"),
        (["compare", BLOCK, "--plot", "none/a.png"], "there is no folder none"),
        (["certify", "file", BLOCK], "file is no artifact that can be read"),
        (["certify", "none.safetensors", BLOCK], "cannot read none.safetensors"),
        (["predict", "file", "x.npz", "-o", "y.npz"], "file is no artifact"),
        (["predict", "file", "x.npz"], "Missing option '--out'"),
        (["predict", "file", "x.npz", "-o", "y.txt"], "--out must be a .npz file"),
        (["fits", BLOCK], "No such command"),
    ],
)
def test_bad_input_exits_2_with_one_message_and_leaves_nothing(run, tmp_path, arguments, message):
    (tmp_path / "file").write_text("text")
    result = run(*arguments, code=2)
    assert message in " ".join(result.stderr.split())
    assert not result.stdout
    assert _names(tmp_path) == ["file"]
    if arguments[0] != "fits":
        found = _json(run(*arguments, "--json", code=2))
        assert found["ok"] is False
        assert message in " ".join(found["message"].split())


def test_outputs_are_checked_before_the_work_starts(run, tmp_path):
    (tmp_path / "slow.py").write_text("raise AssertionError('the work started')\n")
    assert "no folder" in run("fit", "slow:f", "--tolerance", "0.1", "-o", "none/a.safetensors", code=2).stderr
    assert "no folder" in run("fit", "slow:f", "--tolerance", "0.1", "--report", "slow.py", code=2).stderr
    assert "the work started" in run("fit", "slow:f", "--tolerance", "0.1", code=2).stderr


# Problems


def test_every_built_in_problem_is_found_without_importing_it():
    code = (
        "import sys\nfrom nearly.problems import available\nnames = available()\n"
        "assert names and 'torch' not in sys.modules and not any(f'nearly.problems.{n}' in sys.modules for n in names)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_problems_are_functions_however_they_were_imported():
    import nearly.problems

    __import__("nearly.problems.thermal_block")
    source = Path(nearly.problems.__file__).read_text()
    for name in available():
        assert callable(getattr(nearly.problems, name))
        assert f"import {name} as {name}" in source  # for type checkers
    with pytest.raises(AttributeError):
        _ = nearly.problems.nothing
    with pytest.raises(BadInput, match=r"Near: dimension\."):
        build("smooth_function", dimensions=2)


def test_arguments_are_parsed_and_never_executed():
    assert parse_arguments("a=1,b=(2,3),c=word,d=-1.5,e='x,y'") == {
        "a": 1,
        "b": (2, 3),
        "c": "word",
        "d": -1.5,
        "e": "x,y",
    }
    for bad in ("1", "a", "a=", "a=f()", "**{}", "a=1)+f(b=2", "a=1;b=2"):
        with pytest.raises(BadInput, match="name=value"):
            parse_arguments(bad)


def _open(text, **options):
    return open_problem(str(text), options, Statement())[0]


def test_toml_problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    toml = tmp_path / "p.toml"
    toml.write_text('problem = "smooth_function"\n[arguments]\nkind = "kink"\ndimension = 3\n')
    assert _open(toml).name == "kink function"
    (tmp_path / "toml_problem_module.py").write_text("import torch\ndef f(x):\n    return x.sum(dim=1).exp()\n")
    toml.write_text(
        'function = "toml_problem_module:f"\nlower = [1, 1.0]\nupper = [2, 3]\nlog = [true, false]\nmetric = "relative"\n'
    )
    target = _open(toml)
    assert target.domain.log.tolist() == [True, False]
    assert target.metric == "relative"
    x = torch.rand(200, 1, dtype=torch.float64).numpy()
    (tmp_path / "sub").mkdir()
    np.savez(tmp_path / "sub" / "d.npz", a=x, b=np.concatenate([x, x**2], axis=1))
    toml = tmp_path / "sub" / "p.toml"  # the data lie beside it
    toml.write_text('data = "d.npz"\ninputs = "a"\noutputs = "b"\ncertify = 100\nnoun = "field"\n')
    target = _open(toml)
    assert (target.noun, len(target.rows.certifying)) == ("field", 100)
    toml.write_text('data = "d.npz"\ninputs = "b"\nnoun = "measure"\n')
    assert _open(toml).noun == "measure"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('problm = "thermal_block"\n', "one of the keys problem, function, data; got problm"),
        ('problem = "thermal_block"\nargumens = 1\n', "got 'argumens'. Near: arguments."),
        ('problem = "thermal_block"\narguments = 3\n', r"Expected `object`, got `int` - at `$.arguments`"),
        ('function = "m:f"\nlower = [1, "a"]\n', r"Expected `float`, got `str` - at `$.lower[1]`"),
        ('function = "m:f"\nnoun = "matrix"\n', "at `$.noun`"),
        ('problem = "thermal_block"\ndata = "d.npz"\n', "one of the keys"),
        ("problem = \n", "valid TOML"),
        ('problem = "thermal_blok"\n', "Near: thermal_block."),
        ('data = "none.npz"\n', "an existing file"),
    ],
)
def test_wrong_toml_is_refused_with_its_path(tmp_path, text, message):
    toml = tmp_path / "p.toml"
    toml.write_text(text)
    with pytest.raises(BadInput) as caught:
        _open(toml)
    assert message in str(caught.value)


def _data(rows=260, seed=0):
    x = np.random.default_rng(seed).random((rows, 1))
    return x, np.cos(x * np.arange(1.0, 6.0))


def test_data_files_from_fit_to_certify_and_predict(run, tmp_path):
    x, y = _data()
    np.savez("d.npz", x=x, y=y)
    found = _json(run("fit", "d.npz", "--tolerance", "0.1", "--json"))
    assert found["artifact"] == "d.safetensors"
    assert found["cost"]["target_seconds_alone"] is None
    certified = _json(run("certify", "d.safetensors", "d.npz", "--json"))
    # Rows that fitted or chose never certify again: the file's other rows are those that certified.
    assert certified["fresh"]["samples"] == found["certificate"]["samples"]
    assert certified["fresh"]["error"] == pytest.approx(found["certificate"]["error"], rel=1e-12)
    # Of a file that no fit has seen, all rows certify.
    fresh_x, fresh_y = _data(150, seed=1)
    np.savez("fresh.npz", x=fresh_x, y=fresh_y)
    assert _json(run("certify", "d.safetensors", "fresh.npz", "--json"))["fresh"]["samples"] == 150
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
    certificate = _json(result)["certificate"]
    assert (certificate["samples"], certificate["quantile"]) == (40, 0.89)  # 0.89^40 = 0.0095
    assert len(nearly.load("d.safetensors").seen) == 260
    again = _json(run("certify", "d.safetensors", "d.npz", "--json"))["fresh"]
    assert (again["samples"], again["quantile"]) == (40, 0.89)
    assert again["error"] == pytest.approx(certificate["error"], rel=1e-12)
    compared = run("compare", "d.npz", "--method", "fields.Mean", "--method", "fields.KernelRegression:samples=50")
    assert "the 0.87 quantile" in compared.stderr  # two statements at once: 0.87^40 = 0.0038
    bad = run("fit", "d.npz", "--tolerance", "0.1", "--quantile", "0.95", code=2)
    assert "certifying must be at least 90" in bad.stderr
    assert (
        "named both or neither" in run("fit", "d.npz", "--tolerance", "0.1", "--test-inputs", "test_x", code=2).stderr
    )
    kept = _json(run("fit", "d.npz", "--tolerance", "0.1", "--certify", "100", "--json"))["certificate"]
    assert (kept["samples"], kept["quantile"]) == (100, 0.95)
    np.savez("d.npz", train_x=x[:200], train_y=y[:200], test_x=x[200:], test_y=y[200:])
    result = run("fit", "d.npz", "--tolerance", "0.1", "--json")
    assert not result.stderr
    assert _json(result)["certificate"]["samples"] == 100
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
    certificate = _json(result)["certificate"]
    assert certificate["samples"] == 2000 // 3 // 18
    assert certificate["quantile"] == 0.88  # 0.88^37 = 0.0088
    assert "certified on 37 later windows that share no row" in certificate["source"]
    assert "date of s.csv holds text and is left out" in result.stderr
    again = _json(run("certify", "s.safetensors", "s.csv", *told, "--json"))["fresh"]
    assert again["error"] == pytest.approx(certificate["error"], rel=1e-12)
    overlapping = run("certify", "s.safetensors", "s.csv", *told, "--certify", "60", code=2)
    assert "must be those of the fit" in overlapping.stderr
    assert "what follows its last 12 is foretold" in run("predict", "s.safetensors", "s.csv", "-o", "f.npz").stderr
    with np.load("f.npz") as found:
        later = np.stack(_wave(2006), axis=1)[2000:]
        assert found["outputs"].shape == (1, 6, 2)
        assert np.abs(found["outputs"][0] - later).max() < 0.3
    Path("short.csv").write_text("a,b\n1,2\n")
    assert (
        "rows of the series must be at least 12"
        in run("predict", "s.safetensors", "short.csv", "-o", "f.npz", code=2).stderr
    )
    Path("p.toml").write_text('data = "s.csv"\nwindow = 12\nhorizon = 6\noutputs = "a"\ninputs = "a, b"\n')
    assert _json(run("fit", "p.toml", *chosen, "-o", "p.safetensors", "--json"))["ok"]
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
    assert _names(".") == ["d.npz"]


def test_turned_outputs_are_used_and_said_to_be(run):
    x, y = _data()
    np.savez("d.npz", x=x, y=y.T)
    result = run("fit", "d.npz", "--method", "fields.KernelRegression:samples=50", "--json")
    assert "counted by the last axis of y" in result.stderr
    np.savez("d.npz", x=x, y=y)
    told = run("certify", "d.safetensors", "d.npz", "--json")
    assert _json(told)["fresh"]["error"] == pytest.approx(_json(result)["certificate"]["error"], rel=1e-12)


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


def test_functions_of_modules(run, tmp_path):
    (tmp_path / "cli_test_functions.py").write_text(
        "import nearly, torch\n"
        "def wave(x):\n    return torch.sin(x).sum(dim=1)\n"
        "def target():\n    return nearly.Function(wave, nearly.Box([0.0], [1.0]), name='made')\n"
        "def broken():\n    raise KeyError('oops')\n"
    )
    try:
        found = _json(
            run("fit", "cli_test_functions:wave", "--lower", "0,0", "--upper", "1,2", "--tolerance", "0.05", "--json")
        )
        assert found["artifact"] == "wave.safetensors"
        assert "[0, 1] x [0, 2]" in found["certificate"]["source"]
        assert _json(run("fit", "cli_test_functions:target", "--tolerance", "0.05", "--json"))["ok"]
        assert "KeyError: 'oops'" in run("fit", "cli_test_functions:broken", "--tolerance", "0.05", code=2).stderr
        assert (
            "numbers with commas"
            in run("fit", "cli_test_functions:wave", "--lower", "a", "--tolerance", "1", code=2).stderr
        )
    finally:
        sys.modules.pop("cli_test_functions", None)
        sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


# certify, predict, compare, demo


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
    found = _json(run("certify", "liar.safetensors", BLOCK, "--json", code=1))
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
    found = _json(run("predict", artifact, "x.npz", "-o", "y.npz", "--json"))
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
    assert _names(".") == ["x.npz", "y.npz"]


def test_compare_lists_all_methods(run):
    arguments = (
        "compare",
        BLOCK,
        "--samples",
        "150",
        "--method",
        "fields.ReducedBasis:rank=5",
        "--method",
        "fields.Mean",
    )
    result = run(*arguments, "--plot", "front.png")
    assert "fields.ReducedBasis" in result.stdout
    assert "fields.Mean" in result.stdout
    assert Path("front.png").read_bytes().startswith(b"\x89PNG")
    rows = _json(run(*arguments, "--json"))["rows"]
    assert [row["method"] for row in rows] == ["fields.ReducedBasis", "fields.Mean"]
    assert rows[0]["hyperparameters"]["rank"] == 5
    assert rows[0]["certified_error"] < rows[1]["certified_error"]


def test_demo_writes_report_pictures_and_artifact(run):
    found = _json(run("demo", "--blocks", "2", "2", "--cells", "12", "--json"))
    assert found["ok"]
    assert {"report.html", "front.png", "errors.png", "answers.png", "thermal_block.safetensors"} <= set(_names("demo"))
    surrogate = nearly.load("demo/thermal_block.safetensors")
    assert surrogate.certificate.error == found["certificate"]["error"] <= 0.01
    assert len(found["race"]) > 2


# Ctrl-C

SLOW = """
import time
from pathlib import Path
from nearly.problems import thermal_block

def target():
    made = thermal_block((2, 2), cells=8)
    solve, calls = made.solver, []
    def slow(mu):
        calls.append(1)
        if len(calls) > LIMIT:  # a rung is done and measured; from here on it hangs
            Path("waiting").touch()
            time.sleep(60)
        return solve(mu)
    made.solver = slow
    return made
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize(("limit", "kept"), [(115, True), (2, False)])
def test_ctrl_c_saves_the_best_and_exits_130(tmp_path, limit, kept):
    (tmp_path / "slow_problem.py").write_text(SLOW.replace("LIMIT", str(limit)))
    command = [sys.executable, "-m", "nearly.cli", "fit", "slow_problem:target", "--tolerance", "1e-12", "--json"]
    command += ["--method", "fields.ReducedBasis"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # Shells start background jobs with the signal ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    found = json.loads(out)
    assert found["error"] == "Interrupted"
    saved = tmp_path / "target.safetensors"
    assert saved.exists() == kept
    if kept:
        assert found["artifact"] == "target.safetensors"
        assert "not certified" in err
        assert nearly.load(saved).certificate is None
    assert not list(tmp_path.glob("*.part"))


def test_every_command_offers_json():
    groups = [command for command in main.commands.values() if isinstance(command, click.Group)]
    commands = [pair for group in [main, *groups] for pair in group.commands.items() if pair[1] not in groups]
    for name, command in commands:
        assert any("--json" in option.opts for option in command.params), name
        assert isinstance(command, click.Command)
        assert command.help
