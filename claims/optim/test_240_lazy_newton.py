"""Row 240: Newton's method with lazy Hessians (Doikov, Chayti, Jaggi, arXiv 2212.00781).

Works when, on logistic regression and log-sum-exp with d = 200: the arithmetic cost (gradient 1, Hessian d) to a gradient norm
of 1e-8 with refreshing every d iterations is at most 0.3 times that of refreshing each iteration.

600 rows, regularization 0.001, log-sum-exp at a temperature of 0.5, from ones; quadratic regularization, with M the best of
1e-4, 1e-3, ..., 10 for either schedule (M that is right for lazy steps is too large for fresh ones, and the other way round).
Rejected broken variant, run below: lazy steps without the regularization (M = 1e-12), which do not converge on log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nearly.optim import LazyNewton

UNKNOWNS, BUDGET = 200, 6_000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On matrices as small as these, waiting threads cost more than they help."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problems() -> dict[str, Callable[[Tensor], Tensor]]:
    draw = torch.Generator().manual_seed(240)
    rows = torch.randn(600, UNKNOWNS, dtype=torch.float64, generator=draw) * 3 / math.sqrt(UNKNOWNS)
    shifts = torch.randn(600, dtype=torch.float64, generator=draw)
    signed = rows * (rows @ torch.randn(UNKNOWNS, dtype=torch.float64, generator=draw) + shifts).sign()[:, None]

    def logistic(x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-signed @ x).mean() + 5e-4 * x @ x

    def maximum(x: Tensor) -> Tensor:
        return 0.5 * torch.logsumexp((rows @ x - shifts) / 0.5, 0) + 5e-4 * x @ x

    return {"logistic regression": logistic, "log-sum-exp": maximum}


def cost(loss: Callable[[Tensor], Tensor], every: int, constant: float, most: float = BUDGET) -> float:
    """Infinite where `most` is not enough."""
    x = torch.nn.Parameter(torch.ones(UNKNOWNS, dtype=torch.float64))
    optimizer, spent, count = LazyNewton([x], every=every, constant=constant), 0, 0
    while spent <= most:
        optimizer.step(lambda: loss(x))
        assert x.grad is not None
        spent += 1 + UNKNOWNS * (count % every == 0)
        count += 1
        if x.grad.norm() <= 1e-8:
            return spent
        if not x.grad.norm() <= 1e8:
            break
    return math.inf


def test_cost(record: Any) -> None:
    for name, loss in problems().items():
        fresh, lazy = math.inf, math.inf
        for k in range(-4, 2):
            fresh = min(fresh, cost(loss, 1, 10.0**k, min(fresh, BUDGET)))
            lazy = min(lazy, cost(loss, UNKNOWNS, 10.0**k, min(lazy, BUDGET)))
        record(claim=f"240: cost on {name}, a Hessian in 200 steps (in each step)", measured=lazy, baseline=fresh)
        assert fresh < math.inf
        assert lazy <= 0.3 * fresh
    broken = cost(loss, UNKNOWNS, 1e-12)
    record(claim="240: cost on log-sum-exp without the regularization (with it)", measured=broken, baseline=lazy)
    assert not broken <= 0.3 * fresh
