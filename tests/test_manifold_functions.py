"""Manifolds as functions on tensors: derivatives, batches, dtypes and refusals."""

import pytest
import torch
from tests.manifolds import ALL, CAYLEY, CONES, DTYPES, POLAR, QR, draw, points, unit
from torch.autograd import gradcheck

from nearly.core.errors import BadInput
from nearly.linalg.manifolds import PoincareBall, PositiveDefinite, Stiefel


@ALL
def test_gradients_represent_derivatives_and_descend(space):
    target, x = points(space, 2, draw(5)), points(space, 2, draw())

    def loss(y):
        return (space.distance(y, target) if hasattr(space, "distance") else y - target).square().sum()

    leaf = x.clone().requires_grad_()
    (euclidean,) = torch.autograd.grad(loss(leaf), leaf)
    gradient, h = space.gradient(x, euclidean), 1e-6
    v = unit(space, x, draw(1))
    measured = (loss(space.retract(x, h * v)) - loss(space.retract(x, -h * v))) / (2 * h)
    assert torch.allclose(space.inner(x, gradient, v).sum(), measured, rtol=1e-5, atol=1e-7)
    start = loss(x)
    for _ in range(60):
        leaf = x.clone().requires_grad_()
        (euclidean,) = torch.autograd.grad(loss(leaf), leaf)
        gradient = space.gradient(x, euclidean)
        step, length_ = 1.0, space.inner(x, gradient, gradient).sum()
        while loss(space.retract(x, -step * gradient)) > loss(x) - 0.1 * step * length_ and step > 1e-12:
            step /= 2
        x = space.retract(x, -step * gradient)
    assert loss(x) < 1e-6 * start


@ALL
def test_gradcheck(space):
    x = points(space, 2, draw())
    v, w = unit(space, x, draw(1)), unit(space, x, draw(2))
    inputs = [each.requires_grad_() for each in (x, v, w)]
    assert gradcheck(space.retract, inputs[:2])
    assert gradcheck(space.exponential, inputs[:2])
    assert gradcheck(space.transport, inputs)
    assert gradcheck(space.inner, inputs)
    assert gradcheck(space.gradient, inputs[:2])
    assert gradcheck(lambda point: space.exponential(point, torch.zeros_like(point)), inputs[:1])
    assert gradcheck(lambda tangent: space.exponential(x.detach(), tangent), [torch.zeros_like(x).requires_grad_()])
    if not isinstance(space, Stiefel):
        y = points(space, 2, draw(3)).requires_grad_()
        assert gradcheck(space.logarithm, (x, y))
        assert gradcheck(space.distance, (x, y))
        assert gradcheck(lambda other: space.logarithm(x.detach(), other), [x.detach().clone().requires_grad_()])
        same = x.detach().clone().requires_grad_()
        (slope_there,) = torch.autograd.grad(space.distance(x.detach(), same).sum(), same)
        assert torch.isfinite(slope_there).all()


def test_logarithm_of_positive_definite_matrices_with_repeated_eigenvalues_has_derivatives():
    eye = torch.eye(3, dtype=torch.float64)
    for diagonal in ([1.0, 1.0, 1.0], [4.0, 4.0, 0.01], [30.0, 30 * (1 + 1e-14), 3.0]):
        p = torch.diag(torch.tensor(diagonal, dtype=torch.float64)).requires_grad_()
        assert gradcheck(lambda other: CONES.logarithm(eye, other), [p])


@ALL
def test_leading_dimensions_broadcast_and_problems_do_not_mix(space):
    x = points(space, 3, draw())
    v = unit(space, x, draw(1))
    for name in ("retract", "exponential", "gradient"):
        together = getattr(space, name)(x, v)
        assert torch.allclose(
            together, torch.stack([getattr(space, name)(*pair) for pair in zip(x, v, strict=True)]), rtol=1e-12
        )
    many = space.inner(x[0], v[0], v)
    assert many.shape == (3,)
    assert space.retract(x[0], space.gradient(x[0], v)).shape == x.shape


@ALL
@DTYPES
def test_dtype_follows(space, dtype):
    x = points(space, 2, draw(), dtype)
    v = unit(space, x, draw(1))
    results = [
        space.retract(x, v),
        space.exponential(x, v),
        space.transport(x, v, v),
        space.inner(x, v, v),
        space.gradient(x, v),
    ]
    if not isinstance(space, Stiefel):
        results += [space.logarithm(x, x), space.distance(x, x)]
    assert {result.dtype for result in results} == {dtype}


@ALL
def test_bad_inputs_are_named(space):
    x = points(space, 2, draw())
    v = unit(space, x, draw(1))
    bad_v = {
        "NaN": v * float("nan"),
        "single": v.float(),
        "shape": v[..., :-1],
        "batch": torch.cat([v, v[:1]]),
        "empty": v[:0],
    }
    for each in bad_v.values():
        with pytest.raises(BadInput, match="tangent must be"):
            space.retract(x, each)
        with pytest.raises(BadInput, match="vector must be"):
            space.transport(x, v, each)
        with pytest.raises(BadInput, match="euclidean_gradient must be"):
            space.gradient(x, each)
        with pytest.raises(BadInput, match="u must be"):
            space.inner(x, each, v)
    outside = 5 * x if not isinstance(space, PositiveDefinite) else x - 3 * x.norm() * torch.eye(4)
    outside = torch.ones(2, 5).double() * 3 if isinstance(space, PoincareBall) else outside
    for each in (outside, x * float("inf"), x.half(), x.to(torch.complex64), torch.ones(()).double()):
        for call in (space.check, lambda p: space.retract(p, v), lambda p: space.inner(p, v, v)):
            with pytest.raises(BadInput, match="point must be"):
                call(each)
    with pytest.raises(BadInput, match="start must be"):
        space.check(outside, "start")
    if not isinstance(space, Stiefel):
        with pytest.raises(BadInput, match="other must be"):
            space.distance(x, outside)
        with pytest.raises(BadInput, match="other must be"):
            space.logarithm(x, outside)


def test_what_else_is_refused():
    with pytest.raises(BadInput, match="retraction must be one of polar, qr, cayley"):
        Stiefel("svd")
    for curvature in (0.0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(BadInput, match="curvature must be"):
            PoincareBall(curvature)
    with pytest.raises(BadInput, match="no more columns than rows"):
        POLAR.check(torch.eye(4)[:2])
    with pytest.raises(BadInput, match="symmetric"):
        CONES.check(torch.tensor([[1.0, 0.1], [0.0, 1.0]]))
    with pytest.raises(BadInput, match="square"):
        CONES.check(torch.ones(2, 3))
    eye = torch.eye(2).double()
    with pytest.raises(BadInput, match="so short that the step is finite"):
        CONES.exponential(eye, 1e4 * eye)
    for space in (POLAR, QR, CAYLEY):
        for size in (1e6, 1e307):
            with pytest.raises(BadInput, match="tangent must be of norm at most"):
                space.retract(eye, torch.tensor([[0.0, size], [-size, 0.0]], dtype=torch.float64))
