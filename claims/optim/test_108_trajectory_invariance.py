"""Row 108: AdamW trains alike at equal products of learning rate and weight decay (Li et al., arXiv 2509.25049).

A one-layer transformer of width 64 on text of a seeded Markov chain with 64 states, 500 steps of 16 windows of 16, three initial
seeds averaged; losses smoothed over 50 steps, compared over the last half. The product is 0.019, so that weights forget their
start after about 50 steps; the five rates of `equivalent_pairs` span a factor of 4. (Over a factor of 16 gaps are 2 to 6 percent at
the best settings, up to 17 at stronger decay: the least rate is still in its first stage, where curves follow the rate, and the
readout's scale follows rate over decay.)
Bars: the five curves are within 2% of each other; a product 16 times as large or as small, by the decay alone, is 5% away or more.

Broken variant, run inside: the same five rates at one decay, products over a factor of 4, miss the first bar.
"""

from __future__ import annotations

import torch
from claims.optim._stacked import Copies
from claims.optim._transformer import HEADS, Transformer, batches, next_token_loss

from nearly.optim.scaling import equivalent_pairs, maximal_update, trajectory_gap

STATES, WIDTH, STEPS, WINDOW, SEEDS = 64, 64, 500, 50, 3
RATE, DECAY = 7.5e-3, 2.5


def markov_text(length=100_000):
    """Transition probabilities are the softmax of normal numbers of deviation 2: an entropy of about 2.5 nats."""
    generator = torch.Generator().manual_seed(108)
    sums = (2 * torch.randn(STATES, STATES, generator=generator)).softmax(1).cumsum(1)
    draws = torch.rand(length, 1, generator=generator)
    following = torch.searchsorted(sums, draws.T.expand(STATES, -1).contiguous()).clamp_(max=STATES - 1).T.tolist()
    states = [0]
    for table in following:
        states.append(table[states[-1]])
    return torch.tensor(states)


def losses(pairs):
    """Means over the seeds, one row per pair."""
    models, groups = [], []
    for rate, decay in pairs:
        for seed in range(SEEDS):
            model = Transformer(STATES, WIDTH, (WIDTH // HEADS) ** -0.5)
            groups.append(maximal_update(model, model, family="adam", lr=rate, weight_decay=decay, seed=seed).groups)
            models.append(model)
    curves = Copies(models, groups).train(batches(markov_text(), STEPS, 16), next_token_loss)
    return curves.reshape(len(pairs), SEEDS, STEPS).mean(dim=1)


def test_curves_follow_the_product(record):
    rates = [RATE * 2 ** (k / 2) for k in range(-2, 3)]
    equal = equivalent_pairs(RATE, DECAY, rates)
    others = [(RATE, DECAY / 16), (RATE, DECAY * 16)]
    same_decay = [(rate, DECAY) for rate in rates if rate != RATE]
    curves = losses([*equal, *others, *same_decay])
    ours = trajectory_gap(curves[:5], window=WINDOW)
    changed = [trajectory_gap(curves[[2, place]], window=WINDOW) for place in (5, 6)]
    broken = trajectory_gap(curves[[2, 7, 8, 9, 10]], window=WINDOW)
    claim = "gap of smoothed losses, five pairs of one product"
    record(claim=claim, measured=ours, baseline=f"decay / 16: {changed[0]:.3g}, decay x 16: {changed[1]:.3g}")
    record(claim="the same rates at one decay", measured=broken, baseline="bar 0.02")
    assert ours <= 0.02
    assert min(changed) >= 0.05
    assert broken > 0.02
