"""Manifolds: what the metrics, geodesics and transports must satisfy, naive transcriptions, round-off and refusals."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from tests.manifolds import (
    ALL,
    BALL,
    CAYLEY,
    CONES,
    DTYPES,
    FLAT_BALL,
    GEODESIC,
    POLAR,
    QR,
    STIEFEL,
    draw,
    points,
    unit,
)

from nearly.linalg.manifolds import PoincareBall, PositiveDefinite, Stiefel


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
