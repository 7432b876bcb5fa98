"""AdaHessian, perpendicular gradients, Riemannian Adam and Bloop take the steps that their papers define."""

import copy

import pytest
import torch
from torch import nn

from nearly.core.errors import BadInput
from nearly.linalg.manifolds import PoincareBall, Stiefel
from nearly.optim import AdaHessian, Bloop, PerpGrad, RiemannianAdam, log_stablemax, stablemax_cross_entropy


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_adahessian_on_a_diagonal_quadratic_is_as_defined():
    scales = torch.tensor([100.0, 3.0, 0.2], dtype=torch.float64)
    x = nn.Parameter(normal(3))
    ours = x.detach().clone()
    optimizer = AdaHessian([x], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, power=0.5)
    m, v = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for t in range(1, 6):
        optimizer.step(lambda: 0.5 * (scales * x**2).sum())
        g = scales * ours
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * scales**2
        direction = m / (1 - 0.8**t) / ((v / (1 - 0.9**t)) ** 0.25 + 1e-3)
        ours = (1 - 0.1 * 0.1) * ours - 0.1 * direction
        torch.testing.assert_close(x.detach(), ours)


def test_adahessian_averages_over_places_and_stretches():
    for shape, block, groups in (((2, 3, 2, 2), 1, (2, 3, 4)), ((4, 6), 3, (4, 2, 3)), ((4, 5), 3, (4, 5, 1))):
        parameter = nn.Parameter(normal(*shape))
        optimizer = AdaHessian([parameter], block=block)
        scales = normal(*shape, seed=1)
        optimizer.step(lambda: (scales * parameter**2).sum() / 2)  # noqa: B023
        kept = optimizer.state[parameter]["square"].reshape(groups)
        expected = (0.001 * scales.abs().reshape(groups).mean(dim=2, keepdim=True) ** 2).expand(groups)
        torch.testing.assert_close(kept, expected)


def test_adahessian_looks_at_curvature_only_when_it_is_to(monkeypatch):
    products = []
    found = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **o: products.append(o.get("create_graph")) or found(*a, **o)
    )
    x = nn.Parameter(normal(3))
    optimizer = AdaHessian([x], every=3)
    for _ in range(4):
        optimizer.step(lambda: x.square().sum())
    assert products == [True, None, True, None]  # gradients with a graph; products say nothing


