"""Comparisons of optimizers: fair, complete, and kept when interrupted."""

import functools
import itertools
import json
import math

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from nearly.cli import main
from nearly.core.errors import BadInput
from nearly.optim import KFAC, AdaHessian, AdamW, Training, compare, held_bytes, peak_bytes
from nearly.optim.comparison import OptimizerComparison, OptimizersInterrupted
from nearly.optim.training import TUNING, Point, Trained

POINTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
TRAIN = """
import torch
from torch import nn
points = torch.linspace(-1, 1, 30)[:, None]
def make_model(seed):
    return nn.Linear(1, 1)
def make_data(seed):
    return [points]
def loss(model, batch):
    return (model(batch) - 2 * batch).square().mean()
"""


def linear(**changes):
    given = {
        "make_model": lambda seed: nn.Linear(3, 1),
        "make_data": lambda seed: POINTS.split(16),
        "loss": lambda model, batch: (model(batch) - batch[:, :1]).square().mean(),
    }
    return Training(**{**given, **changes})


def test_all_get_the_same_models_the_same_batches_and_the_same_number_of_rates():
    seen = []

    def make_data(seed):
        seen.append(seed)
        return POINTS.split(16)

    found = compare(linear(make_data=make_data), {"a": AdamW, "b": AdamW}, steps=8, seeds=2)
    first, second = ([one for one in found.trained if one.optimizer == name] for name in "ab")
    assert [one.curve[-1].loss for one in first] == [one.curve[-1].loss for one in second]
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert seen.count(TUNING) >= 10
    assert {one.seed for one in found.trained} == {0, 1}


def test_the_global_random_state_stays():
    before = torch.get_rng_state()
    compare(linear(), ["AdamW"], steps=2, seeds=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_diverging_optimizer_is_listed_last():
    class Explodes(torch.optim.SGD):
        def __init__(self, params, lr=1e3):
            super().__init__(params, lr=1e30)

    found = compare(linear(), {"bad": Explodes, "good": AdamW}, steps=20, seeds=1)
    assert found.names() == ["good", "bad"]
    row = found.frame()[1]
    assert math.isinf(row["loss"])
    assert row["failure"]


def test_equal_time_gives_the_cheaper_one_more_steps():
    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            for _ in range(20):
                torch.linalg.svd(torch.eye(60))
            super().step(closure)

    found = compare(linear(), {"slow": Slow, "fast": torch.optim.SGD}, seconds=0.05, seeds=1)
    steps = {row["optimizer"]: row["steps"] for row in found.frame()}
    assert steps["fast"] > 2 * steps["slow"]


def test_what_validates_counts():
    found = compare(linear(validate=lambda model: 7.0), ["AdamW"], steps=3, seeds=1)
    assert found.frame()[0]["loss"] == 7.0


def test_an_interruption_keeps_what_was_done():
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return model(batch).square().mean()

    with pytest.raises(OptimizersInterrupted) as stop:
        compare(linear(loss=loss), {"a": AdamW, "b": AdamW}, steps=4, seeds=1)
    assert stop.value.comparison.names() == ["a"]


def test_an_interruption_keeps_the_seeds_that_were_done():
    def make_data(seed):
        if seed == 2:
            raise KeyboardInterrupt
        return POINTS.split(16)

    with pytest.raises(OptimizersInterrupted, match="2 trainings") as stop:
        compare(linear(make_data=make_data), ["AdamW"], steps=4, seeds=4)
    assert [one.seed for one in stop.value.comparison.trained] == [0, 1]


def test_an_optimizer_whose_factorization_fails_is_listed_last():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            torch.linalg.cholesky(-torch.eye(2))

    found = compare(linear(), {"bad": Fails, "good": AdamW}, steps=4, seeds=1)
    assert found.names() == ["good", "bad"]
    assert "cholesky" in found.frame()[1]["failure"]


def test_dropout_is_the_seeds_and_validation_leaves_it_on():
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return model(batch).square().mean()

    def net(seed):
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))

    def validate(model):
        return model.eval()(POINTS).square().mean()

    before = torch.get_rng_state()
    training = linear(make_model=net, loss=loss, validate=validate)
    found = compare(training, {"a": AdamW, "b": AdamW}, steps=4, seeds=1)
    first, second = found.trained
    assert [point.loss for point in first.curve] == [point.loss for point in second.curve]
    assert all(modes)
    assert torch.equal(before, torch.get_rng_state())


def test_state_and_peak_are_measured():
    found = compare(linear(), ["AdamW", "torch.AdamW"], steps=2, seeds=1)
    for row in found.frame():
        assert 8 <= row["state_bytes_per_parameter"] < 11  # torch counts its steps in tensors
        assert row["peak_bytes"] > 0
    assert 4000 <= peak_bytes(lambda: torch.ones(1000).add_(1)) < 4100
    parameter = nn.Parameter(torch.ones(5))
    optimizer = AdamW([parameter])
    assert held_bytes(optimizer) == 0


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"steps": None}, "steps"),
        ({"seconds": 1.0}, "steps"),
        ({"steps": 0}, "steps"),
        ({"seeds": 0}, "seeds"),
        ({"optimizers": ["Nothing"]}, "optimizer"),
        ({"optimizers": ["torch.nn"]}, "optimizer"),
        ({"optimizers": []}, "optimizers"),
        ({"optimizers": {"x": lambda params: None}}, "optimizer x"),
        ({"training": linear(make_model=lambda seed: None)}, "make_model"),
        ({"training": linear(make_data=lambda seed: [])}, "make_data"),
    ],
)
def test_bad_arguments_are_named(changes, argument):
    given = {"training": linear(), "optimizers": ["AdamW"], "steps": 2, "seeds": 1} | changes
    with pytest.raises(BadInput) as error:
        compare(given.pop("training"), given.pop("optimizers"), **given)
    assert error.value.argument == argument


