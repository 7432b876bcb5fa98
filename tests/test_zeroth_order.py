"""Descent by values of the loss: estimates are those of the papers, and coordinates of perceptrons those of forward passes."""

import sys

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import Fogzo, ZerothOrder, coordinate_gradient, draw_masks, grasp_densities


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def same(found, expected, tolerance=1e-9):
    torch.testing.assert_close(list(found), list(expected), rtol=tolerance, atol=tolerance)


def started(*layers):
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i))
    return module


def one_coordinate_at_a_time(values, parameters, spread):
    """The definition."""
    with torch.no_grad():
        base, found = values(), []
        for parameter in parameters:
            slopes = torch.zeros_like(parameter)
            for place in range(parameter.numel()):
                kept = parameter.clone()
                parameter.view(-1)[place] += spread
                slopes.view(-1)[place] = (values() - base) / spread
                parameter.copy_(kept)
            found.append(slopes)
    return found


def parameters_of_all_shapes():
    shapes = ((), (3,), (2, 3), (2, 1, 2, 2))
    return [nn.Parameter(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]


def valley(parameters):
    return sum(((parameter - 1) ** 2 * (i + 1) + parameter.cos()).sum() for i, parameter in enumerate(parameters))


def test_all_coordinates_and_momentum_are_as_defined():
    ours, theirs = parameters_of_all_shapes(), parameters_of_all_shapes()
    optimizer = ZerothOrder(ours, lr=0.05, momentum=0.9, spread=1e-2, count=18)
    momentum = [torch.zeros_like(parameter) for parameter in theirs]
    for _ in range(3):
        optimizer.step(lambda: valley(ours))
        found = one_coordinate_at_a_time(lambda: valley(theirs), theirs, 1e-2)
        with torch.no_grad():
            for parameter, mean, slopes in zip(theirs, momentum, found, strict=True):
                mean.mul_(0.9).add_(slopes)
                parameter.sub_(0.05 * mean)
        same(ours, theirs)


def test_some_coordinates_are_estimated_and_others_stay():
    parameters = parameters_of_all_shapes()
    before = [parameter.detach().clone() for parameter in parameters]
    slopes = one_coordinate_at_a_time(lambda: valley(parameters), parameters, 1e-3)
    values = []
    optimizer = ZerothOrder(parameters, lr=1.0, momentum=0.0, count=7)
    optimizer.step(lambda: values.append(1) or valley(parameters))
    moved = torch.cat([(old - new.detach()).flatten() for old, new in zip(before, parameters, strict=True)])
    expected = torch.cat([slope.flatten() for slope in slopes])
    assert int((moved != 0).sum()) == 7
    same([moved[moved != 0]], [expected[moved != 0]])
    assert len(values) == 8
    again = [parameter.detach().clone() for parameter in parameters]
    optimizer.step(lambda: valley(parameters))
    second = torch.cat([(old - new.detach()).flatten() for old, new in zip(again, parameters, strict=True)])
    assert not torch.equal(moved != 0, second != 0)


def test_coordinates_of_transposed_parameters():
    parameter = nn.Parameter(normal(3, 2).T)
    assert not parameter.is_contiguous()
    scales = normal(2, 3, seed=1)
    expected = parameter.detach() - scales
    ZerothOrder([parameter], lr=1.0, momentum=0.0, count=6).step(lambda: (scales * parameter).sum())
    same([parameter], [expected])


def test_directions_are_as_defined():
    ours = parameters_of_all_shapes()
    before = torch.cat([parameter.detach().flatten() for parameter in ours])
    values = []
    optimizer = ZerothOrder(ours, lr=1.0, momentum=0.0, spread=1e-2, rule="directions", count=5, seed=3)
    draw = torch.Generator().manual_seed(3 * 1_000_003**2 + 1)
    optimizer.step(lambda: values.append(1) or valley(ours))

    def at(x):
        split = x.split([parameter.numel() for parameter in ours])
        return valley([part.reshape(p.shape) for part, p in zip(split, ours, strict=True)])

    found = torch.zeros(18, dtype=torch.float64)
    for _ in range(5):
        u = torch.randn(18, dtype=torch.float64, generator=draw)
        found += (at(before + 1e-2 * u) - at(before)) / 1e-2 * u / 5
    same([torch.cat([parameter.detach().flatten() for parameter in ours])], [before - found])
    assert len(values) == 6


def test_a_loss_that_fails_leaves_the_parameters():
    for rule in ("coordinates", "directions"):
        parameters = parameters_of_all_shapes()
        before = [parameter.detach().clone() for parameter in parameters]
        calls = []

        def loss():
            calls.append(1)  # noqa: B023
            if len(calls) == 4:  # noqa: B023
                raise ValueError("no value")
            return valley(parameters)  # noqa: B023

        with pytest.raises(ValueError, match="no value"):
            ZerothOrder(parameters, rule=rule).step(loss)
        for kept, parameter in zip(before, parameters, strict=True):
            assert torch.equal(kept, parameter.detach())


@pytest.mark.parametrize("rule", ["coordinates", "directions"])
def test_parameters_come_back_bit_for_bit(rule):
    parameters = parameters_of_all_shapes()
    before = [parameter.detach().clone() for parameter in parameters]
    ZerothOrder(parameters, lr=0.0, rule=rule, spread=0.3).step(lambda: valley(parameters))
    for kept, parameter in zip(before, parameters, strict=True):
        assert torch.equal(kept, parameter.detach())


@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_a_loss_that_is_no_number_changes_nothing(choice):
    x = nn.Parameter(normal(3))
    before = x.detach().clone()
    optimizer = ZerothOrder([x], nonfinite=choice)
    if choice == "raise":
        with pytest.raises(BadInput, match="loss"):
            optimizer.step(lambda: x.sum() * torch.nan)
    else:
        optimizer.step(lambda: x.sum() * torch.nan)
    assert torch.equal(x.detach(), before)
    assert not optimizer.state_dict()["state"]


def test_guided_differences_are_as_defined():
    ours = parameters_of_all_shapes()
    before = torch.cat([parameter.detach().flatten() for parameter in ours])
    optimizer = Fogzo(ours, lr=0.3, share=0.9, spread=0.05, count=3, seed=2)
    draw = torch.Generator().manual_seed(2 * 1_000_003**2 + 1)
    guide = torch.cat([slope.flatten() for slope in torch.autograd.grad(valley(ours), ours)])
    guide = guide / guide.norm()
    values = []
    optimizer.step(lambda: values.append(1) or valley(ours))

    def at(x):
        split = x.split([parameter.numel() for parameter in ours])
        return valley([part.reshape(p.shape) for part, p in zip(split, ours, strict=True)])

    found = torch.zeros(18, dtype=torch.float64)
    for _ in range(3):
        noise = 3**0.5 * (2 * torch.rand(18, dtype=torch.float64, generator=draw) - 1)
        sign = 2 * int(torch.randint(2, (), generator=draw)) - 1
        v = 0.9**0.5 * sign * guide + 0.1**0.5 * noise
        found += (at(before + 0.05 * v) - at(before - 0.05 * v)) / 0.1 * v / 3
    same([torch.cat([parameter.detach().flatten() for parameter in ours])], [before - 0.3 * found])
    assert len(values) == 7


def test_a_wrong_guide_is_turned_around():
    x = nn.Parameter(normal(6))

    class Backwards(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            return values.clone()

        @staticmethod
        def backward(context, slopes):
            return -slopes

    optimizer = Fogzo([x], lr=0.1, share=1 - 1e-9)
    start = float(x.detach().square().sum())
    for _ in range(30):
        optimizer.step(lambda: Backwards.apply(x).square().sum())
    assert float(x.detach().square().sum()) < 0.01 * start


PERCEPTRONS = {
    "two hidden layers": lambda: started(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6, bias=False), nn.GELU(), nn.Linear(6, 3)
    ),
    "no activation at the start": lambda: started(nn.Linear(4, 5), nn.Linear(5, 3)),
    "columns mixed between": lambda: started(
        nn.Linear(4, 5), nn.Softmax(dim=-1), nn.Tanh(), nn.LayerNorm(5, elementwise_affine=False), nn.Linear(5, 3)
    ),
    "an activation at the end": lambda: started(nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Sigmoid()),
    "in place": lambda: started(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ELU(inplace=True)),
    "one layer": lambda: started(nn.Linear(4, 3)),
}


@pytest.mark.parametrize("name", PERCEPTRONS)
@pytest.mark.parametrize("masked", [False, True])
def test_coordinates_of_a_perceptron_are_those_of_forward_passes(name, masked, monkeypatch):
    module, x = PERCEPTRONS[name](), normal(7, 4, seed=9)
    parameters = list(module.parameters())
    monkeypatch.setattr(sys.modules[coordinate_gradient.__module__], "TOGETHER", 100)
    draw = torch.Generator().manual_seed(0)
    masks = draw_masks(module, [0.4] * len(parameters), draw) if masked else None
    before = [parameter.detach().clone() for parameter in parameters]
    found = coordinate_gradient(module, lambda y: y.sin().mean(dim=(1, 2)), x, masks=masks, spread=1e-2)
    expected = one_coordinate_at_a_time(lambda: module(x).sin().mean(), parameters, 1e-2)
    if masks:
        expected = [slopes * mask for slopes, mask in zip(expected, masks, strict=True)]
    same(found, expected, 1e-10)
    for kept, parameter in zip(before, parameters, strict=True):
        assert torch.equal(kept, parameter.detach())


def test_shares_by_signal_preservation_are_as_defined():
    module, x = PERCEPTRONS["two hidden layers"](), normal(7, 4, seed=9)
    parameters = list(module.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    found = grasp_densities(module, lambda y: y.square().mean(dim=(1, 2)), x, density=0.3, spread=1e-6)
    for kept, parameter in zip(before, parameters, strict=True):
        assert torch.equal(kept, parameter.detach())
    slopes = torch.autograd.grad(module(x).square().mean(), parameters, create_graph=True)
    products = torch.autograd.grad(sum((s * s.detach()).sum() for s in slopes), parameters)
    scores = [(p * product).detach().abs() for p, product in zip(parameters, products, strict=True)]
    every = torch.cat([score.flatten() for score in scores])
    least = every.sort(descending=True).values[round(0.3 * len(every)) - 1]
    assert found == pytest.approx([float((score >= least).double().mean()) for score in scores], abs=1e-6)


def test_masks_have_their_shares_and_come_anew():
    module = nn.Linear(20, 10)
    draw = torch.Generator().manual_seed(0)
    first, second = (draw_masks(module, [0.25, 0.0], draw) for _ in range(2))
    assert [int(mask.sum()) for mask in first] == [50, 1]
    assert not torch.equal(first[0], second[0])
    counts = sum(draw_masks(module, [0.25, 0.5], draw)[0].int() for _ in range(100))
    assert int(counts.min()) > 0


def mean_loss(outputs):
    return outputs.mean(dim=(1, 2))


def test_bad_modules_inputs_and_masks_are_refused():
    x, module = normal(5, 4), PERCEPTRONS["one layer"]()
    shared = nn.Linear(4, 4).double()
    bad = {
        "module": [
            nn.Linear(4, 3).double(),
            nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).double(),
            nn.Sequential(nn.Tanh()),
            nn.Sequential(shared, shared),
        ],
        "inputs": [x[0], x.float(), torch.full((5, 4), torch.nan, dtype=torch.float64)],
        "masks": [[], [torch.ones(3, 4, dtype=torch.bool)], [torch.ones(3, 4), torch.ones(3)]],
        "spread": [0.0, -1.0, torch.nan],
        "loss": [lambda y: y.mean(), lambda y: 1.0],
    }
    for name, values in bad.items():
        for value in values:
            given = {"module": module, "loss": mean_loss, "inputs": x, name: value}
            with pytest.raises(BadInput, match=name):
                coordinate_gradient(**given)
    for density in (0.0, 1.0, torch.nan):
        with pytest.raises(BadInput, match="density"):
            grasp_densities(module, mean_loss, x, density=density)


@pytest.mark.parametrize("member", [ZerothOrder, Fogzo])
@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_a_loss_that_is_no_number_nearby_changes_nothing(member, choice):
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = member([x], nonfinite=choice)
    calls = []

    def closure():
        calls.append(1)
        return x.square().sum() * (float("nan") if len(calls) > 1 else 1.0)

    if choice == "raise":
        with pytest.raises(BadInput, match="loss"):
            optimizer.step(closure)
    else:
        optimizer.step(closure)
    assert x.tolist() == [1.0, 2.0]
    assert all("step" not in state for state in optimizer.state.values())
