"""A small character-level transformer on Python's own help texts, which several claims train."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nearly.optim.trainings import characters

TUNING = 1_000  # seed of the runs that choose rates
LAST = 20  # steps whose mean loss is the final one


def losses(make: Callable[[nn.Module], torch.optim.Optimizer], seed: int, steps: int) -> torch.Tensor:
    """Training losses of all steps, with the rate falling linearly to zero."""
    training = characters(context=32, batch=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = training.make_model(seed)
    batches = iter(training.make_data(seed))
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    found = []
    for _ in range(steps):
        loss = training.loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        found.append(loss.detach())
    return torch.stack(found)


def final(found: torch.Tensor) -> float:
    """The mean of the last losses."""
    return float(found[-LAST:].mean())


def best_rate(make: Callable[[nn.Module, float], torch.optim.Optimizer], rates: list[float], steps: int) -> float:
    """The rate of the lowest final loss, on a seed of its own."""
    return min(rates, key=lambda rate: final(losses(lambda model: make(model, rate), TUNING, steps)))


def grouped(model: nn.Module) -> list[dict]:
    """Matrices of the blocks, and all else, which is left to AdamW."""
    inner = [
        parameter for name, parameter in model.named_parameters() if name.startswith("blocks") and parameter.ndim > 1
    ]
    kept = {id(parameter) for parameter in inner}
    others = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    return [{"params": inner}, {"params": others, "rest": True}]