def test_perpendicular_gradients_are_as_defined():
    shapes = [(4, 3), (5,), (2, 2, 2, 2)]
    parameters = [nn.Parameter(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    twins = [nn.Parameter(one.detach().clone()) for one in parameters]
    ours = PerpGrad(parameters, lr=0.1)
    adam = torch.optim.Adam(twins, lr=0.1)
    for step in range(4):
        for i, (one, twin) in enumerate(zip(parameters, twins, strict=True)):
            one.grad = normal(*one.shape, seed=10 * step + i + 50)
            w, g = twin.detach(), one.grad
            turned = g - (w * g).sum() / (w * w).sum() * w
            twin.grad = turned * g.norm() / turned.norm()
        ours.step()
        adam.step()
        for one, twin in zip(parameters, twins, strict=True):
            torch.testing.assert_close(one.detach(), twin.detach())


def test_a_gradient_along_the_weights_is_kept():
    for shape in ((1,), (3,)):
        parameter = nn.Parameter(torch.ones(shape))
        optimizer = PerpGrad([parameter], lr=0.1)
        parameter.grad = torch.ones(shape)
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.full(shape, 0.9))


def test_stablemax_is_as_defined_and_differentiable():
    scores = normal(6, 5).requires_grad_()
    s = torch.where(scores >= 0, scores + 1, 1 / (1 - scores))
    torch.testing.assert_close(log_stablemax(scores).exp(), s / s.sum(dim=1, keepdim=True))
    assert torch.autograd.gradcheck(log_stablemax, scores)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    found = stablemax_cross_entropy(scores, classes)
    torch.testing.assert_close(found, -(s / s.sum(dim=1, keepdim=True)).log()[torch.arange(6), classes].mean())


def test_stablemax_keeps_a_gradient_where_softmax_has_none():
    scores = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    classes = torch.tensor([0])
    (lost,) = torch.autograd.grad(nn.functional.cross_entropy(scores, classes), scores)
    (kept,) = torch.autograd.grad(stablemax_cross_entropy(scores, classes), scores)
    assert float(lost.abs().max()) == 0
    assert float(kept.abs().max()) > 1e-6


@pytest.mark.parametrize("rule", ["adam", "amsgrad"])
def test_on_lines_it_is_adam(rule):
    x = nn.Parameter(normal(4, 3))
    twin = nn.Parameter(x.detach().clone())
    ours = RiemannianAdam([{"params": [x], "flat": True}], PoincareBall(), lr=0.1, rule=rule)
    theirs = torch.optim.Adam([twin], lr=0.1, amsgrad=rule == "amsgrad")
    for step in range(6):
        x.grad = normal(4, 3, seed=step + 1) * 0.5**step
        twin.grad = x.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(x.detach(), twin.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["adam", "amsgrad", "adagrad"])
def test_on_the_ball_it_is_as_defined(rule):
    ball = PoincareBall()
    x = nn.Parameter(0.3 * normal(5, 3))
    ours = x.detach().clone()
    optimizer = RiemannianAdam([x], ball, lr=0.1, betas=(0.8, 0.9), eps=1e-6, rule=rule)
    m, v, most = torch.zeros(5, 3), torch.zeros(5), torch.zeros(5)
    m, v, most = m.double(), v.double(), most.double()
    for t in range(1, 6):
        euclidean = normal(5, 3, seed=t)
        x.grad = euclidean
        optimizer.step()
        g = ball.gradient(ours, euclidean)
        square = ball.inner(ours, g, g)
        if rule == "adagrad":
            v = v + square
            u = g / (v.sqrt() + 1e-6)[:, None]
        else:
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * square
            most = torch.maximum(most, v) if rule == "amsgrad" else v
            u = m / (1 - 0.8**t) / ((most / (1 - 0.9**t)).sqrt() + 1e-6)[:, None]
        m = ball.transport(ours, -0.1 * u, m)
        ours = ball.exponential(ours, -0.1 * u)
        torch.testing.assert_close(x.detach(), ours)


def test_points_of_other_manifolds_stay_on_them():
    frame = nn.Parameter(torch.linalg.qr(normal(2, 5, 3)).Q)
    optimizer = RiemannianAdam([frame], Stiefel(), lr=0.1)
    target = torch.linalg.qr(normal(2, 5, 3, seed=1)).Q
    for _ in range(200):
        optimizer.zero_grad()
        loss = (frame - target).square().sum()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(frame.mT @ frame, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert float(loss.detach()) < 1.0


def test_what_is_no_point_or_no_manifold_is_refused():
    outside = nn.Parameter(torch.tensor([[2.0, 0.0]]))
    with pytest.raises(BadInput):
        RiemannianAdam([outside], PoincareBall())
    with pytest.raises(BadInput, match="manifold"):
        RiemannianAdam([outside], "ball")


def test_a_copy_keeps_its_manifold():
    x = nn.Parameter(torch.tensor([[0.5, 0.0]]))
    pair = copy.deepcopy([RiemannianAdam([x], PoincareBall()), x])
    pair[1].grad = torch.ones(1, 2)
    pair[0].step()
    assert float(pair[1].detach().norm()) < 0.5


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_bloop_is_as_defined(decay):
    a, b = normal(4, 5), normal(4, seed=1)
    x = nn.Parameter(normal(5, seed=2))
    ours, mean = x.detach().clone(), None
    optimizer = Bloop([x], lr=0.05, weight=0.7, decay=decay)
    for _ in range(5):
        optimizer.step(lambda: ((a @ x - b).square().sum(), x.pow(4).sum()))
        main, other = 2 * a.T @ (a @ ours - b), 4 * ours**3
        mean = main if mean is None else decay * mean + (1 - decay) * main
        ours = ours - 0.05 * (main + 0.7 * (other - (other @ mean) / (mean @ mean) * mean))
        torch.testing.assert_close(x.detach(), ours)


def test_bloop_asks_for_two_losses():
    x = nn.Parameter(torch.ones(2))
    with pytest.raises(BadInput, match="auxiliary"):
        Bloop([x]).step(lambda: x.sum())


def test_adam_may_follow_bloops_direction():
    x, twin = nn.Parameter(torch.tensor([2.0, -1.0])), nn.Parameter(torch.tensor([2.0, -1.0]))
    ours, adam = Bloop([x], lr=0.1, rule="adam", weight=0.0), torch.optim.Adam([twin], lr=0.1)
    for _ in range(3):
        ours.step(lambda: (x.square().sum(), x.sum()))
        adam.zero_grad()
        twin.square().sum().backward()
        adam.step()
    torch.testing.assert_close(x.detach(), twin.detach())
