"""Row 12: with maximal-update scaling K-FAC and Shampoo learn features alike at all widths, and keep their rate.

A perceptron (16, n, n, 4) with tanh, no biases, on 64 rows; base width 64, no momentum, absolute dampings that scale with width.
First step, n = 64 to 1,024, two seeds: slopes of the change of all layers' outputs against width, in logarithms, are within 0.1 of
0; with standard scaling (the same settings at every width) some slope is more than 0.3 away. Rates: the best, by factors of 2,
after 20 steps on all rows moves by one factor at most over n = 64 to 512. (Standard scaling's moves no further at these widths;
it is recorded.)
Rejected broken variant: standard scaling, as above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nearly.optim import KFAC, Shampoo
from nearly.optim.scaling import coordinate_check, maximal_update

BASE = 64
DAMPING = {"kfac": 1e-2, "shampoo": 1e-4}
RATES = {"kfac": [3.2e-3 * 2**k for k in range(4)], "shampoo": [1.2e-2 * 2**k for k in range(4)]}
MSE = nn.functional.mse_loss


def perceptron(width: int, seed: int = 0) -> nn.Sequential:
    layers = [nn.Linear(16, width, bias=False), nn.Tanh(), nn.Linear(width, width, bias=False), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 4, bias=False))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 16, generator=draw)
    return rows, torch.tanh(rows @ torch.randn(16, 4, generator=draw) / 4)


def optimizer(family: str, rate: float, base: int) -> Callable[[nn.Module, int], torch.optim.Optimizer]:
    """Of a model that it initializes; `base` 0 for standard scaling."""

    def make(model: Any, seed: int) -> torch.optim.Optimizer:
        like = perceptron(base or model[0].out_features)
        groups = maximal_update(model, like, family=family, lr=rate, damping=DAMPING[family], seed=seed).groups
        if family == "kfac":
            return KFAC(groups, module=model, betas=(0.0, 0.95), ridge=0.0, damping=(1.0, 1.0), clip=None)
        return Shampoo(groups, betas=(0.0, 0.95), graft="none", ridge=0.0)

    return make


def worst_slope(family: str, base: int) -> float:
    widths, rate = [64, 128, 256, 512, 1024], RATES[family][0]
    check = coordinate_check(
        lambda width, seed: perceptron(width),
        widths,
        optimizer(family, rate, base),
        batch(),
        loss=MSE,
        steps=1,
        seeds=2,
    )
    return max((slope for slope in check.slopes().values()), key=abs)


@pytest.mark.parametrize("family", ["kfac", "shampoo"])
def test_first_step(family: str, record: Any) -> None:
    scaled, standard = worst_slope(family, BASE), worst_slope(family, 0)
    record(
        claim=f"12: {family}, worst slope of feature changes over width (standard)", measured=scaled, baseline=standard
    )
    assert abs(scaled) <= 0.1
    assert abs(standard) > 0.3


@pytest.mark.parametrize("family", ["kfac", "shampoo"])
def test_rates(family: str, record: Any) -> None:
    rows, targets = batch()

    def final(width: int, rate: float, base: int) -> float:
        model = perceptron(width)
        stepped = optimizer(family, rate, base)(model, 0)
        for _ in range(20):
            stepped.zero_grad()
            loss = MSE(model(rows), targets)
            if not loss < 1e6:
                break
            loss.backward()
            stepped.step()
        end = float(MSE(model(rows), targets).detach())
        return end if end < 1e6 else 1e6

    def move(base: int, widths: tuple[int, ...]) -> int:
        places = []
        for width in widths:
            losses = [final(width, rate, base) for rate in RATES[family]]
            places.append(losses.index(min(losses)))
        return max(places) - min(places)

    scaled, standard = move(BASE, (64, 128, 256, 512)), move(0, (64, 512))
    record(claim=f"12: {family}, moves of the best rate, factors of 2 (standard)", measured=scaled, baseline=standard)
    assert scaled <= 1
