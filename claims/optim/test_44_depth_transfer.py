"""Row 44: branches scaled by 1/sqrt(depth) carry learning rates from shallow to deep networks (Bordelon et al., 2309.16620).

Residual ReLU networks of width 64 on scikit-learn's digits, depths 4 to 64, 50 steps on batches of 64; compared are the means of
the last ten losses and three seeds on grids of rates a factor of 2 apart, under SGD and under Adam.
Bars: the best rate moves at most one step over the depths with `Residual` and the rates of `maximal_update`; with plain residual
sums (scaling for width alone) it moves two steps or more. That is SGD's baseline, depths 4 to 16: deeper ones diverge at all
rates of the grid. Under Adam plain sums do not so much move the best rate as lose: the bar is a best loss at depth 64 of more
than twice that at depth 4, where `Residual` keeps it within a factor of 2.
Logits after 50 steps approach a limit monotonically: a network of depth L starts from one of depth 128, whose neighboring
weights it merges (sum over root of the number: increments of one Brownian motion); the RMS distance of its logits to those at
depth 128 falls with each doubling of L from 4 to 64.

Broken variant, run inside: the plain sums, that is `Residual` with its depth left at 1, miss the first bar, and have no limit: at
depth 64 their logits, even untrained, are further from those at 128 than all of ours.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from claims.optim._stacked import Copies, best_place
from sklearn.datasets import load_digits
from torch import nn

from nearly.optim.scaling import Residual, maximal_update

DEPTHS, DEEPEST, WIDTH, STEPS, SEEDS = (4, 8, 16, 32, 64), 128, 64, 50, 3
RATES = {"sgd": [2.0**k for k in range(-8, 1)], "adam": [2.0**k for k in range(-11, -4)]}


def network(depth, scaled=True):
    def block():
        return Residual(nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH, bias=False)), depth if scaled else 1)

    blocks = [block() for _ in range(depth)]
    return nn.Sequential(nn.Linear(64, WIDTH, bias=False), *blocks, nn.Linear(WIDTH, 10, bias=False))


def batches(count=STEPS):
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 8 - 0.5, torch.tensor(data.target)
    generator = torch.Generator().manual_seed(44)
    for _ in range(count):
        rows = torch.randint(len(x), (64,), generator=generator)
        yield x[rows], y[rows]


def best(depth, family, *, scaled=True):
    """The place of the best rate, and its loss."""
    models = [network(depth, scaled) for _ in RATES[family] for _ in range(SEEDS)]
    groups = []
    for run, model in enumerate(models):
        rate, base = RATES[family][run // SEEDS], DEPTHS[0] if scaled else 1
        groups.append(maximal_update(model, model, family=family, lr=rate, base_depth=base, seed=run % SEEDS).groups)
    losses = Copies(models, groups).train(batches(), nn.functional.cross_entropy, adam=family == "adam")
    place, means = best_place(losses, SEEDS, tail=10)
    return place, float(means[place])


def test_best_rate_is_that_of_the_shallow_network(record):
    plain_depths = {"sgd": DEPTHS[:3], "adam": (DEPTHS[0], DEPTHS[-1])}
    for family in ("sgd", "adam"):
        ours = [best(depth, family) for depth in DEPTHS]
        plain = [best(depth, family, scaled=False) for depth in plain_depths[family]]
        moved, plain_moved = (max(p for p, _ in found) - min(p for p, _ in found) for found in (ours, plain))
        ratio, plain_ratio = ours[-1][1] / ours[0][1], plain[-1][1] / plain[0][1]
        claim = f"{family}: steps that the best rate moves, depth 4 to 64"
        record(claim=claim, measured=moved, baseline=f"plain, to {plain_depths[family][-1]}: {plain_moved}")
        record(
            claim=f"{family}: best loss, deepest over shallowest", measured=ratio, baseline=f"plain {plain_ratio:.3g}"
        )
        assert moved <= 1
        assert ratio < 2
        assert plain_moved >= 2 if family == "sgd" else plain_ratio > 2


def merged(model, depth, scaled):
    """A network of this depth whose blocks are sums of neighbors in a deeper one."""
    small, share = network(depth, scaled), DEEPEST // depth
    with torch.no_grad():
        small[0].weight.copy_(model[0].weight)
        small[-1].weight.copy_(model[-1].weight)
        for place in range(depth):
            weights = [model[1 + place * share + k].branch[1].weight for k in range(share)]
            small[1 + place].branch[1].weight.copy_(torch.stack(weights).sum(dim=0) / math.sqrt(share))
    return small


def distances(deep, rate, *, scaled=True):
    """RMS distances of the logits at each depth to those at the deepest, after training, relative to the latter's size."""
    logits = []
    for depth in (*DEPTHS, DEEPEST):
        models = [merged(model, depth, scaled) for model in deep]
        copies = Copies(models, [[{"params": list(model.parameters()), "lr": rate}] for model in models])
        copies.train(batches(), nn.functional.cross_entropy, adam=False)
        logits.append(copies(next(batches())[0]).detach())
    return [float((out - logits[-1]).norm() / logits[-1].norm()) for out in logits[:-1]]


def test_logits_approach_a_limit_in_depth(record):
    deep = [network(DEEPEST) for _ in range(SEEDS)]
    for seed, model in enumerate(deep):
        maximal_update(model, model, family="sgd", lr=1.0, seed=seed)
    ours, plain = distances(deep, 2.0**-3), distances(deep, 0.0, scaled=False)
    claim = "relative distance of logits at depth 4, 8, .. 64 to those at 128"
    record(
        claim=claim,
        measured=", ".join(f"{d:.3g}" for d in ours),
        baseline=f"plain, untrained, depth 64: {plain[-1]:.3g}",
    )
    assert all(after < before for before, after in pairwise(ours))
    assert plain[-1] > ours[0]
