"""Manifolds: what the metrics, geodesics and transports must satisfy, naive transcriptions, round-off and refusals."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck

from nearly.core.errors import BadInput
from nearly.linalg.manifolds import PoincareBall, PositiveDefinite, Stiefel

POLAR, QR, CAYLEY = Stiefel(), Stiefel("qr"), Stiefel("cayley")
CONES, BALL, FLAT_BALL = PositiveDefinite(), PoincareBall(), PoincareBall(0.1)
ALL = pytest.mark.parametrize("space", [POLAR, QR, CAYLEY, CONES, BALL, FLAT_BALL], ids=str)
STIEFEL = pytest.mark.parametrize("space", [POLAR, QR, CAYLEY], ids=str)
GEODESIC = pytest.mark.parametrize("space", [CONES, BALL, FLAT_BALL], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def points(space, count, generator, dtype=torch.float64):
    if isinstance(space, Stiefel):
        # signs that no Householder factorization gives by itself
        return torch.linalg.qr(torch.randn(count, 6, 3, generator=generator, dtype=dtype))[0] * torch.tensor([1, -1, 1])
    if isinstance(space, PositiveDefinite):
        root = torch.randn(count, 4, 4, generator=generator, dtype=dtype)
        return root @ root.mT + 0.3 * torch.eye(4, dtype=dtype)
    x = torch.randn(count, 5, generator=generator, dtype=dtype)
    radius = 0.98 * torch.rand(count, 1, generator=generator, dtype=dtype) / math.sqrt(space.curvature)
    return x / x.norm(dim=-1, keepdim=True) * radius


def unit(space, x, generator):
    """Tangent vectors of length one at x."""
    v = space.gradient(x, torch.randn(x.shape, generator=generator, dtype=x.dtype))
    size = space.inner(x, v, v).sqrt()
    return v / size.reshape(-1, *[1] * space.dimensions)


def length(space, x, v):
    return space.inner(x, v, v).sqrt()


def slope(errors, steps):
    return (errors[0] / errors[1]).log() / math.log(steps[0] / steps[1])


@pytest.mark.parametrize(("space", "order"), [(POLAR, 2), (QR, 1), (CAYLEY, 1)], ids=str)
def test_retractions_agree_with_the_exponential_to_their_order(space, order):
    x, steps = points(space, 4, draw()), (2e-2, 1e-2)
    v = unit(space, x, draw(1))
    errors = [(space.retract(x, t * v) - space.exponential(x, t * v)).norm(dim=(-2, -1)) for t in steps]
    assert torch.allclose(slope(errors, steps), torch.tensor(order + 1.0, dtype=x.dtype), atol=0.1)


@ALL
def test_the_exponential_is_a_geodesic(space):
    """Its velocity at zero is the tangent vector, its acceleration has no tangent part (in the embedding, or in the metric)."""
    x = points(space, 3, draw())
    v = unit(space, x, draw(1))
    h = 1e-4
    velocity = (space.exponential(x, h * v) - space.exponential(x, -h * v)) / (2 * h)
    assert torch.allclose(velocity, v, atol=1e-6)
    if isinstance(space, Stiefel):
        middle, acceleration = (
            space.exponential(x, v),
            space.exponential(x, (1 + h) * v) + space.exponential(x, (1 - h) * v),
        )
        acceleration = (acceleration - 2 * middle) / h**2
        assert acceleration.norm() > 0.1
        assert space.gradient(middle, acceleration).norm() < 1e-6
    else:  # it goes on from any of its points along its own transported velocity
        middle = space.exponential(x, 0.7 * v)
        onward = space.exponential(middle, 0.5 * space.transport(x, 0.7 * v, v))
        assert torch.allclose(onward, space.exponential(x, 1.2 * v), rtol=1e-10, atol=1e-12)


def test_stiefel_exponential_against_a_naive_transcription():
    """Edelman, Arias, Smith 1998, equation 2.42, with scipy's exponential; and a rotation where matrices are square."""
    x = points(POLAR, 1, draw())[0]
    v = 3 * unit(POLAR, x[None], draw(1))[0]
    a, s, eye = (x.T @ v).numpy(), (v.T @ v).numpy(), np.eye(3)
    block = scipy.linalg.expm(np.block([[a, -s], [eye, a]]))[:, :3]
    naive = torch.cat([x, v], -1) @ torch.from_numpy(block @ scipy.linalg.expm(-a))
    assert torch.allclose(POLAR.exponential(x, v), naive, atol=1e-13)
    q = torch.linalg.qr(torch.randn(4, 4, generator=draw(), dtype=torch.float64))[0]
    w = POLAR.gradient(q, torch.randn(4, 4, generator=draw(1), dtype=torch.float64))
    assert torch.allclose(POLAR.exponential(q, w), q @ torch.linalg.matrix_exp(q.T @ w), atol=1e-13)


