"""Calculus on another device gives what it gives on the host, there, and mixes nothing of both."""

from functools import partial

import pytest
import torch
from tests.following import assert_follows, assert_nothing_left_out, draw, given, sloped, slopes
from torch import nn
from torch.nn import functional

from nearly.calculus import BrownianTree, Increment, hessian, identifiability, line, splitting_step

X, Y, LOGITS = draw(5, 3), draw(5, 2), draw(4, 3, seed=1)
Z = draw(5, 3, dtype=torch.complex128)
WAYS = draw(4, 3, seed=2)
SPD = X.mT @ X + torch.eye(3, dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 1, 0, 1])
MESH = torch.linspace(0, 1, 9, dtype=torch.float64)
SEEDS = torch.tensor([3, 5, 2**40])
LAPLACIAN_AND_MORE = {(0, 0): 1.0, (1, 1): 1.0, (0, 1, 2): 2.0, (): 3.0}


def network(put, *layers):
    module = nn.Sequential(*(layers or (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))).double()
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=k))
    return put(module)


def field(x):
    return x[..., 0] ** 2 * x[..., 1].sin() + torch.exp(0.3 * x[..., 2])


def products(make, **options):
    """Of a curvature with vectors, twice: the graph recorded at each product, and kept."""

    def call(f, put):
        module = network(put)
        size = sum(parameter.numel() for parameter in module.parameters())
        batches = [(put(X[:2]), put(CLASSES[:2])), (put(X[2:]), put(CLASSES[2:]))]
        made = [make(f, module, module.parameters(), batches, keep_graph=keep, **options) for keep in (False, True)]
        return [operator @ put(draw(size, 2)) for operator in made]

    return call


def fisher(**options):
    return products(lambda f, *problem, **kept: f(*problem, **kept), **options)


def tree_product(f, put):
    module = network(put)
    operator = hessian(lambda: module(put(X)).square().mean(), module.parameters())
    return f(operator, {name: one.detach() for name, one in module.named_parameters()})


def estimates(f, put):
    matrix, weights = put(draw(12, 12) @ draw(12, 12).mT), put(draw(12)).requires_grad_()
    operator = hessian(lambda: (weights**2 * weights.roll(1)).sum(), [weights])
    methods = {"trace": ("hutchinson", "hutch++", "xtrace"), "diagonal": ("bekas", "xdiag")}[f.__name__]
    return [f(one, count, method=method) for one in (matrix, operator) for count in (8, 12) for method in methods]


def inverse_fisher(f, put):
    inverse, gradients = f.from_gradients(put(X), damping=0.1), put(X)
    window = f(3, 2, damping=0.1, dtype=torch.float64, device=gradients.device)
    for gradient in gradients:
        window.push(gradient)
    keep = put(torch.tensor([True, False, True]))
    weights = gradients[0]
    found = [inverse.diagonal(), inverse.entry(0, 1), inverse.saliency(weights), inverse.compensate(weights, keep)]
    return found, inverse @ put(Y[:3]), window @ weights


def hessian_fit(f, put):
    found = []
    for group in ("general", "triangular"):
        fit = f(3, group=group, dtype=torch.float64, device=put(X).device)
        for row in put(X):
            fit.update(row, put(SPD) @ row)
        found += [fit.matrix(), fit @ put(X[0]), fit @ put(Y[:3])]
    return found


def operator(f, put):
    one = f(LAPLACIAN_AND_MORE)
    lines = list(one.lines(put(X)).values())
    return (
        lines,
        one.estimate(field, put(X), samples=4),
        sloped(lambda x: (one(field, x), one(network(put), x)), put(X)),
    )


def jet(f, put):
    x = line(put(X), put(WAYS)[:, None], order=3)
    y = torch.softmax(x, -1) * x.exp() + torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    again = f.from_stack(y.frame, y.stack, y.degree)
    return [again.coefficient(k) for k in range(4)], again.derivative(3), again.value, y.sum(-1).parts


def taylor(function, order=2):
    return lambda f, put: f(function, put(X[0]), put(WAYS), order=order)


