"""Derivatives under legal but unusual use: work in place, tied options, shared randomness, integer and complex vectors."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nearly.calculus import (
    BrownianTree,
    DifferentialOperator,
    InverseFisher,
    counted_normals,
    derivatives,
    fisher,
    fixed_point,
    gauss_newton,
    hessian,
    integrate,
    integrate_sde,
    integrate_tase,
    jacobian_frobenius,
    jacobian_frobenius_estimate,
    laplacian,
    line,
    philox,
    refinement_loss,
    roots,
    sensitivities,
)
from nearly.core.errors import BadInput

DOUBLE = torch.float64
BILINEAR = nn.Bilinear(4, 4, 5).double()


def nested(function, x, v):
    """The value and two derivatives along a line, by nested differentiation."""
    t = torch.zeros((), dtype=x.dtype, requires_grad=True)
    found = []
    for one in function(x + t * v).flatten():
        row = [one + 0 * t]
        for _ in range(2):
            row[-1] = row[-1] + 0 * t
            row += torch.autograd.grad(row[-1], t, create_graph=True, materialize_grads=True, allow_unused=True)
        found.append(torch.stack(row))
    return torch.stack(found, 1).detach()


def in_place(activation):
    def function(x):
        hidden = 2 * x
        return activation(hidden) + hidden * hidden

    return function


def added_in_place(x):
    hidden = alias = 2 * x
    alias += 1
    alias *= x
    return hidden * alias


def truth(x):
    return x if x.flatten()[:1] * 0 else -x


LEGAL = {
    "relu in place": in_place(lambda h: functional.relu(h, inplace=True)),
    "mish in place": in_place(nn.Mish(inplace=True)),
    "silu in place": in_place(nn.SiLU(inplace=True)),
    "sums in place": added_in_place,
    "truth value": truth,
    "pad by a value": lambda x: functional.pad(x, (1, 1), value=2.0) * x.sum(),
    "diff behind a constant": lambda x: torch.diff(x * x, prepend=torch.ones(3, 1, dtype=DOUBLE)),
    "bilinear of two": lambda x: BILINEAR(x, x),
    "bilinear of one": lambda x: BILINEAR(torch.ones(3, 4, dtype=DOUBLE), x),
    "over integers": lambda x: x / torch.tensor([3, 7, 9, 11]),
    "over an integer": lambda x: (x * x).sum(0) / torch.tensor(3),
    "power of integers": lambda x: torch.tensor([3, 5, 7, 9]) ** x,
    "vector norm of a matrix": lambda x: torch.linalg.vector_norm(x, ord=3),
    "norm along a dimension": lambda x: torch.linalg.norm(x, ord=3, dim=1),
    "softplus with a threshold": lambda x: functional.softplus(x, threshold=0.0),
    "variance without dimensions": lambda x: x.var(False),
    "named maxima": lambda x: x.max(1).values * x.sort(dim=1, stable=True).values[:, 0],
    "sum without NaN": lambda x: torch.log(x).nansum(),
    "softmax without a dimension": lambda x: nn.Softmax()(x),
    "two arrays of indices": lambda x: (x[None] ** 2)[torch.tensor([0, 0]).numpy(), :, torch.tensor([1, 2]).numpy()],
    "image to columns": lambda x: functional.unfold(x[None, None] ** 2, 2),
}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", LEGAL)
def test_jets_are_nested_derivatives(name):
    generator = torch.Generator().manual_seed(1)
    x, v = (torch.randn(3, 4, dtype=DOUBLE, generator=generator) for _ in range(2))
    found = derivatives(LEGAL[name], x, v[None], order=2)[:, 0].detach()
    torch.testing.assert_close(found.reshape(3, -1), nested(LEGAL[name], x, v), rtol=1e-12, atol=1e-12)


def test_jets_of_complex_numbers():
    x = line(torch.tensor([1.0, 2.0], dtype=DOUBLE), torch.tensor([[3.0, -1.0]], dtype=DOUBLE), order=2)
    for turned, plain in (((1 + 2j) * x).norm(), math.sqrt(5) * x.norm()), ((x * (1 + 2j)).var(), 5 * x.var()):
        for k in range(3):
            torch.testing.assert_close(turned.derivative(k), plain.derivative(k))


def test_at_a_tie_the_derivative_is_torchs():
    zero = torch.zeros(2, 2, dtype=DOUBLE)
    for function in (lambda x: torch.maximum(x, 0 * x), torch.max, lambda x: torch.minimum(x, 3 * x)):
        v = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=DOUBLE)
        point = zero.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point)
        assert derivatives(function, zero, v[None], order=1)[1].sum() == (slope * v).sum()
    assert derivatives(lambda x: torch.maximum(x * math.nan, zero), zero, zero[None], order=1)[0].isnan().all()


def test_jets_tell_what_they_cannot():
    x = torch.ones(2, 2)
    for function in (
        lambda x: torch.linalg.norm(x, 2),
        lambda x: functional.mse_loss(x, x, weight=torch.ones(2, 2)),
        lambda x: laplacian(lambda y: y.sum(-1))(x),
        lambda x: functional.relu(x[:1], inplace=True).__iadd__(x),
    ):
        with pytest.raises(BadInput):
            function(line(x, x[None], order=2))
    for operator in (laplacian, DifferentialOperator({(0, 0): 1.0})):
        with pytest.raises(BadInput, match="one tensor"):
            operator(lambda x: (x, x))(x) if operator is laplacian else operator(lambda x: {"a": x}, x)


def test_estimates_of_operators_without_lines():
    x = torch.rand(3, 2, dtype=DOUBLE)
    for terms, scale in (({(): 2.0}, 2.0), ({(0,): 0.0}, 0.0)):
        found = DifferentialOperator(terms).estimate(lambda x: x.sum(-1), x, samples=2)
        assert torch.equal(found.value, scale * x.sum(-1))
        assert torch.equal(found.error, torch.zeros_like(found.value))


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "fisher", "inverse"])
def test_products_with_integers_and_complex_vectors(kind):
    p = torch.tensor([1.0, 0.3, 2.5], dtype=DOUBLE, requires_grad=True)
    rows = [(torch.rand(4, 3, dtype=DOUBLE),)]
    matrix = {
        "hessian": lambda: hessian(lambda: (p.cumsum(0) ** 4).sum(), [p]),
        "gauss_newton": lambda: gauss_newton(lambda x: torch.tanh(x * p), lambda y: (y**2).mean(), [p], rows),
        "fisher": lambda: fisher(lambda x: x * p, [p], rows),
        "inverse": lambda: InverseFisher.from_gradients(rows[0][0], damping=0.1),
    }[kind]()
    dense = matrix @ torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(matrix @ torch.tensor([1, 0, 2]), dense[:, 0] + 2 * dense[:, 2])
    turned = torch.tensor([1j, 0, 2], dtype=torch.complex128)
    torch.testing.assert_close(matrix @ turned, dense.to(turned) @ turned)
    assert (matrix @ torch.ones(3)).dtype == torch.float32


@pytest.mark.parametrize("keep_graph", [False, True])
def test_dropout_is_the_same_in_all_products(keep_graph):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    x, eye = torch.randn(16, 3, dtype=DOUBLE), torch.eye(41, dtype=DOUBLE)
    state = torch.get_rng_state()
    for matrix in (
        hessian(lambda x: model(x).square().mean(), model.parameters(), [(x,), (x,)], keep_graph=keep_graph),
        gauss_newton(model, lambda y: y.square().mean(), model.parameters(), [(x,)], keep_graph=keep_graph),
    ):
        dense = torch.stack([matrix @ row for row in eye])
        torch.testing.assert_close(dense, dense.mT)
        assert torch.equal(matrix @ eye[0], dense[0])
    assert torch.equal(state, torch.get_rng_state())


def test_noise_of_penalties_is_not_that_of_dropout():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.5)).double(), torch.randn(50, 2, dtype=DOUBLE)
    exact = 2 * model[0].weight.square().sum()  # in the mean: entries are kept by half, and doubled
    assert 0.5 * exact < jacobian_frobenius_estimate(model, x, samples=4).mean() < 2 * exact
    for penalty in (jacobian_frobenius, jacobian_frobenius_estimate):
        with pytest.raises(BadInput, match="real"):
            penalty(lambda x: 1j * x, x)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 3 * gradient * context.saved_tensors[0] ** 2


def test_functions_without_second_derivatives_are_told():
    p, rows = torch.ones(2, requires_grad=True), [(torch.ones(2),)]
    for found in (
        lambda: hessian(lambda: Cube.apply(p).sum(), [p]) @ torch.ones(2),
        lambda: gauss_newton(lambda x: Cube.apply(p * x), lambda y: (y**2).sum(), [p], rows) @ torch.ones(2),
        lambda: gauss_newton(lambda x: p * x, lambda y: Cube.apply(y).sum(), [p], rows) @ torch.ones(2),
        lambda: sensitivities(Cube.apply, torch.ones(2)),
    ):
        with pytest.raises(BadInput, match="second derivatives"):
            found()


def test_what_differentiates_inside_does_so_without_gradients_too():
    x = torch.rand(5, 2, dtype=DOUBLE)
    field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    slope = laplacian(lambda x: x.sum(-1))(x)[:, None] + torch.func.vmap(torch.func.grad(lambda x: field(x)[0]))(x)
    with torch.no_grad():
        assert torch.equal(sensitivities(lambda p: p * p, torch.ones(2)), 2 * torch.eye(2))
        for value in (field(x), field(x)[:, 0]):
            assert refinement_loss(field, x, value=value, gradient=slope) < 1e-25
        for shapes in ({"value": field(x).T, "gradient": slope}, {"value": field(x), "gradient": slope[:, :1]}):
            with pytest.raises(BadInput, match="shape"):
                refinement_loss(field, x, **shapes)


def test_fields_and_maps_that_work_in_place_are_told():
    kept = torch.zeros(2, dtype=DOUBLE)
    working = {
        "state": lambda y: y.mul_(-1.0),
        "state behind a view": lambda y: y.view(-1).neg_() * 1,
        "value": lambda y: kept.copy_(y).neg_(),
        "output": lambda y: torch.neg(y, out=kept),
    }
    for function in working.values():
        for call in (
            lambda f: integrate(lambda t, y: f(y), torch.ones(2, dtype=DOUBLE), [0.0, 1.0]),
            lambda f: integrate_tase(lambda t, y: f(y), torch.ones(2, dtype=DOUBLE), [0.0, 1.0]),
            lambda f: roots(f, torch.ones(2, dtype=DOUBLE)),
            lambda f: fixed_point(f, torch.ones(2, dtype=DOUBLE)),
        ):
            with pytest.raises(BadInput, match="in place"):
                call(function)
    tree = BrownianTree(torch.arange(3), 0.0, 1.0, shape=(1,))
    with pytest.raises(BadInput, match="in place"):
        integrate_sde(lambda y, h, w: y.mul_(torch.exp(-h)), torch.ones(3, 1), tree)
    with torch.inference_mode():  # whose tensors count no changes
        found = integrate(lambda t, y: -y, torch.ones(2, dtype=DOUBLE), [0.0, 1.0]).value.states[-1]
    assert (found - math.exp(-1)).abs().max() < 1e-6


def test_counted_numbers_of_short_integers():
    words = [torch.tensor(n) for n in (5, 0, 0, 9, 1, 2)]
    short = [word.int() for word in words]
    assert philox(tuple(short[:4]), tuple(short[4:])) == philox(tuple(words[:4]), tuple(words[4:]))
    assert counted_normals(*short[:3], DOUBLE) == counted_normals(*words[:3], DOUBLE)
