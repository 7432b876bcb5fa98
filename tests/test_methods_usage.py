"""Methods on unusual but legal data: values of any size, inputs that say nothing, modules called in unusual ways."""

import dataclasses

import pytest
import torch
from torch import nn

from nearly.core.domain import Box
from nearly.core.errors import BadInput
from nearly.core.nouns import Field, Function, Matrix, Measure, Network
from nearly.fields import FourierNeuralOperator, KernelRegression, PODRegression, ReducedBasis
from nearly.functions import GaussianProcess, PolynomialLeastSquares, SparsePolynomial
from nearly.linalg.scaling import row_norms
from nearly.matrices import RandomizedSVD, TruncatedSVD
from nearly.measures import KMeansCoreset
from nearly.networks import FisherWeightedLayers, KroneckerWeightedLayers, TruncatedLayers, WhitenedLayers
from nearly.problems import thermal_block
from nearly.problems._finite_elements import affine_solver

KIND = torch.float64
SIZES = (1e-200, 1e200)
BY_DATA = (WhitenedLayers, FisherWeightedLayers, KroneckerWeightedLayers)


def draw(*shape, seed=0, dtype=KIND):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def smooth(x):
    return torch.stack([torch.sin(2 * x[:, 0]) + x[:, -1] ** 2 + 2, torch.exp(-x[:, 0] * x[:, -1])], dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "method",
    [
        PolynomialLeastSquares(samples=40),
        SparsePolynomial(samples=30, degree=5),
        GaussianProcess(samples=20),
        KernelRegression(samples=40),
    ],
    ids=lambda method: type(method).__name__,
)
def test_functions_of_any_size_are_fitted_alike(method, size):
    box = Box([0.0, 0.0], [1.0, 1.0])
    x = box.sample(10, 1)
    plain = method.fit(Function(smooth, box))(x)
    scaled = method.fit(Function(lambda t: size * smooth(t), box))(x)
    assert torch.allclose(scaled / size, plain, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "method",
    [PODRegression(samples=40), FourierNeuralOperator(samples=20, epochs=2, width=4, layers=1)],
    ids=lambda method: type(method).__name__,
)
def test_fields_of_any_size_are_fitted_alike(method, size):
    x, a = draw(110, 8), draw(110, 8, seed=1)
    y = torch.tanh(x) + 0.1 * a
    plain = method.fit(Field.from_data(x, y)).model(x[:5])
    if isinstance(method, FourierNeuralOperator):
        x = x * size
    scaled = method.fit(Field.from_data(x, size * y)).model(x[:5])
    assert torch.allclose(scaled / size, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_errors_are_measured_at_any_size(size):
    y, p = draw(4, 6), draw(4, 6, seed=1)
    expected = (y - p).norm(dim=1) / y.norm(dim=1)
    box = Box([0.0], [1.0])
    weights = torch.full((6,), 0.5, dtype=KIND)
    targets = [
        Function(torch.sin, box, metric="relative"),
        Field(torch.sin, box),
        Field(torch.sin, box, product=weights),
        Matrix(torch.eye(6, dtype=KIND)),
        Network(nn.Linear(3, 6).double(), draw(100, 3)),
    ]
    for target in targets:
        assert torch.allclose(target.error(size * y, size * p), expected, rtol=1e-12), target.noun
    spread = [Function(lambda x, s=s: s * torch.sin(x), box).spread for s in (1.0, size)]
    assert spread[1] / size == pytest.approx(spread[0], rel=1e-12)
    x = torch.linspace(0, 1, 200, dtype=KIND)[:, None]
    assert Field.from_data(x, size * x).rows is not None
    assert torch.allclose(row_norms(size * y) / size, y.norm(dim=1))
    assert row_norms(y[:, :0]).tolist() == [0.0] * 4


@pytest.mark.parametrize("size", [1.0, *SIZES, 1e300])
@pytest.mark.parametrize("method", [TruncatedSVD(rank=4), RandomizedSVD(rank=4), TruncatedSVD(rank=20)])
def test_bounds_hold_for_matrices_of_any_size(method, size):
    q, _ = torch.linalg.qr(draw(20, 20))
    matrix = (q * 0.5 ** torch.arange(20, dtype=KIND)) @ q.T
    surrogate, x = method.fit(Matrix(size * matrix)), draw(30, 20, seed=1)
    error = (x @ matrix.T - surrogate(x) / size).norm(dim=1) / (x @ matrix.T).norm(dim=1)
    bound = surrogate.bound(x)
    assert bool((bound >= error).all())
    assert bool((bound <= method.fit(Matrix(matrix)).bound(x) * 1.01).all())
    assert torch.allclose(surrogate.bound(1e-150 * x), bound, rtol=1e-6)


@pytest.mark.parametrize("method", [PolynomialLeastSquares(samples=80), PODRegression(samples=80)])
@pytest.mark.parametrize("case", ["constant", "repeated"])
def test_inputs_that_add_nothing_do_no_harm(method, case):
    x = torch.rand(200, 1, dtype=KIND, generator=torch.Generator().manual_seed(0))
    both = torch.cat([x, torch.full_like(x, 7.0) if case == "constant" else 2 * x], dim=1)
    target = (Field if isinstance(method, PODRegression) else Function).from_data(both, smooth(x))
    assert bool((method.fit(target).model(both) - smooth(x)).abs().max() < 1e-5)


def test_weights_of_any_size_make_the_same_measure():
    samples, weights = draw(50, 2), 1.1 + torch.sin(torch.arange(50, dtype=KIND))
    plain = KMeansCoreset(size=5).fit(Measure(samples, weights=weights)).model
    large = KMeansCoreset(size=5).fit(Measure(samples, weights=weights * 8e307)).model
    assert torch.allclose(plain.weights, large.weights)


class Called(nn.Module):
    """Two layers, called by keyword and with rows one by one, on demand."""

    def __init__(self, keyword=False, single=False):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)
        self.keyword, self.single = keyword, single

    def forward(self, x):
        if self.single:
            return torch.stack([self.second(torch.tanh(self.first(row))) for row in x])
        first = self.first(input=x) if self.keyword else self.first(x)
        return self.second(torch.tanh(first))