def taylor_of_layers(f, put):
    point, ways, weight = put(X[0]), put(WAYS), put(draw(3, 3))
    layers = network(put, nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2))
    solved = f(lambda x: torch.linalg.solve(weight + torch.outer(x, x), x), point, ways, order=2)
    complex_too = f(lambda z: z * z.exp(), put(Z[0]), put(Z[1:3]), order=2)
    return solved, complex_too, sloped(lambda x, v: f(layers, x, v, order=2), point, ways)


def brownian(f, put):
    tree, one = f(put(SEEDS), 0.0, 1.0, shape=(2,), tolerance=2.0**-8), f(7, 0.0, 2.0, tolerance=2.0**-6)
    times = put(torch.tensor([[0.1], [0.5]], dtype=torch.float64))
    found = tree(times, times + 0.2)
    return (
        found,
        found.integral(0.2),
        tree(0.0, 0.3),
        tree[1:](0.25, 1.0),
        tree[put(SEEDS) > 3](0.0, 1.0),
        one(times, 1.5),
    )


def sde_step(f, put):
    step = f(lambda y, h: y * torch.exp(-h), lambda y, w: y + w)
    return sloped(lambda y: step(y, put(X[:, :1].abs()), Increment(put(Y[:, :1]), put(Y[:, 1:]))), put(X))


