"""Newton-type members against their papers' algorithms, step by step, with Hessians written down by hand."""

import math

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.optim import GradientRegularizedNewton, LazyNewton, PolynomialPreconditioning, StepsizedNewton
from nearly.optim.newton._newton import damped_factor
from nearly.optim.newton.polynomial_preconditioning import symmetric_sums

DRAW = torch.Generator().manual_seed(0)
ROWS = torch.randn(30, 4, dtype=torch.float64, generator=DRAW)
START = 4 * torch.randn(4, dtype=torch.float64, generator=DRAW)
EYE = torch.eye(4, dtype=torch.float64)


def loss(x):
    return nn.functional.softplus(ROWS @ x).mean() + 0.05 * x @ x


def slopes(x):
    chance = torch.sigmoid(ROWS @ x)
    return ROWS.T @ chance / 30 + 0.1 * x, (ROWS * (chance * (1 - chance))[:, None]).T @ ROWS / 30 + 0.1 * EYE


def trained(member, steps, f=loss, **settings):
    """The parameters after each step, in two tensors as the members see them."""
    parts = [nn.Parameter(START[:1].clone()), nn.Parameter(START[1:].clone().reshape(3, 1))]
    optimizer, found = member(parts, **settings), []
    for _ in range(steps):
        optimizer.step(lambda: f(torch.cat([part.flatten() for part in parts])))
        found.append(torch.cat([part.detach().flatten() for part in parts]))
    return found


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("order", [3.0, 4.0])
def test_explicit_step_sizes(order):
    x, found = START.clone(), []
    for _ in range(5):
        g, hessian = slopes(x)
        n = torch.linalg.solve(hessian, g)
        decrement = math.sqrt(float(g @ n))
        theta = (9 * 0.3) ** (1 / (order - 1)) * decrement ** ((order - 2) / (order - 1))
        x = x - n / (1 + theta)
        found.append(x)
    same(trained(StepsizedNewton, 5, constant=0.3, exponent=(order - 2) / (order - 1)), found)


def test_backtracked_step_sizes():
    x, sigma, found, trials = START.clone(), 1.0, [], []
    for _ in range(6):
        g, hessian = slopes(x)
        n = torch.linalg.solve(hessian, g)
        decrement = math.sqrt(float(g @ n))
        for j in range(100):
            theta = 3.0**j * sigma * decrement ** (2 / 3)
            alpha = 1 / (1 + theta)
            there = slopes(x - alpha * n)[0]
            if there @ n >= there @ torch.linalg.solve(hessian, there) / (2 * alpha * theta):
                break
        sigma *= 3.0 ** (j - 1)
        trials.append(j)
        x = x - alpha * n
        found.append(x)
    assert max(trials) > 0
    same(trained(StepsizedNewton, 6, growth=3.0), found)


def test_factor_of_an_indefinite_matrix_lies_as_far_above_zero():
    matrix = torch.diag(torch.tensor([-2.0, 0.0, 1.0, 5.0], dtype=torch.float64))
    factor = damped_factor(matrix, 0.5)
    assert float(torch.linalg.eigvalsh(factor @ factor.T)[0]) == pytest.approx(1.5, rel=1e-6)
    semidefinite = damped_factor(torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)), 0.0)
    torch.testing.assert_close(
        semidefinite @ semidefinite.T, torch.diag(torch.tensor([0.0, 1.0]).double()), atol=2e-8, rtol=0
    )


@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_lazy_newton(kind):
    x, found, constant = START.clone(), [], 0.7
    for k in range(7):
        g, fresh = slopes(x)
        if k % 3 == 0:
            hessian = fresh
        shift = torch.sqrt(constant * g.norm())
        if kind == "cubic":
            length = 1.0
            for _ in range(500):
                length = 0.5 * length + 0.5 * float(torch.linalg.solve(hessian + constant / 2 * length * EYE, g).norm())
            shift = constant / 2 * length
        x = x - torch.linalg.solve(hessian + shift * EYE, g)
        found.append(x)
    same(trained(LazyNewton, 7, constant=constant, every=3, regularization=kind), found)


def test_cubic_step_minimizes_its_model_where_the_hessian_is_indefinite():
    matrix = torch.diag(torch.tensor([-1.0, 0.5, 2.0, 3.0], dtype=torch.float64))

    def saddle(x):
        return x @ matrix @ x / 2 + (x**3).sum() / 6

    h = trained(LazyNewton, 1, f=saddle, constant=2.0, regularization="cubic")[0] - START
    g, hessian = matrix @ START + START**2 / 2, matrix + torch.diag(START)
    torch.testing.assert_close((hessian + h.norm() * EYE) @ h, -g)
    assert float(torch.linalg.eigvalsh(hessian)[0]) < 0
    assert float(torch.linalg.eigvalsh(hessian + h.norm() * EYE)[0]) >= 0


