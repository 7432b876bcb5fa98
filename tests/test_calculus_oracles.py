"""Derivatives against oracles computed another way: nested differentiation, closed forms, dense matrices."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional

from nearly.calculus import (
    DifferentialOperator,
    derivatives,
    fisher,
    fixed_point,
    gauss_newton,
    hessian,
    line,
    minimum,
    roots,
)
from nearly.core.errors import BadInput

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
DOUBLE, COMPLEX = torch.float64, torch.complex128
GENERATOR = torch.Generator().manual_seed(0)
X, V, OTHER = (torch.randn(3, 4, dtype=DOUBLE, generator=GENERATOR) for _ in range(3))
IMAGE = torch.randn(2, 3, 5, dtype=DOUBLE, generator=GENERATOR)


def nested(function, x, v, order):
    """Derivatives along a line, by forward differentiation of forward differentiation."""

    def slope(inner):
        return lambda t: torch.func.jvp(inner, (t,), (torch.ones_like(t),))[1]

    functions = [lambda t: function(x + t * v)]
    for _ in range(order):
        functions.append(slope(functions[-1]))
    return torch.stack([inner(torch.zeros((), dtype=DOUBLE)) for inner in functions])


FUNCTIONS = {
    "product": lambda x: x * torch.exp(x) / (x * x + 1),
    "matrix product": lambda x: torch.tanh(x @ x.T),
    "solution": lambda x: torch.linalg.inv(x @ x.T + torch.eye(3, dtype=DOUBLE)),
    "clamp by a larger tensor": lambda x: torch.clamp(x[0], OTHER - 0.5, OTHER + 1) ** 2,
    "clamp by jets": lambda x: torch.clamp(x, min=x**2, max=x + 1) ** 2,
    "bias alone": lambda x: functional.linear(OTHER, OTHER, x[0, :3] ** 2) + functional.linear(x, OTHER, x[0, :3]),
    "convolution's bias alone": lambda x: functional.conv1d(IMAGE, IMAGE[:, :, :2], x[0, :2] ** 2),
    "columns": lambda x: torch.column_stack([x[:, 0] ** 2, OTHER, x]),
    "norm of torch": lambda x: torch.norm(x, p=3, dim=1),
    "named argument": lambda x: torch.sum(input=x**2, dim=0),
    "complex magnitude": lambda x: torch.fft.fft(x).abs() + abs(x + 1j),
    "complex solution": lambda x: torch.linalg.solve(x @ x.T + 1j * torch.eye(3, dtype=COMPLEX), (x + 1j)).real,
    "complex power": lambda x: ((x + 1j) ** (1 + 2j)).imag,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("directions", [1, 2])
def test_jets_are_nested_derivatives_and_their_weighted_sums(name, directions):
    # Of higher orders torch's own nested derivatives of solutions are wrong.
    function, order = FUNCTIONS[name], 1 if name.endswith("solution") else 3
    each, weights = torch.stack([V, OTHER])[:directions], torch.tensor([-2.5, 3.0], dtype=DOUBLE)[:directions]
    expected = torch.stack([nested(function, X, v, order) for v in each], 1)
    torch.testing.assert_close(derivatives(function, X, each, order=order), expected)
    for k in range(1, order + 1):
        summed = function(line(X, each, order=k, weights=weights)).derivative(k)
        torch.testing.assert_close(summed[0], torch.tensordot(weights, expected[k], 1))


def test_operators_of_one_line_have_their_coefficient():
    x = torch.linspace(0.1, 1, 5, dtype=DOUBLE)[:, None]
    found = DifferentialOperator({(0, 0): 0.5, (0,): 2.0})(lambda x: torch.sin(3 * x).sum(-1), x)
    expected = -4.5 * torch.sin(3 * x[:, 0]) + 6 * torch.cos(3 * x[:, 0])
    torch.testing.assert_close(found, expected)


def test_inverse_hyperbolic_cosine_left_of_its_cut():
    z = torch.tensor([-1.2 + 0.7j, -3 - 2j, 0.5 + 0.1j], dtype=COMPLEX)
    found = derivatives(torch.acosh, z, torch.ones(1, 3, dtype=COMPLEX), order=2)[:, 0]
    slope = 1 / (torch.sqrt(z - 1) * torch.sqrt(z + 1))
    torch.testing.assert_close(found, torch.stack([torch.acosh(z), slope, -z * slope / (z * z - 1)]))


@pytest.mark.parametrize("function", [torch.asin, torch.acos, torch.atanh])
def test_digits_are_kept_beside_branch_points(function):
    away = torch.tensor(2.0**-40, dtype=DOUBLE)  # of 1, and 2 - away of -1
    slope = derivatives(function, 1 - away, torch.ones(1, dtype=DOUBLE), order=1)[1, 0].abs()
    power = 1.0 if function is torch.atanh else 0.5
    torch.testing.assert_close(slope, (away * (2 - away)) ** -power, rtol=1e-15, atol=0)


def test_powers_of_large_integers():
    x = torch.tensor([1.1], dtype=DOUBLE)
    found = derivatives(lambda x: x ** torch.tensor([101]), x, torch.ones(1, 1, dtype=DOUBLE), order=8)[8].item()
    assert found == pytest.approx(math.perm(101, 8) * 1.1**93, rel=1e-14)


@pytest.mark.parametrize(
    "function", [torch.linalg.norm, lambda x: x.norm(p=3), lambda x: x.std(), lambda x: abs(1j * x)]
)
def test_at_roots_of_zero_the_derivative_is_torchs(function):
    assert not derivatives(function, 0 * X, V[None], order=2).any()


def test_numbers_in_double_precision_promote_no_jets():
    x, two = X.float(), torch.tensor(2.0, dtype=DOUBLE)
    for function in (lambda x: two - x * two, lambda x: two / x, lambda x: torch.where(x > 0, x, two)):
        image = functional.linear(function(line(x, V[None].float(), order=2)), x)
        assert {part.dtype for part in image.parts} == {torch.float32}
        torch.testing.assert_close(image.value, functional.linear(function(x), x))


def test_what_jets_refuse_by_name():
    x = line(X, V[None], order=2)
    for refused in (
        lambda: torch.mul(x, x, out=torch.empty(3, 4, dtype=DOUBLE)),
        lambda: torch.matmul(x, other=OTHER.T),
        lambda: x.__setitem__(0, 1.0),
        lambda: x % 2,
        lambda: functional.scaled_dot_product_attention(x, x, x, enable_gqa=True),
    ):
        with pytest.raises(BadInput, match="function must be"):
            refused()
    product = np.full((3, 1), 2.0) * x
    torch.testing.assert_close(product.derivative(1)[0], 2 * V)


def dense_hessian(loss, parameters):
    slopes = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    rows = [
        torch.autograd.grad(slope, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for slope in torch.cat([slope.flatten() for slope in slopes])
        if slope.requires_grad
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_hessians_through_operations_without_rules_for_batches(rows, groups):
    """Torch's for second derivatives of `group_norm` raise, or are wrong."""
    scale, shift = (torch.randn(4, dtype=DOUBLE, generator=GENERATOR).requires_grad_() for _ in range(2))
    images = torch.randn(rows, 4, 3, dtype=DOUBLE, generator=GENERATOR)

    def loss():
        return functional.group_norm(images * (1 + shift[:, None]), groups, scale, shift).sin().sum()

    expected = dense_hessian(loss, [scale, shift])
    torch.testing.assert_close(hessian(loss, [scale, shift]) @ torch.eye(8, dtype=DOUBLE), expected)


