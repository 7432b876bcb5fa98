"""FOSI against the paper's algorithm with exact eigenvectors, and the Krylov subspaces that it finds them in."""

import math

import pytest
import torch

from nearly.linalg.lanczos import ritz_pairs
from nearly.optim import FOSI

DRAW = torch.Generator().manual_seed(0)
BASIS = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=DRAW))[0]
VALUES = torch.tensor([-0.3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
HESSIAN = BASIS * VALUES @ BASIS.T
START = torch.randn(12, dtype=torch.float64, generator=DRAW)


def loss(x):
    return x @ HESSIAN @ x / 2 + 0.1 * x.pow(4).sum()


def naive(steps, base, largest, smallest, every, warmup, most_scale):
    x, zeros = START.clone(), torch.zeros(12, dtype=torch.float64)
    velocity, heavy, mean, square, found = zeros, zeros, zeros, zeros, []
    v, rates, scale = torch.zeros(0, 12, dtype=torch.float64), torch.zeros(0), 1.0
    for number in range(1, steps + 1):
        g = HESSIAN @ x + 0.4 * x**3
        if number > warmup and (number - 1 - warmup) % every == 0:
            values, vectors = torch.linalg.eigh(HESSIAN + 1.2 * torch.diag(x * x))
            chosen = [*range(smallest), *range(12 - largest, 12)]
            v, rates = vectors.T[chosen], 1 / values[chosen].abs()
            scale = min(max(float(rates[smallest] / rates[-1]), 1.0), most_scale) if base == "heavy_ball" else 1.0
        inside = sum((one @ g * one for one in v), zeros)
        outside = g - inside
        if base == "heavy_ball":
            velocity = 0.8 * velocity + inside
            heavy = 0.8 * heavy + outside
            direction = heavy
        else:
            velocity = 0.8 * velocity + 0.2 * inside
            mean, square = 0.9 * mean + 0.1 * outside, 0.99 * square + 0.01 * outside**2
            direction = mean / (1 - 0.9**number) / ((square / (1 - 0.99**number)).sqrt() + 1e-8)
        newton = sum((rate * (one @ velocity) * one for rate, one in zip(rates, v, strict=True)), zeros)
        direction = direction - sum((one @ direction * one for one in v), zeros)
        x = x - 0.5 * (0.1 * newton + 0.02 * scale * direction)
        found.append(x)
    return torch.stack(found)


@pytest.mark.parametrize("base", ["heavy_ball", "adam"])
@pytest.mark.parametrize(
    ("largest", "smallest", "every", "warmup", "most_scale"),
    [(2, 1, 3, 2, 3.0), (3, 0, 4, 0, math.inf), (3, 0, 100, 0, 0.5), (7, 5, 2, 0, 3.0)],
)
def test_steps(base, largest, smallest, every, warmup, most_scale):
    settings = {"largest": largest, "smallest": smallest, "every": every, "warmup": warmup}
    pieces = [torch.nn.Parameter(START[:2].clone()), torch.nn.Parameter(START[2:].clone().reshape(5, 2))]
    rates = {"lr": 0.5, "base_lr": 0.02, "newton_lr": 0.1, "momentum": 0.8, "betas": (0.9, 0.99)}
    most = min(most_scale, 1e9)
    optimizer, found = FOSI(pieces, base=base, most_scale=most, **rates, **settings), []
    for _ in range(12):
        optimizer.step(lambda: loss(torch.cat([piece.flatten() for piece in pieces])))
        found.append(torch.cat([piece.detach().flatten() for piece in pieces]))
    theirs = naive(12, base, most_scale=max(most, 1.0), **settings)
    torch.testing.assert_close(torch.stack(found), theirs, rtol=1e-7, atol=1e-9)


def test_zero_eigenvalues_are_left_to_the_base_rule():
    x = torch.nn.Parameter(torch.ones(30))
    optimizer = FOSI([x], base="heavy_ball", base_lr=0.1, newton_lr=1.0, momentum=0.0, largest=5, most_scale=1.0)
    optimizer.step(lambda: 50 * x[0] ** 2 + x[1:].sum())
    torch.testing.assert_close(x.detach(), torch.tensor([0.0] + [0.9] * 29), rtol=0, atol=1e-4)


def test_ritz_pairs_of_the_whole_space():
    values, vectors = ritz_pairs(lambda x: HESSIAN @ x, START, 40)
    torch.testing.assert_close(values, VALUES)
    torch.testing.assert_close((vectors.T @ BASIS).abs(), torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-9)


def test_outermost_ritz_pairs_come_first():
    matrix = torch.diag(torch.cat([torch.linspace(0, 1, 297), torch.tensor([-2.0, 3.0, 5.0])]).double())
    start = torch.randn(300, dtype=torch.float64, generator=DRAW)
    values, vectors = ritz_pairs(lambda x: matrix @ x, start, 20)
    torch.testing.assert_close(values[[0, -2, -1]], torch.tensor([-2.0, 3.0, 5.0]).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-10)


def test_ritz_pairs_where_the_subspace_is_invariant():
    start = torch.tensor([1.0, 0.0, 0.0, 0.0])
    values, vectors = ritz_pairs(lambda x: 2 * x, start, 3)
    assert values.tolist() == [0, 0, 2]
    assert vectors.norm(dim=0).tolist() == [0, 0, 1]
