"""Teleportation: what it computes stays, the objective grows, and its steps are those of the formulas."""

import math

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import teleport

DRAW = torch.Generator().manual_seed(0)
ROWS = torch.randn(40, 4, dtype=torch.float64, generator=DRAW)
TARGETS = torch.randn(40, 2, dtype=torch.float64, generator=DRAW)


def network(*between, bias=True):
    between = between or (nn.LeakyReLU(0.1), nn.ReLU())
    layers = [nn.Linear(4, 6, bias=bias), between[0], nn.Linear(6, 5), between[-1], nn.Linear(5, 2, bias=bias)]
    model = nn.Sequential(*layers).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=draw))
    return model


def loss(call):
    return (call(ROWS) - TARGETS).square().mean()


def squared_gradient(model):
    return sum(slope.square().sum() for slope in torch.autograd.grad(loss(model), list(model.parameters())))


@pytest.mark.parametrize("objective", ["gradient", "sharpness"])
@pytest.mark.parametrize("bias", [True, False])
def test_what_the_network_computes_stays(objective, bias):
    model = network(bias=bias)
    others = torch.randn(100, 4, dtype=torch.float64, generator=DRAW)
    before = model(others).detach(), float(loss(model).detach())
    values = teleport(model, loss, objective=objective, steps=10)
    torch.testing.assert_close(model(others).detach(), before[0], rtol=1e-12, atol=1e-12)
    assert abs(float(loss(model).detach()) - before[1]) < 1e-12
    rises = values.diff() * (1 if objective == "gradient" else -1)
    assert len(values) == 11
    assert bool((rises >= 0).all())
    assert float(rises.sum()) > 0.1


def test_values_are_those_of_the_gradient():
    model = network()
    before = float(squared_gradient(model))
    values = teleport(model, loss, steps=5).exp()
    torch.testing.assert_close(values[[0, -1]], torch.tensor([before, float(squared_gradient(model))]).double())


def test_the_first_step_climbs_the_gradient_of_the_logarithm():
    model, moved = network(), network()
    teleport(moved, loss, steps=1, rate=0.05)
    slopes = []
    for layer, after, units in ((0, 2, 6), (2, 4, 5)):
        for unit in range(units):
            ends = []
            for sign in (1, -1):
                one = network()
                with torch.no_grad():
                    factor = math.exp(sign * 1e-6)
                    one[layer].weight[unit] *= factor
                    one[layer].bias[unit] *= factor
                    one[after].weight[:, unit] /= factor
                ends.append(float(squared_gradient(one).log()))
            slopes.append((ends[0] - ends[1]) / 2e-6)
    steps = 0.05 * torch.tensor(slopes).double() / max(map(abs, slopes))
    found = torch.cat([(moved[i].weight[:, 0] / model[i].weight[:, 0]).log() for i in (0,)]).detach()
    torch.testing.assert_close(found, steps[:6], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        (moved[4].weight[0] / model[4].weight[0]).log().detach(), -steps[6:], rtol=1e-5, atol=1e-7
    )


def test_sharpness_is_the_mean_loss_around():
    model = network()
    values = teleport(model, loss, objective="sharpness", radius=0.3, steps=3, seed=4)
    draw, total = torch.Generator().manual_seed(4), 0.0
    for _ in range(20):
        other = network()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw).double()
            total += float(loss(other)) / 20
    assert float(values[0].exp()) == pytest.approx(total, rel=1e-9)


def test_a_loss_without_gradient_moves_nothing():
    model = network()
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    teleport(model, lambda call: 0.0 * loss(call) + 1.0)
    for before, after in zip(kept, model.parameters(), strict=True):
        assert torch.equal(before, after.detach())


@pytest.mark.parametrize("module", [nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 2)), network(nn.Tanh())])
def test_other_modules_are_refused(module):
    with pytest.raises(BadInput, match="module"):
        teleport(module, loss)


@pytest.mark.parametrize(
    ("name", "value"), [("objective", "speed"), ("steps", 0), ("rate", 0.0), ("radius", math.nan), ("seed", "x")]
)
def test_bad_values_are_refused(name, value):
    with pytest.raises(BadInput, match=name):
        teleport(network(), loss, **{name: value})
