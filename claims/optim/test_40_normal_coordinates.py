"""Row 40: momentum in normal coordinates takes the iterations of exact Riemannian momentum; K-FAC without inverses in bfloat16.

Metric nearness: f(P) = ||P Q - I||_F^2 / 2n over positive definite P, n = 60, from P = I, Q with eigenvalues from 0.3 to 3, evenly
spaced in logarithm; iterations until f is at most 1e-6 (its infimum is 0), momentum 0.5, the best of four rates for each. Exact
momentum is by exponentials and parallel transports of `PositiveDefinite`; at most 1.2 times its iterations, and every iterate has
a Cholesky factor.
Networks: the digits' autoencoder in bfloat16, 300 steps, three seeds, the factors' rate 1. No number becomes NaN, none of torch's
inverses, solvers and factorizations is called (they raise), and the mean loss is at most 1.1 times that in float32. (AdamW in
bfloat16, at the best of three rates, ends at the same loss.)
Rejected broken variants, run below: momentum on P itself; factors whose steps are not shortened, which end in NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from claims.optim._autoencoder import autoencoder, curve
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.linalg.manifolds import PositiveDefinite
from nearly.optim import AdamW, InverseFreeNaturalGradient, PositiveDefiniteMomentum
from nearly.optim.matrices import inverse_free_natural_gradient as inverse_free

N = 60
RATES = (0.05, 0.1, 0.2, 0.3)
MOST = 200


def nearness() -> Callable[[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64, generator=draw))[0]
    q = (vectors * torch.logspace(-0.5, 0.5, N, dtype=torch.float64)) @ vectors.mT
    eye = torch.eye(N, dtype=torch.float64)
    return lambda p: (p @ q - eye).square().sum() / (2 * N)


def exact(rate: float) -> int:
    """Iterations of Riemannian momentum."""
    loss, manifold = nearness(), PositiveDefinite()
    point = torch.eye(N, dtype=torch.float64)
    momentum = torch.zeros_like(point)
    for step in range(1, MOST + 1):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(point), point)
        point = point.detach()
        momentum = 0.5 * momentum + manifold.gradient(point, slope)
        moved = -rate * N * momentum
        momentum = manifold.transport(point, moved, momentum)
        point = manifold.exponential(point, moved)
        if loss(point) <= 1e-6:
            return step
    return MOST


def ours(rate: float) -> int:
    """Iterations in normal coordinates."""
    loss = nearness()
    point = nn.Parameter(torch.eye(N, dtype=torch.float64))
    optimizer = PositiveDefiniteMomentum([point], lr=rate * N, momentum=0.5)
    for step in range(1, MOST + 1):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
        assert int(torch.linalg.cholesky_ex(point.detach())[1]) == 0
        if loss(point.detach()) <= 1e-6:
            return step
    return MOST


def flat(rate: float) -> int:
    """Iterations of momentum on P itself, as for any parameter."""
    loss = nearness()
    point = nn.Parameter(torch.eye(N, dtype=torch.float64))
    optimizer = torch.optim.SGD([point], lr=rate * N, momentum=0.5)
    for step in range(1, MOST + 1):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
        if loss(point.detach()) <= 1e-6:
            return step
    return MOST


def best(iterations: Callable[[float], int]) -> int:
    return min(iterations(rate) for rate in RATES)


def test_nearness(record: Any) -> None:
    reference, found = best(exact), best(ours)
    record(claim="40: iterations to 1e-6 in normal coordinates (exact momentum)", measured=found, baseline=reference)
    assert found <= 1.2 * reference < MOST

    broken = best(flat)
    record(claim="40: the same, momentum on the matrix itself (bar)", measured=broken, baseline=1.2 * reference)
    assert broken > 1.2 * reference


def inverse_free_loss(dtype: torch.dtype) -> float:
    """The mean over the seeds."""
    settings: dict[str, Any] = {"lr": 0.03, "factor_lr": 1.0, "rest": {"lr": 3e-3}}
    found = []
    for seed in range(3):
        model = autoencoder(seed).to(dtype)

        def make(model: nn.Module) -> torch.optim.Optimizer:
            return InverseFreeNaturalGradient(model.parameters(), module=model, **settings)

        found.append(curve(model, make, 300, seed=seed, every=300)[-1].loss)
    return sum(found) / 3


def test_bfloat16(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def adamw(seed: int, rate: float) -> float:
        def make(model: nn.Module) -> torch.optim.Optimizer:
            return AdamW(model.parameters(), lr=rate, weight_decay=0.0)

        return curve(autoencoder(seed).bfloat16(), make, 300, seed=seed, every=300)[-1].loss

    theirs = min(sum(adamw(seed, rate) for seed in range(3)) for rate in (3e-3, 1e-2, 2e-2)) / 3
    single = inverse_free_loss(torch.float32)

    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError("an inverse is used")

    for name in dir(torch.linalg):
        if any(part in name for part in ("inv", "solve", "cholesky", "eig", "svd", "qr", "lu", "ldl", "matrix_exp")):
            monkeypatch.setattr(torch.linalg, name, refuse)
    monkeypatch.setattr(torch, "cholesky_inverse", refuse)
    half = inverse_free_loss(torch.bfloat16)
    record(claim="40: loss after 300 steps in bfloat16 (float32)", measured=half, baseline=single)
    record(claim="40: the same (AdamW in bfloat16)", measured=half, baseline=theirs)
    assert half <= 1.1 * single

    monkeypatch.setattr(inverse_free, "LONGEST", math.inf)
    with pytest.raises(BadInput, match="NaN"):
        inverse_free_loss(torch.bfloat16)
    record(claim="40: the same, factors' steps not shortened", measured="NaN", baseline=1.1 * single)
