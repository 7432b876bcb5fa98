"""Coordinate checks, the square-root rule and trajectory invariance against hand-written formulas."""

import math
import sys

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput, MissingExtra
from nearly.optim.scaling import (
    amplified_gradient,
    coordinate_check,
    equivalent_pairs,
    rescaled_adam,
    rescaled_rmsprop,
    trajectory_gap,
)


def mlp(width):
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def test_coordinate_check_measures_changes():
    x, y = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)), torch.ones(3, 1)

    def make(width, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return mlp(width)

    def optimizer(model, seed):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    check = coordinate_check(make, [32, 16], optimizer, (x, y), loss=nn.functional.mse_loss, steps=2, seeds=3)
    assert check.widths == (16, 32)
    assert check.layers == ("0", "1", "2", "3", "4")
    squares = 0
    for seed in range(3):
        model = make(32, seed)
        before, steps = model[:2](x).detach(), optimizer(model, seed)
        for _ in range(2):
            steps.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            steps.step()
        squares += (model[:2](x).detach() - before).double().square().mean() / 3
    assert float(check.changes[1, 1, 1]) == pytest.approx(math.sqrt(squares), rel=1e-4)
    slope = math.log(float(check.changes[1, 0, 2] / check.changes[0, 0, 2])) / math.log(2)
    assert check.slopes(0)["2"] == pytest.approx(slope)
    assert len(check.plot().axes) == 5
    only = coordinate_check(make, [16, 32], optimizer, (x, y), loss=nn.functional.mse_loss, layers=["2"])
    assert list(only.slopes()) == ["2"]
    for options, message in (
        ({"layers": ["9"]}, "names of the model's modules"),
        ({"loss": lambda out, y: out.sum() * math.inf}, "Lower the learning rate"),
        ({"widths": [4]}, "two or more"),
        ({"steps": 0}, "steps"),
    ):
        given = {"widths": [16, 32], "loss": nn.functional.mse_loss, **options}
        with pytest.raises(BadInput, match=message):
            coordinate_check(make, make_optimizer=optimizer, batch=(x, y), **given)
    kept = mlp(4)
    for layers in (["0"], ["0", "9"]):  # a loss that is not finite, and no such layer
        with pytest.raises(BadInput):
            coordinate_check(
                lambda n, seed: kept, [2, 4], optimizer, (x, y), loss=lambda o, y: o.sum() * math.inf, layers=layers
            )
    assert not any(module._forward_hooks for module in kept.modules())


def test_plot_names_the_missing_extra(monkeypatch):
    x = torch.ones(2, 10)
    check = coordinate_check(
        lambda width, seed: mlp(width),
        [4, 8],
        lambda model, seed: torch.optim.SGD(model.parameters(), lr=0.1),
        (x, x[:, :1]),
        loss=nn.functional.mse_loss,
    )
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"nearly\[plot\]"):
        check.plot()


def test_square_root_rule():
    assert rescaled_adam(16, lr=1e-3, betas=(0.99, 0.9999), eps=1e-8) == {
        "lr": pytest.approx(4e-3),
        "betas": (pytest.approx(0.84), pytest.approx(0.9984)),
        "eps": pytest.approx(2.5e-9),
    }
    there = rescaled_adam(4, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    back = rescaled_adam(1 / 4, **there)
    assert back == {
        "lr": pytest.approx(1e-3),
        "betas": (pytest.approx(0.9), pytest.approx(0.999)),
        "eps": pytest.approx(1e-8),
    }
    assert rescaled_rmsprop(4, lr=1e-2, alpha=0.9, eps=0.0) == {"lr": 0.02, "alpha": pytest.approx(0.6), "eps": 0.0}
    with pytest.raises(BadInput, match=r"factor must be at most 10, for betas\[0\]"):
        rescaled_adam(16, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    for name, value in (("lr", -1.0), ("betas", (1.0, 0.9)), ("eps", math.nan)):
        with pytest.raises(BadInput, match=name):
            rescaled_adam(2, **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, name: value})


def test_amplified_gradients_keep_the_mean_and_widen_the_noise():
    first, second = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)) + 3
    for fineness in (1, 2, 5):
        mixed = amplified_gradient(first, second, fineness)
        assert float(mixed.mean()) == pytest.approx(3, abs=0.05 * fineness)
        assert float(mixed.std()) == pytest.approx(fineness, rel=0.02)
    assert torch.equal(amplified_gradient(first, second, 1), first)
    with pytest.raises(BadInput, match="second"):
        amplified_gradient(first, second[1:], 2)


def test_equal_products_and_the_gap_between_curves():
    assert all(rate * decay == pytest.approx(1e-4) for rate, decay in equivalent_pairs(1e-3, 0.1, [1e-4, 1e-2]))
    with pytest.raises(BadInput, match="rates"):
        equivalent_pairs(1e-3, 0.1, [0.0])
    losses = torch.rand(3, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    smooth = [[sum(row[k : k + 4]) / 4 for k in range(18)] for row in losses.tolist()]
    want = max((max(c) - min(c)) / (sum(c) / 3) for c in zip(*(row[-11:] for row in smooth), strict=True))
    assert trajectory_gap(losses, window=4) == pytest.approx(want)
    for window in (0, 11):
        with pytest.raises(BadInput, match="window"):
            trajectory_gap(losses, window=window)
    with pytest.raises(BadInput, match="positive"):
        trajectory_gap(-losses, window=2)
