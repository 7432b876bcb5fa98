"""An autoencoder of scikit-learn's digits, on which Kronecker-factored optimizers are compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIZES = (64, 64, 16, 64, 64)
BATCH = 128


class Point(NamedTuple):
    """Steps and seconds of steps so far, and the loss on all digits."""

    steps: int
    seconds: float
    loss: float


def digits() -> Tensor:
    """All 1,797 of them, numbers in [0, 1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits(return_X_y=True)[0]).float() / 16


def autoencoder(seed: int, sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    """Linear layers with tanh between them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def curve(
    model: nn.Module,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    steps: int,
    *,
    seed: int,
    stop: float = 0.0,
    every: int = 5,
) -> list[Point]:
    """Mean squared errors while training on batches, until one is at most `stop`; seconds are those of the training alone."""
    points = digits().to(next(model.parameters()).dtype)
    optimizer, draw = make(model), torch.Generator().manual_seed(seed)
    order: list[Any] = []
    found: list[Point] = []
    seconds = 0.0
    for step in range(1, steps + 1):
        order = order or list(torch.randperm(len(points), generator=draw).split(BATCH))
        batch = points[order.pop()]
        start = time.perf_counter()
        optimizer.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % every == 0:
            with torch.no_grad():
                loss = float((model(points) - points).square().mean())
            found.append(Point(step, seconds, loss))
            if not loss > stop:  # or NaN
                break
    return found
