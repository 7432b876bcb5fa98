"""Targets whose tensors are on another device are fitted, certified and answered there, as on the host."""

import copy

import pytest
import torch
from torch import nn

import nearly
from nearly.core.errors import BadInput
from nearly.core.nouns import Fidelity, Field, Function, Matrix, Measure, Network, Solve
from nearly.core.registry import method_class
from nearly.problems import convection_diffusion, thermal_block
from nearly.testing import elsewhere

DOUBLE = torch.float64
SIDE = 30


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


X = draw(250, 2).sigmoid() + 0.5
S = torch.linspace(0, 1, 40, dtype=DOUBLE)
Y = torch.sin(torch.pi * X[:, :1] * S) + X[:, 1:].square() * S
POSITIVE = draw(SIDE, SIDE) @ draw(SIDE, SIDE).T / SIDE**2 + torch.eye(SIDE, dtype=DOUBLE)


class Products:
    """A matrix known by its products, on the device of its entries."""

    def __init__(self, entries):
        self.entries, self.shape, self.device = entries, tuple(entries.shape), entries.device

    def __matmul__(self, x):
        return self.entries @ x

    @property
    def T(self):
        return Products(self.entries.T)


def network(device, *layers, data):
    module = nn.Sequential(*layers)
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed) / parameter[0].numel() ** 0.5)
    return Network(module.to(device), data)


def dense(device, data):
    return network(device, nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4), data=data)


def convolution(device):
    layers = (nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    return network(device, *layers, data=draw(300, 2, 8).to(device))


def embedding(device):
    tokens = draw(300, 5).mul(100).long().remainder(20)
    return network(device, nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 4), data=tokens.to(device))


def wave(x):
    return torch.exp(x[:, :1] / 2) * torch.cos(x[:, -1:])


def box(d, device):
    return nearly.Box([-1.0] * d, [1.0] * d).to(device)


def simulation(device):
    def solve(parameters):
        return torch.sin(parameters[0] * S.to(parameters.device)) + parameters[1]

    coarse = Fidelity(lambda parameters: parameters[0] * S.to(parameters.device), 4)
    return Field(solve, box(2, device), coarse=[coarse])


def boxed(target, device):
    target.domain.to(device)
    return target


NAMES = {
    "networks": ("FisherWeightedLayers", "KroneckerWeightedLayers", "TruncatedLayers", "WhitenedLayers"),
    "measures": ("KernelThinning", "KMeansCoreset", "RandomSubsample"),
}
NETWORKS, MEASURES = ([f"{room}.{name}" for name in names] for room, names in NAMES.items())
REGRESSIONS = ["fields.KernelRegression", "fields.Mean", "fields.NearestNeighbor"]
POLYNOMIALS = ["functions.PolynomialLeastSquares", "functions.SparsePolynomial"]
# What is made of tensors on a device, and the methods that are to fit it.
TARGETS = {
    "fields of data": (
        lambda device: Field.from_data(X.to(device), Y.to(device)),
        [*REGRESSIONS, "fields.PODRegression", "fields.FourierNeuralOperator"],
    ),
    "fields of data, with weights": (
        lambda device: Field.from_data(X.to(device), Y.to(device), product=1 + S),
        ["fields.PODRegression"],
    ),
    "a function of data": (
        lambda device: Function.from_data(X.to(device), Y[:, :2].to(device)),
        [*REGRESSIONS, *POLYNOMIALS, "functions.GaussianProcess"],
    ),
    "a network": (lambda device: dense(device, draw(300, 8).to(device)), NETWORKS),
    "a network, its data on the host": (lambda device: dense(device, draw(300, 8)), NETWORKS[:1]),
    "convolutions": (convolution, NETWORKS),
    "token ids": (embedding, NETWORKS),
    "a matrix": (lambda device: Matrix(POSITIVE.to(device)), ["matrices.RandomizedSVD", "matrices.TruncatedSVD"]),
    "an operator": (lambda device: Matrix(Products(POSITIVE.to(device))), ["matrices.MatrixFreeSVD"]),
    "a system": (
        lambda device: Solve(POSITIVE.to(device)),
        ["matrices.Deflation", "matrices.IncompleteFactorization"],
    ),
    "a system of an operator": (lambda device: Solve(Products(POSITIVE.to(device))), ["matrices.Deflation"]),
    "samples": (lambda device: Measure(draw(400, 2).to(device)), MEASURES),
    "samples, their weights on the host": (
        lambda device: Measure(draw(400, 2).to(device), weights=1 + torch.arange(400)),
        MEASURES,
    ),
    "a function on a box": (
        lambda device: Function(wave, box(2, device)),
        [*POLYNOMIALS[:1], "functions.ChebyshevTucker", "functions.WeightedLeastSquares"],
    ),
    "a function of one variable": (lambda device: Function(wave, box(1, device)), ["functions.AutoKnots"]),
    "a function of single points": (
        lambda device: Function(lambda x: wave(x[None])[0], box(2, device), vectorized=False),
        REGRESSIONS,
    ),
    "a function of a sampler": (
        lambda device: Function(wave, lambda n, g: torch.rand(n, 2, dtype=DOUBLE, generator=g).to(device)),
        POLYNOMIALS[:1],
    ),
    "a simulation": (simulation, [*REGRESSIONS, "fields.CoarseSolve", "fields.CorrectedCoarseSolve"]),
    "an affine system": (lambda device: boxed(thermal_block((2, 1), cells=8), device), ["fields.ReducedBasis"]),
    "a system that is not affine": (
        lambda device: boxed(convection_diffusion(cells=8), device),
        ["fields.EmpiricalReducedBasis"],
    ),
}