def test_cayley_against_the_dense_solve():
    x = points(CAYLEY, 1, draw())[0]
    v, w = (2 * unit(CAYLEY, x[None], draw(seed))[0] for seed in (1, 2))
    half = (torch.eye(6, dtype=x.dtype) - x @ x.T / 2) @ v
    turn, eye = half @ x.T - x @ half.T, torch.eye(6, dtype=x.dtype)
    q = torch.linalg.inv(eye - turn / 2) @ (eye + turn / 2)
    assert torch.allclose(CAYLEY.retract(x, v), q @ x, atol=1e-13)
    assert torch.allclose(CAYLEY.transport(x, v, w), q @ w, atol=1e-13)


@ALL
def test_carrying_is_a_retraction_and_a_transport(space):
    x = points(space, 4, draw())
    v, w = unit(space, x, draw(1)), unit(space, x, draw(2))
    moved, carried = space.carry(x, v, w)
    assert torch.equal(moved, space.retract(x, v))
    assert torch.equal(carried, space.transport(x, v, w))


@pytest.mark.parametrize("space", [CAYLEY, CONES, BALL, FLAT_BALL], ids=str)
@DTYPES
def test_transport_keeps_inner_products(space, dtype):
    x = points(space, 4, draw(), dtype)
    step, u, v = (unit(space, x, draw(seed)) for seed in (1, 2, 3))
    y = space.retract(x, 2 * step)
    moved_u, moved_v = space.transport(x, 2 * step, u), space.transport(x, 2 * step, v)
    tolerance = 3e4 * torch.finfo(dtype).eps  # points of the ball within 1e-3 of its boundary lose three digits
    assert torch.allclose(space.inner(y, moved_u, moved_v), space.inner(x, u, v), atol=tolerance)
    assert torch.allclose(space.inner(y, moved_u, moved_u), space.inner(x, u, u), atol=tolerance)


@STIEFEL
def test_stiefel_transports_to_tangent_vectors_to_first_order(space):
    x = points(space, 3, draw())
    step, w = unit(space, x, draw(1)), unit(space, x, draw(2))
    y, moved = space.retract(x, step), space.transport(x, step, w)
    skew = y.mT @ moved
    assert (skew + skew.mT).abs().max() < 1e-14
    assert (moved - w).norm() > 0.1
    assert torch.allclose(space.transport(x, 0 * step, w), w, atol=1e-14)


def test_long_steps_end_on_the_manifold_to_round_off():
    x, direction = points(CAYLEY, 1, draw(), torch.float32), torch.zeros(6, 3)
    direction[:, 0] = 1.0  # of rank one, where the small system is worst conditioned
    v = CAYLEY.gradient(x, direction)
    for step in (CAYLEY.retract, CAYLEY.exponential):
        y = step(x, 200 / v.norm() * v)
        assert (y.mT @ y - torch.eye(3)).abs().max() < 2e-6


@GEODESIC
def test_parallel_transport_turns_the_velocity_and_comes_back(space):
    x, y = points(space, 5, draw()), points(space, 5, draw(1))
    v, w = space.logarithm(x, y), unit(space, x, draw(2))
    assert torch.allclose(space.transport(x, v, v), -space.logarithm(y, x), rtol=1e-9, atol=1e-10)
    back = space.transport(y, space.logarithm(y, x), space.transport(x, v, w))
    assert torch.allclose(back, w, rtol=1e-9, atol=1e-10)


@GEODESIC
@DTYPES
def test_logarithm_distance_and_exponential_agree(space, dtype):
    x, y, z = (points(space, 50, draw(seed), dtype) for seed in range(3))
    tolerance = 1e5 * torch.finfo(dtype).eps
    v = space.logarithm(x, y)
    assert torch.allclose(space.exponential(x, v), y, rtol=tolerance, atol=tolerance)
    assert torch.allclose(length(space, x, v), space.distance(x, y), rtol=tolerance)
    assert torch.allclose(space.logarithm(x, space.exponential(x, v)), v, rtol=tolerance, atol=tolerance)
    assert torch.allclose(space.distance(x, y), space.distance(y, x), rtol=tolerance)
    assert (space.distance(x, z) <= space.distance(x, y) + space.distance(y, z) + tolerance).all()
    assert (space.distance(x, x).abs() < tolerance).all()
    assert (space.logarithm(x, x).abs() < tolerance).all()
    assert torch.allclose(space.exponential(x, torch.zeros_like(x)), x, rtol=tolerance)