def test_lazy_newton_builds_no_graph_between_refreshes():
    x, called = nn.Parameter(START.clone()), []

    def closure():
        value = loss(x)
        if len(called) % 3:
            value.backward()
        called.append(None)
        return value

    optimizer = LazyNewton([x], every=3)
    for _ in range(6):
        optimizer.step(closure)
    with pytest.raises(BadInput, match=r"does not call backward"):
        LazyNewton([x], every=3).step(lambda: loss(x).backward() or loss(x))


@pytest.mark.parametrize("start", [1.0, 1e4])
def test_gradient_regularized_newton(start):
    x, gamma, found, halvings = START.clone(), start, [], 0
    for _ in range(6):
        g, hessian = slopes(x)
        while True:
            lam = g.norm() / gamma
            after = x - torch.linalg.solve(hessian + lam * EYE, g)
            if loss(x) - loss(after) >= slopes(after)[0].square().sum() / (8 * lam):
                break
            gamma /= 2
            halvings += 1
        gamma, x = 2 * gamma, after
        found.append(x)
    assert halvings > 0 or start == 1.0
    same(trained(GradientRegularizedNewton, 6, start=start), found)


@pytest.mark.parametrize("maximize", [False, True])
def test_gauss_newton_is_of_the_outputs(maximize):
    targets, sign = torch.linspace(-1, 1, 30, dtype=torch.float64), -1.0 if maximize else 1.0
    x = nn.Parameter(START / 10)
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def outputs(y):
        return torch.tanh(ROWS @ y)

    def fit(z):
        return (z - targets).square().mean() + 0.0 * unused.sum()

    optimizer = GradientRegularizedNewton([x, unused], curvature="gauss-newton", start=0.5, maximize=maximize)
    before = x.detach().clone()
    optimizer.step(lambda: (outputs(x), lambda z: sign * fit(z)))
    jacobian = torch.func.jacrev(outputs)(before)
    g = jacobian.T @ (2 * (outputs(before) - targets)) / 30
    matrix, gamma = 2 * jacobian.T @ jacobian / 30, 0.5
    while True:
        lam = g.norm() / gamma
        after = before - torch.linalg.solve(matrix + lam * EYE, g)
        slope = torch.func.grad(lambda y: fit(outputs(y)))(after)
        if fit(outputs(before)) - fit(outputs(after)) >= slope.square().sum() / (8 * lam):
            break
        gamma /= 2
    torch.testing.assert_close(x.detach(), after)
    assert bool((unused == 1).all())


@pytest.mark.parametrize("bad", [1.0, torch.ones(2), (torch.ones(2), 3)])
def test_gauss_newton_asks_for_outputs_and_a_function(bad):
    optimizer = GradientRegularizedNewton([nn.Parameter(torch.ones(2))], curvature="gauss-newton")
    with pytest.raises(BadInput, match=r"return outputs, lambda outputs"):
        optimizer.step(lambda: bad)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_krylov_step_minimizes_the_model_in_its_subspace(degree):
    g, hessian = slopes(START)
    krylov = torch.stack([torch.linalg.matrix_power(hessian, k) @ g for k in range(degree + 1)], 1)
    best = krylov @ torch.linalg.solve(krylov.T @ hessian @ krylov, krylov.T @ g)
    torch.testing.assert_close(trained(PolynomialPreconditioning, 1, degree=degree)[0], START - best)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_symmetric_polynomial_is_that_of_the_traces(degree):
    """By the paper's first definition: P = sum over i of (-B)^i sigma_{degree - i}, sigma from the characteristic polynomial."""
    x, found = START.clone(), []
    for _ in range(3):
        g, hessian = slopes(x)
        sums, powers = [1.0], [float(torch.linalg.matrix_power(hessian, k).trace()) for k in range(1, degree + 1)]
        for k in range(1, degree + 1):
            sums.append(sum((-1) ** (i - 1) * sums[k - i] * powers[i - 1] for i in range(1, k + 1)) / k)
        direction = sum(sums[degree - i] * torch.linalg.matrix_power(-hessian, i) @ g for i in range(degree + 1))
        x = x - (g @ direction) / (direction @ hessian @ direction) * direction
        found.append(x)
    same(trained(PolynomialPreconditioning, 3, degree=degree, polynomial="symmetric", every=1), found)


def test_symmetric_sums_of_spread_values_are_exact():
    values = torch.tensor([1e-8, 1.0, 2.0, 1e8, 3e8], dtype=torch.float64)
    wanted = torch.tensor([4e8 + 3.0, 3e16 + 12e8, 9e16, 6e16, 6e8], dtype=torch.float64)
    torch.testing.assert_close(symmetric_sums(values, 5), wanted, rtol=1e-6, atol=0)
    assert symmetric_sums(values, 7)[5:].tolist() == [0.0, 0.0]


def test_krylov_steps_beyond_the_space_are_newtons():
    g, hessian = slopes(START)
    found = trained(PolynomialPreconditioning, 1, degree=20)[0]
    torch.testing.assert_close(found, START - torch.linalg.solve(hessian, g))