def fitted(name, target):
    kind = method_class(name)
    method = kind(**kind.card.get("quick", {}))
    budgets = [one for one in method.budgets(target, 64)[:1] if one is not None]
    surrogate = (method.with_budget(*budgets) if budgets else method).fit(target)
    nearly.certify(surrogate, target, samples=90)
    return surrogate


def asked(target):
    rows = target.rows
    return target.sample(6, 1) if rows is None else rows.pairs.inputs[rows.fitting[:6]]


@pytest.mark.parametrize(("of", "name"), [(of, name) for of, (_, names) in TARGETS.items() for name in names])
def test_it_is_fitted_where_it_is(of, name):
    build = TARGETS[of][0]
    here = fitted(name, build("cpu"))
    expected = here(asked(build("cpu")))
    with elsewhere() as traffic:
        target = build(traffic.device)
        there = fitted(name, target)
        x = asked(target)
        outputs, truths = there(x), target(x)
        state = {*there.model.state_dict().values(), *there.domain.state_dict().values()}
        assert {one.device for one in (x, outputs, truths, *state)} == {traffic.device}
        found = outputs.detach().cpu()
    assert torch.allclose(found, expected.detach(), rtol=1e-9, atol=1e-12)
    assert there.certificate.error == pytest.approx(here.certificate.error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("of", ["fields of data", "a matrix", "an affine system", "token ids"])
def test_one_that_was_moved_is_certified_against_the_target_on_the_host(of):
    build, names = TARGETS[of]
    surrogate = fitted(names[0], build("cpu"))
    moved = copy.deepcopy(surrogate)
    with elsewhere() as traffic:
        certificate = nearly.certify(moved.to(traffic.device), build("cpu"))
    assert certificate.error == pytest.approx(nearly.certify(surrogate, build("cpu")).error, rel=1e-9)


def test_races_are_run_there():
    def won(device):
        surrogate = nearly.fit(Field.from_data(X.to(device), Y.to(device)), tolerance=0.1, methods=REGRESSIONS)
        return surrogate.method, surrogate.certificate.error

    with elsewhere() as traffic:
        there = won(traffic.device)
    assert there == won("cpu")


def test_rows_on_two_devices_are_refused_by_name():
    with elsewhere() as traffic:
        for noun in (Field, Function):
            with pytest.raises(BadInput, match="outputs must be on the device of inputs"):
                noun.from_data(X.to(traffic.device), Y)
            with pytest.raises(BadInput, match="certifying outputs must be on the device"):
                noun.from_data(X, Y, certifying=(X.to(traffic.device), Y))


def test_products_that_do_not_tell_their_device_are_refused_by_name():
    with elsewhere() as traffic:
        entries = POSITIVE.to(traffic.device)
        for noun in (Matrix, Solve):
            with pytest.raises(BadInput, match="matrix must be able to take"):
                noun(lambda x: entries @ x, shape=entries.shape)


def test_limits_of_a_box_follow_the_lower_ones():
    with elsewhere() as traffic:
        there = nearly.Box(torch.ones(2).to(traffic.device), [2.0, 3.0], log=[True, False])
        points = there.sample(5, 0)
        assert points.device == there.upper.device == traffic.device
        points = points.cpu()
    assert torch.equal(points, nearly.Box([1.0, 1.0], [2.0, 3.0], log=[True, False]).sample(5, 0))