def test_distances_survive_the_isometries():
    p, q = points(CONES, 4, draw()), points(CONES, 4, draw(1))
    m = torch.randn(4, 4, 4, generator=draw(2), dtype=p.dtype)
    assert torch.allclose(CONES.distance(m @ p @ m.mT, m @ q @ m.mT), CONES.distance(p, q), rtol=1e-9)
    assert torch.allclose(CONES.distance(torch.linalg.inv(p), torch.linalg.inv(q)), CONES.distance(p, q), rtol=1e-9)
    a, x, y = (points(FLAT_BALL, 20, draw(seed)) for seed in range(3))
    moved = FLAT_BALL.distance(FLAT_BALL.add(a, x), FLAT_BALL.add(a, y))
    assert torch.allclose(moved, FLAT_BALL.distance(x, y), rtol=1e-9)
    assert torch.allclose(FLAT_BALL.add(-a, FLAT_BALL.add(a, x)), x, atol=1e-9)


def test_positive_definite_against_scipy():
    p, q = points(CONES, 2, draw())
    v = unit(CONES, p[None], draw(1))[0]
    root = torch.from_numpy(scipy.linalg.sqrtm(p.numpy()))
    inverse = torch.linalg.inv(root)
    naive = root @ torch.from_numpy(scipy.linalg.expm((inverse @ v @ inverse).numpy())) @ root
    assert torch.allclose(CONES.exponential(p, v), naive, rtol=1e-11)
    relative = torch.from_numpy(scipy.linalg.logm((inverse @ q @ inverse).numpy()))
    assert torch.allclose(CONES.logarithm(p, q), root @ relative @ root, rtol=1e-10)
    assert math.isclose(float(CONES.distance(p, q)), float(relative.norm()), rel_tol=1e-12)
    across = torch.from_numpy(scipy.linalg.sqrtm((q @ torch.linalg.inv(p)).numpy()))  # Sra, Hosseini 2015
    moved = CONES.transport(p, CONES.logarithm(p, q), v)
    assert torch.allclose(moved, across @ v @ across.T, rtol=1e-9, atol=1e-12)
    assert torch.allclose(CONES.inner(p, v, q), (torch.linalg.inv(p) @ v @ torch.linalg.inv(p) @ q).trace(), rtol=1e-9)


def naive_sum(x, y, c):
    """Ganea, Bécigneul, Hofmann 2018, section 2.3."""
    xy, xx, yy = (x * y).sum(-1, keepdim=True), (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)


@pytest.mark.parametrize("space", [BALL, FLAT_BALL], ids=str)
def test_ball_against_the_sources(space):
    c = space.curvature
    x, y = points(space, 20, draw()) / 2, points(space, 20, draw(1)) / 2
    assert torch.allclose(space.add(x, y), naive_sum(x, y, c), rtol=1e-12)
    v = unit(space, x, draw(2))
    size, factor = v.norm(dim=-1, keepdim=True), 2 / (1 - c * x.square().sum(-1, keepdim=True))
    arrow = (math.sqrt(c) * factor * size / 2).tanh() * v / (math.sqrt(c) * size)
    assert torch.allclose(space.exponential(x, v), naive_sum(x, arrow, c), rtol=1e-11)
    gap = naive_sum(-x, y, c)
    norm = gap.norm(dim=-1, keepdim=True)
    naive = 2 / (math.sqrt(c) * factor) * (math.sqrt(c) * norm).atanh() * gap / norm
    assert torch.allclose(space.logarithm(x, y), naive, rtol=1e-10)
    # gyr[y, -x] w = -(y - x) + (y + (-x + w)), linear in w; ratio of the conformal factors
    w, small = unit(space, x, draw(3)), 0.01
    turned = naive_sum(-naive_sum(y, -x, c), naive_sum(y, naive_sum(-x, small * w, c), c), c) / small
    ratio = (1 - c * y.square().sum(-1, keepdim=True)) / (1 - c * x.square().sum(-1, keepdim=True))
    assert torch.allclose(space.transport(x, space.logarithm(x, y), w), ratio * turned, rtol=1e-9, atol=1e-10)