@pytest.mark.parametrize("method", BY_DATA)
def test_layers_may_be_called_by_keyword_and_on_single_rows(method):
    plain, data = Called(), draw(120, 6, dtype=torch.float32)
    expected = method(percent=60).fit(Network(plain, data)).model(data)
    for options in ({"keyword": True}, {"single": True}):
        module = Called(**options)
        module.load_state_dict(plain.state_dict())
        found = method(percent=60).fit(Network(module, data)).model(data)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4), options


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("method", BY_DATA)
def test_networks_in_other_units_are_compressed_alike(method, size):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    data = draw(150, 8, dtype=torch.float32) * torch.logspace(0, -2, 8)
    plain = method(percent=50).fit(Network(module, data)).model
    scaled = method(percent=50).fit(Network(module, data * size)).model
    assert scaled.ranks == plain.ranks
    assert torch.allclose(scaled(data), plain(data), rtol=1e-2, atol=1e-3)


def test_an_offset_of_the_inputs_is_taken_up_by_the_bias():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)).double()
    data = draw(200, 8) * torch.logspace(0, -3, 8, dtype=KIND)
    with torch.no_grad():
        answers = []
        for offset in (0.0, 1e8):
            module[0].bias.sub_(offset * module[0].weight.sum(dim=1))
            model = WhitenedLayers(percent=50).fit(Network(module, data + offset)).model
            answers.append(model(data + offset) - module(data + offset))
    before, after = (answer.norm() for answer in answers)
    assert float(after) < 1.1 * float(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_are_compressed(dtype):
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)
    data = draw(150, 8, dtype=torch.float32)
    surrogate = TruncatedLayers(percent=100).fit(Network(module, data))
    assert surrogate(surrogate.domain.example().to(dtype)).dtype == dtype


def test_a_network_leaves_training_flags_as_they_were():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    module[1].eval()
    Network(module, draw(120, 4))
    assert [part.training for part in module] == [True, False, True]


def test_a_network_of_several_outputs_is_refused_by_name():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(BadInput, match="module must be one that returns a tensor"):
        Network(Pair(), draw(120, 4))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_bounds_in_single_precision_are_none_rather_than_false(scale):
    block = thermal_block((2, 1), cells=8)
    system = dataclasses.replace(block.system, loads=scale * block.system.loads)
    target = Field(affine_solver(system), block.domain, product=system.product, system=system)
    surrogate = ReducedBasis(rank=4).fit(target, seed=0)
    inputs = target.sample(20, 1)
    errors = target.error(target(inputs), surrogate(inputs))
    assert (surrogate.bound(inputs) >= errors).all()
    single = surrogate.float().bound(inputs)
    assert (single >= errors).all()
    assert single.isinf().all() == (scale != 1.0)