def test_the_curves_are_drawn(tmp_path):
    found = compare(linear(), ["AdamW"], steps=5, seeds=2)
    assert found.plot(tmp_path / "curves.svg").read_text().startswith("<?xml")
    with pytest.raises(BadInput, match=r"png or \.svg"):
        found.plot(tmp_path / "curves.pdf")


def test_the_command_compares_what_a_file_defines(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(TRAIN)
    arguments = ["optim", "compare", str(file), "--steps", "5", "--seeds", "1", "--optimizer", "AdamW", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["rows"][0]["optimizer"] == "AdamW"
    assert found["trained"][0]["curve"][-1]["steps"] == 5


@pytest.mark.parametrize(
    "text", [None, "import nothing_like_it", TRAIN.replace("def loss", "def lost"), "raise SystemError"]
)
def test_the_command_says_what_is_wrong_with_a_file(tmp_path, text):
    file = tmp_path / "train.py"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(main, ["optim", "compare", str(file), "--steps", "1"])
    assert result.exit_code == 2
    assert "TRAIN must be" in result.stderr


def test_the_command_lists_the_members():
    result = CliRunner().invoke(main, ["optim", "list", "--json"])
    assert "AdamW" in [card["name"] for card in json.loads(result.stdout)["optimizers"]]


def test_what_trainings_would_share_is_refused():
    model, batches = nn.Linear(3, 1), itertools.cycle(POINTS.split(16))
    with pytest.raises(BadInput, match="make_model must be a function that returns a new module"):
        compare(linear(make_model=lambda seed: model), ["AdamW"], steps=3, seeds=1)
    with pytest.raises(BadInput, match="make_data must be a function that returns new batches"):
        compare(linear(make_data=lambda seed: batches), ["AdamW"], steps=3, seeds=1)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    shared = linear(make_model=lambda seed: nn.Sequential(frozen, nn.Linear(3, 1)))
    assert math.isfinite(compare(shared, ["AdamW"], steps=3, seeds=1).frame()[0]["loss"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": lambda model, batch: 3.0}, r"Training\.loss"),
        ({"loss": lambda model, batch: model(batch)}, r"Training\.loss"),
        ({"loss": lambda model, batch: model(batch).mean().detach()}, r"Training\.loss"),
        ({"validate": lambda model: None}, r"Training\.validate"),
        ({"make_data": lambda seed: None}, "make_data"),
        ({"make_model": lambda seed: nn.LazyLinear(1)}, "lazy"),
    ],
)
def test_trainings_that_are_none_are_refused_by_name(changes, words):
    for name in ("AdamW", "AdaHessian", "torch.SGD"):
        with pytest.raises(BadInput, match=words):
            compare(linear(**changes), [name], steps=2, seeds=1)
    with pytest.raises(BadInput, match="training"):
        compare(changes, ["AdamW"], steps=2, seeds=1)


def test_members_with_settings_of_ones_own_get_what_they_ask_for():
    factories = {
        "layers": functools.partial(KFAC, clip=None),
        "closure": lambda params, lr=0.1: AdaHessian(params, lr=lr, eps=0.1),
    }
    found = compare(linear(), factories, steps=5, seeds=1)
    assert all(not row["failure"] for row in found.frame())


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 1, 5, 3))

    def forward(self, rows):
        return nn.functional.scaled_dot_product_attention(self.query, rows[None, None, :5], rows[None, None, :5])


def test_what_one_member_cannot_do_costs_none_of_the_others():
    attention = linear(make_model=lambda seed: Attends(), loss=lambda model, batch: model(batch).square().mean())
    found = compare(attention, ["AdamW", "AdaHessian"], steps=2, seeds=1)
    assert found.names() == ["AdamW", "AdaHessian"]
    failure = found.frame()[1]["failure"]
    assert "differentiate twice" in failure
    assert failure in str(found.table().caption)


def test_models_without_linear_layers_are_compared_without_members_for_them(monkeypatch):
    cards = {"optim.AdamW": AdamW.card, "optim.KFAC": KFAC.card}
    monkeypatch.setattr("nearly.optim.comparison.optimizer_cards", lambda: cards)
    norm = linear(make_model=lambda seed: nn.LayerNorm(3))
    assert compare(norm, steps=2, seeds=1).names() == ["AdamW"]
    assert set(compare(linear(), steps=2, seeds=1).names()) == {"AdamW", "KFAC"}


@pytest.mark.parametrize("losses", [(-1.0, -2.0), (math.inf, math.inf), (1.0, math.inf)])
def test_curves_of_any_losses_are_drawn(losses, tmp_path):
    curve = tuple(Point(i, float(i), loss) for i, loss in enumerate(losses))
    found = OptimizerComparison("steps", 2.0, (Trained("one", 0, 0.1, curve, 0),), 1)
    assert found.plot(tmp_path / "curves.svg").stat().st_size


def test_files_find_their_neighbors_and_may_not_end_the_command(run, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "neighbor_of_lab.py").write_text("import torch\nrows = torch.ones(4, 2)\n")
    (tmp_path / "lab" / "train.py").write_text(
        "from torch import nn\nfrom neighbor_of_lab import rows\n"
        "def make_model(seed): return nn.Linear(2, 1)\ndef make_data(seed): return [rows]\n"
        "def loss(model, batch): return model(batch).square().mean()\n"
    )
    options = ("--steps", "2", "--seeds", "1", "--optimizer", "AdamW")
    assert "AdamW" in run("optim", "compare", "lab/train.py", *options).output
    (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
    assert "SystemExit" in run("optim", "compare", "ends.py", *options, code=2).output
