"""Row 10: Adafactor keeps rows and columns and trains as Adam does (Shazeer, Stern, arXiv 1804.04235).

An n x m weight keeps n + m numbers; the factored second moment gives Adam's to 1e-6 where the squares have rank one; a character
transformer (two layers of width 64, 200 steps, rates falling linearly to zero, the best of 3 for each) ends within 2% of Adam's
loss, mean of three seeds.

Broken variant, run inside: Adam's second moment by rows alone misses the rank-one bar.
"""

from __future__ import annotations

import torch
from claims.optim._characters import best_rate, final, losses

from nearly.optim import Adafactor, held_bytes
from nearly.optim.optimizer import Optimizer
from nearly.optim.transforms import FactoredMoment

STEPS, SEEDS = 200, (0, 1, 2)


class Alone(Optimizer):
    """The factored moment with nothing after it."""

    card = Adafactor.card

    def __init__(self, params):
        super().__init__(params, {"lr": 1.0})

    def recipe(self, group):
        return (FactoredMoment(),)


Alone.card = Adafactor.card


def test_memory_and_rank_one_squares(record):
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.rand(40, 1, generator=generator).double(), torch.rand(1, 30, generator=generator).double()
    parameter = torch.nn.Parameter(torch.zeros(40, 30, dtype=torch.float64))
    optimizer = Alone([parameter])
    full, by_rows, worst, broken = 0.0, 0.0, 0.0, 0.0
    for t in range(1, 20):
        signs = torch.randn(40, 30, generator=generator).double().sign()
        before = parameter.detach().clone()
        parameter.grad = signs * (rows * columns).sqrt() * float(torch.rand((), generator=generator))
        optimizer.step()
        share = t**-0.8
        full = (1 - share) * full + share * parameter.grad**2
        by_rows = (1 - share) * by_rows + share * (parameter.grad**2).mean(dim=1, keepdim=True)
        moment = (parameter.grad / (before - parameter.detach())) ** 2
        worst = max(worst, float((moment / full - 1).abs().max()))
        broken = max(broken, float((by_rows / full - 1).abs().max()))
    numbers = held_bytes(optimizer) // 8
    record(claim="numbers kept of a 40 x 30 weight", measured=str(numbers), baseline="Adam: 2400")
    record(
        claim="relative gap to Adam's second moment, squares of rank one",
        measured=worst,
        baseline=f"rows alone: {broken:.2g}",
    )
    assert numbers == 40 + 30
    assert worst <= 1e-6
    assert broken > 1e-6


def test_trains_as_adam(record):
    def adam(model, rate):
        return torch.optim.Adam(model.parameters(), lr=rate)

    def ours(model, rate):
        return Adafactor(model.parameters(), lr=rate)

    rates = {adam: [5e-3, 1e-2, 2e-2], ours: [5e-2, 1e-1, 2e-1]}
    found = []
    for make, choices in rates.items():
        rate = best_rate(make, choices, STEPS)
        ends = [final(losses(lambda model: make(model, rate), seed, STEPS)) for seed in SEEDS]  # noqa: B023
        found.append(sum(ends) / len(ends))
    record(claim="final loss of a character transformer", measured=found[1], baseline=f"Adam {found[0]:.4g}")
    assert found[1] <= 1.02 * found[0]