def test_hessians_through_weight_norm_are_refused_where_torch_has_them_wrong():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)).double()
    parameters, rows = list(layer.parameters()), OTHER[:, :3]
    with pytest.raises(BadInput, match="weight_norm"):
        hessian(lambda: layer(rows).sin().sum(), parameters) @ torch.ones(10, dtype=DOUBLE)
    matrix = gauss_newton(layer, lambda y: y.square().sum() / 2, parameters, [(rows,)]) @ torch.eye(10, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian
    names = [name for name, _ in layer.named_parameters()]

    def outputs(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (rows,)).flatten()

    slopes = torch.cat([part.flatten(1) for part in jacobian(outputs, tuple(parameters))], dim=1)
    torch.testing.assert_close(matrix, slopes.T @ slopes)


def test_curvature_for_parameters_that_are_not_used():
    w, idle = torch.ones(3, dtype=DOUBLE, requires_grad=True), torch.ones(2, dtype=DOUBLE, requires_grad=True)
    rows, eye = [(OTHER[:, :3],)], torch.eye(5, dtype=DOUBLE)
    expected = torch.block_diag(OTHER[:, :3].T @ OTHER[:, :3], torch.zeros(2, 2, dtype=DOUBLE))
    found = {
        "hessian": hessian(lambda x: (x @ w).square().sum() / 2, [w, idle], rows),
        "gauss_newton": gauss_newton(lambda x: x @ w, lambda y: y.square().sum() / 2, [w, idle], rows),
        "fisher": fisher(lambda x: (x @ w)[:, None], [w, idle], rows, likelihood="gaussian", reduction="sum"),
    }
    for matrix in found.values():
        torch.testing.assert_close(matrix @ eye, expected)
    for matrix in (
        lambda: hessian(lambda x: (x @ w).sum(), [idle], rows) @ torch.ones(2),
        lambda: gauss_newton(lambda x: x @ w, lambda y: y.square().sum(), [1 * w], rows) @ torch.ones(3),
        lambda: hessian(lambda: w.square().sum(), [w, w]),
    ):
        with pytest.raises(BadInput, match=r"depend|different"):
            matrix()


@pytest.mark.parametrize(
    "solution",
    [
        lambda p: roots(lambda x, p: x**3 + x - p, torch.zeros(2, dtype=DOUBLE), p).value,
        lambda p: minimum(lambda x, p: (x - p).square().sum(-1), torch.zeros(2, dtype=DOUBLE), p).value,
        lambda p: fixed_point(lambda x, p: 0.5 * torch.sin(x) + p, torch.zeros(2, dtype=DOUBLE), p).value,
    ],
)
def test_tangents_of_implicit_solutions_are_refused_and_not_lost(solution):
    """Forward derivatives pass through `torch.no_grad`, and were zero."""
    p = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    with pytest.raises(NotImplementedError, match="jvp"), forward_ad.dual_level():
        solution(forward_ad.make_dual(p, torch.ones_like(p)))
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.jvp(solution, (p,), (torch.ones_like(p),))