def regularized(**options):
    def call(f, put):
        module = network(put, nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        states = put(torch.stack([X, 0.5 * X, 0.3 * X]))
        loss = f(lambda t, y: module(y) * (1 + t), [0.0, 0.1, 0.3], states, **options)
        return loss, torch.autograd.grad(loss, list(module.parameters()))

    return call


def penalties(f, put):
    return sloped(lambda x: f(network(put), x), put(X))


def implicit(function):
    """Solutions, and their derivatives for two parameters."""

    def call(f, put):
        parameters = put(X[0].abs() + 1), put(SPD)
        return sloped(lambda *p: f(function, put(torch.ones(2, 3).double()), p).value, *parameters)

    return call


def trajectories(f, put, **options):
    """Forwards and backwards in time, with derivatives for the start and for what the field holds."""

    def states(start, rates, times):
        return f(lambda t, y: -rates * y * (1 + t), start, times, **options).value.states

    return [sloped(partial(states, times=one), put(X), put(X[0].abs())) for one in (put(MESH), MESH.flip(0).tolist())]


def complex_trajectories(f, put):
    found = f(lambda t, y: 1j * y * t, put(Z), put(MESH), tolerance=1e-3)
    return trajectories(f, put, tolerance=1e-3), found.value, found.residual


def sde(f, put):
    step = splitting_step(lambda y, h: y * torch.exp(-h), lambda y, w: y + w)
    several, one = (BrownianTree(seed, 0.0, 1.0, shape=(1,), tolerance=2.0**-12) for seed in (SEEDS, 1))
    return [f(step, put(start), tree, tolerance=0.05) for start, tree in ((X[:3], several), (X[0], one))]


ELEMENTARY = [
    "exp",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sinh",
    "cosh",
    "atan",
    "asinh",
    "sigmoid",
    "erf",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "expm1",
    "relu",
    "silu",
    "softplus",
]
CALLS = {
    "BrownianTree": brownian,
    "DifferentialOperator": operator,
    "HessianFit": hessian_fit,
    "InverseFisher": inverse_fisher,
    "Jet": jet,
    "biharmonic": lambda f, put: sloped(f(field), put(X)),
    "counted_normals": given(SEEDS, SEEDS + 1, torch.arange(3), torch.float64),
    "curve": lambda f, put: f(put(X[0]), put(draw(2, 4, 3))).exp().parts,
    "deferred_correction": trajectories,
    "derivatives": [
        *(
            taylor(lambda x, name=name: getattr(torch, name, getattr(functional, name, None))(x * x + 1))
            for name in ELEMENTARY
        ),
        taylor(lambda x: torch.cat([x, torch.maximum(x, 0.2 * x), torch.where(x > 0, x, 2.0)]) ** 3 - x.sum(), order=3),
        taylor(lambda x: torch.stack([x.max(), x.prod(), 2.0 ** x.mean(), x.sort()[0][1]])),
        taylor_of_layers,
    ],
    "diagonal": estimates,
    "estimate_biharmonic": given(field, X, samples=3),
    "estimate_laplacian": slopes(field, X, samples=3),
    "fisher": [
        fisher(),
        fisher(kind="sampled", samples=2),
        fisher(kind="sampled", likelihood="gaussian"),
        fisher(kind="empirical"),
    ],
    "fit_locally": [slopes(field, X, radius=0.1, degree=degree) for degree in (2, 3)],
    "fixed_point": implicit(lambda x, p, a: torch.tanh(p + 0.1 * x @ a)),
    "gauss_newton": products(lambda f, module, *rest, **kept: f(module, functional.cross_entropy, *rest, **kept)),
    "gumbel_softmax": [slopes(LOGITS, hard=hard, temperature=0.7) for hard in (False, True)],
    "hessian": products(
        lambda f, module, *rest, **kept: f(lambda x, t: functional.cross_entropy(module(x), t), *rest, **kept)
    ),
    "identifiability": [given(draw(2, 3, 3)), given(draw(2, 4))],
    "integrate": complex_trajectories,
    "integrate_sde": sde,
    "integrate_tase": complex_trajectories,
    "jacobian_frobenius": penalties,
    "jacobian_frobenius_estimate": penalties,
    "jacobian_nuclear_penalty": [slopes(torch.sin, torch.cos, X, sigma=sigma, samples=2) for sigma in (None, 0.1)],
    "laplacian": lambda f, put: sloped(f(network(put)), put(X)),
    "line": lambda f, put: f(put(X[0]), put(WAYS), order=2, weights=put(WAYS[:, 0])).exp().parts,
    "local_regularization": [
        regularized(sampling=sampling, estimate=estimate)
        for sampling in ("unbiased", "biased")
        for estimate in ("error", "stiffness")
    ],
    "minimum": implicit(lambda x, p, a: ((x @ a) * x).sum(-1) / 2 + (x**4).sum(-1) - (p * x).sum(-1)),
    "philox": given((SEEDS % 2**32,) * 4, (SEEDS % 2**32, SEEDS % 9)),
    "refinement_loss": lambda f, put: sloped(
        lambda weight: f(lambda x: field(weight * x), put(X), value=put(Y[:, 0]), gradient=put(X)), put(X[0])
    ),
    "reinforce": slopes(LOGITS, torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]]), draw(2, 4)),
    "reinmax": slopes(LOGITS, temperature=0.7),
    "roots": implicit(lambda x, p, a: x**3 + x @ a - p),
    "sampling_times": given(draw(8, 2, 3), threshold=0.5),
    "sensitivities": [given(field, X[0]), given(field, X[0], logarithmic=True)],
    "splitting_step": sde_step,
    "straight_through": slopes(LOGITS, temperature=0.7),
    "tase_step": [
        *(slopes(lambda t, y: -t.exp() * y**3, 0.1, X, 0.2, order=order) for order in (2, 3)),
        given(lambda t, y: -y * y, 0.0, Z, 0.1),
    ],
    "trace": estimates,
    "tree_product": tree_product,
    "unidentifiable_penalty": lambda f, put: sloped(
        partial(f, identifiability(put(draw(6, 3)), noise=0.5), threshold=9.0), put(X)
    ),
}
SKIPPED = dict.fromkeys(
    ["Corrected", "Estimated", "Identifiability", "Increment", "LocalFit", "SdePaths", "StiffTrajectory", "Trajectory"],
    "what functions of the table return",
)


@pytest.mark.parametrize("name", CALLS)
def test_it_follows_its_tensors(name):
    assert_follows(f"calculus.{name}", CALLS[name])


def test_nothing_public_is_left_out():
    assert_nothing_left_out("calculus", {f"calculus.{name}" for name in (*CALLS, *SKIPPED)})