def exact_distance(x, y):
    with mpmath.workdps(60):
        x, y = ([mpmath.mpf(entry) for entry in each.tolist()] for each in (x, y))
        square = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        return 2 * mpmath.asinh(mpmath.sqrt(square / ((1 - sum(a * a for a in x)) * (1 - sum(b * b for b in y)))))


def test_ball_keeps_its_digits_at_the_origin_between_close_points_and_at_the_boundary():
    x = torch.tensor([0.3, 0.4], dtype=torch.float64)
    edge = x * 2 * (1 - 1e-7)
    cases = [
        (0 * x, 1e-200 * x, 1e-14),
        (x, x * (1 + 1e-12), 1e-14),
        (x, x * (1 + 1e-4), 1e-13),
        (edge, -edge, 1e-9),
        (edge, edge * (1 - 1e-7), 1e-8),
    ]
    for a, b, tolerance in cases:
        exact = float(exact_distance(a, b))
        assert math.isclose(float(BALL.distance(a, b)), exact, rel_tol=tolerance)
        v = BALL.logarithm(a, b)
        if exact > 1e-150:  # below, squares vanish
            assert math.isclose(float(length(BALL, a, v)), exact, rel_tol=tolerance)
        assert float(BALL.distance(BALL.exponential(a, v), b)) <= 1e-7  # geodesics part as sinh(33)
    far = BALL.exponential(x, torch.tensor([1e300, -1e300], dtype=torch.float64))
    BALL.check(far)
    assert 17.5 < BALL.distance(0 * x, far) < 18.8


def test_positive_definite_of_any_size_and_condition():
    p, q = points(CONES, 4, draw()), points(CONES, 4, draw(1))
    for size in (1e-150, 1e150):
        assert torch.allclose(CONES.distance(size * p, size * q), CONES.distance(p, q), rtol=1e-10)
        assert torch.allclose(CONES.logarithm(size * p, size * q) / size, CONES.logarithm(p, q), rtol=1e-9)
    assert torch.allclose(CONES.distance(1e-150 * p, 1e150 * p), torch.tensor(2 * 300 * math.log(10)).double())
    # P^-1 Q has the condition 1e10 in single precision: its eigenvalues would come out negative.
    q = torch.linalg.qr(torch.randn(4, 4, generator=draw()))[0]
    p = (q * torch.tensor([1.0, 1e-5, 1.0, 1e-5])) @ q.T
    other = (q * torch.tensor([1e-5, 1.0, 1e-5, 1.0])) @ q.T
    assert torch.allclose(
        CONES.distance(p, other), torch.tensor(4 * math.log(1e5)).sqrt() * math.sqrt(math.log(1e5)), rtol=1e-2
    )
    assert torch.isfinite(CONES.logarithm(p, other)).all()
    shrunk = CONES.exponential(torch.eye(3).double(), torch.diag(torch.tensor([15.0, 0.0, -15.0])).double())
    assert torch.allclose(shrunk.diagonal().log(), torch.tensor([15.0, 0.0, -15.0]).double(), atol=1e-3)


@ALL
@DTYPES
def test_a_thousand_steps_stay_on_the_manifold_to_round_off(space, dtype):
    generator = draw()
    x = points(space, 2, generator, dtype)
    w = unit(space, x, generator)
    before, epsilon = length(space, x, w), torch.finfo(dtype).eps
    for _ in range(1000):
        # Random steps that the curvature does not drive to the boundary.
        pull = 0.05 * x if isinstance(space, PoincareBall) else 0.0
        v = 0.05 * unit(space, x, generator) - pull
        if isinstance(space, PositiveDefinite):
            v = v - 0.01 * (x - torch.eye(4, dtype=dtype))
        x, w = space.retract(x, v), space.transport(x, v, w)
    space.check(x)
    after = length(space, x, w)
    if isinstance(space, Stiefel):
        assert (x.mT @ x - torch.eye(3, dtype=dtype)).abs().max() < 20 * epsilon
        a = x.mT @ w
        assert (a + a.mT).abs().max() < 300 * epsilon
    if isinstance(space, PositiveDefinite):
        assert torch.equal(x, x.mT)
        assert torch.equal(w, w.mT)
    if space in (POLAR, QR):
        assert (after < before).all()
    else:
        assert torch.allclose(after, before, rtol=3e4 * epsilon)


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
