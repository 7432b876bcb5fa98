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
from tests.command_line import BLOCK, json_of, names_in

import nearly
from nearly.cli import main
from nearly.cli.problem import open_problem, parse_arguments
from nearly.cli.stored import Statement
from nearly.core.errors import BadInput
from nearly.problems import available, build

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

    listed = json_of(run("methods", "--json"))["methods"]
    assert [card["id"] for card in listed] == list(cards())
    fields = {card["id"] for card in json_of(run("methods", "--noun", "field", "--json"))["methods"]}
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
    assert names_in(tmp_path) == ["rep", "thermal_block.safetensors"]
    assert {"report.html", "errors.png"} <= set(names_in("rep"))


def test_fit_prints_one_json_document(run):
    found = json_of(
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
    again = json_of(
        run("fit", BLOCK, "--tolerance", "0.05", "--samples", "110", "--seed", "4", "-o", "b.safetensors", "--json")
    )
    assert again["certificate"] == found["certificate"]


def test_fit_with_a_method_and_parameters(run):
    found = json_of(run("fit", BLOCK, "--method", "fields.ReducedBasis:rank=3", "--json"))
    assert found["hyperparameters"]["rank"] == 3
    assert len(found["race"]) == 1
    grown = json_of(run("fit", BLOCK, "--method", "fields.ReducedBasis", "--tolerance", "1e-3", "--json"))
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
    found = json_of(run(*arguments, "--json", code=1))
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
    assert names_in(tmp_path) == ["file"]
    if arguments[0] != "fits":
        found = json_of(run(*arguments, "--json", code=2))
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


def test_functions_of_modules(run, tmp_path):
    (tmp_path / "cli_test_functions.py").write_text(
        "import nearly, torch\n"
        "def wave(x):\n    return torch.sin(x).sum(dim=1)\n"
        "def target():\n    return nearly.Function(wave, nearly.Box([0.0], [1.0]), name='made')\n"
        "def broken():\n    raise KeyError('oops')\n"
    )
    try:
        found = json_of(
            run("fit", "cli_test_functions:wave", "--lower", "0,0", "--upper", "1,2", "--tolerance", "0.05", "--json")
        )
        assert found["artifact"] == "wave.safetensors"
        assert "[0, 1] x [0, 2]" in found["certificate"]["source"]
        assert json_of(run("fit", "cli_test_functions:target", "--tolerance", "0.05", "--json"))["ok"]
        assert "KeyError: 'oops'" in run("fit", "cli_test_functions:broken", "--tolerance", "0.05", code=2).stderr
        assert (
            "numbers with commas"
            in run("fit", "cli_test_functions:wave", "--lower", "a", "--tolerance", "1", code=2).stderr
        )
    finally:
        sys.modules.pop("cli_test_functions", None)
        sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


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
    rows = json_of(run(*arguments, "--json"))["rows"]
    assert [row["method"] for row in rows] == ["fields.ReducedBasis", "fields.Mean"]
    assert rows[0]["hyperparameters"]["rank"] == 5
    assert rows[0]["certified_error"] < rows[1]["certified_error"]


def test_demo_writes_report_pictures_and_artifact(run):
    found = json_of(run("demo", "--blocks", "2", "2", "--cells", "12", "--json"))
    assert found["ok"]
    assert {"report.html", "front.png", "errors.png", "answers.png", "thermal_block.safetensors"} <= set(
        names_in("demo")
    )
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
