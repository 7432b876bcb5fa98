"""Row 137: Fisher-weighted singular value decomposition (Hsu et al. 2022, arXiv 2207.00112).

Works when a digits MLP, factorized to 33% of its parameters without retraining, loses on average over 5 seeds at most 0.8 times
the accuracy that it loses with the plain singular value decomposition, although the Frobenius error of its weights is at
least that of the plain one.

Network: 64-64-64-10 with ReLU, trained by Adam for 30 epochs on 1,000 of scikit-learn's 1,797 digits; accuracy on the other 797
(about 96%). Both methods keep 33% of the weights, each with ranks chosen over all layers by its own measure.

Measured: 0.014 against 0.068, Frobenius 6.28 against 6.11. What the numbers say beyond the bar, from 12 other seeds:
- The gain is that of the ranks: Fisher information makes the layers comparable (0.015 against 0.072), and plain factors at the
  ranks that it chooses do as well (0.011). With the paper's one ratio for all layers the output layer falls to rank 3 of 10,
  and weighted rows lose more than plain ones (0.42 against 0.31 here): the variant that the bar rejects below.
- It depends on the network: at width 96, where plain factors lose 0.003, Fisher-weighted ones lose 0.012; at width 32, 0.42
  against 0.35. Width 64 is where plain factors lose a few points, as in the paper.
- Weighting from both sides (`KroneckerWeightedLayers`) loses 0.004 on the seeds of this claim: recorded below.
"""

from __future__ import annotations

import copy
import statistics
from typing import Any

import pytest
import torch
from torch import nn

import nearly
from nearly.core.supply import Supply
from nearly.networks import FisherWeightedLayers, KroneckerWeightedLayers, TruncatedLayers
from nearly.networks._thin_layers import Factors, replace_layers, weights_of

PERCENT, SEEDS, TRAINED_ON = 33, 5, 1000


def train(seed: int, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(30):
        for batch in torch.randperm(len(images), generator=generator).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def one_ratio(net: nn.Module, factors: dict[str, Factors]) -> nn.Module:
    """Every layer at 33% of its own weights, as in the paper."""
    ranks = {name: round(PERCENT / 100 * w.numel() / sum(w.shape)) for name, w in weights_of(net).items()}
    thin, taken = replace_layers(copy.deepcopy(net), ranks)
    for name, pairs in taken.items():
        for layer, pair in pairs:
            pair[0].weight.copy_(factors[name].first[: ranks[name]])
            pair[1].weight.copy_(factors[name].second[:, : ranks[name]])
            pair[1].bias.copy_(layer.bias)
    return thin


def frobenius(net: nn.Module, thin: nn.Module) -> float:
    squares = 0.0
    for name, weight in weights_of(net).items():
        layer: Any = thin.get_submodule(name)
        product = layer[1].weight @ layer[0].weight if isinstance(layer, nn.Sequential) else layer.weight
        squares += float((product - weight).square().sum())
    return squares**0.5


def test_fisher_weights_spare_accuracy(record: Any) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    methods = {"plain": TruncatedLayers, "Fisher": FisherWeightedLayers, "Kronecker": KroneckerWeightedLayers}
    drops: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
        fit, test = order[:TRAINED_ON], order[TRAINED_ON:]
        net = train(seed, images[fit], labels[fit])
        target = nearly.Network(net, images[fit], certifying=images[test], metric="kl", seed=seed)

        def accuracy(module: nn.Module, test: torch.Tensor = test) -> float:
            return float((module(images[test]).argmax(dim=1) == labels[test]).double().mean())

        for name, method in methods.items():
            supply = Supply(target, seed)
            thin = method(percent=PERCENT).fit(target, seed=seed, supply=supply).model.module
            (factors,) = supply.kept.values()
            for key, module in ((name, thin), (f"{name}, one ratio", one_ratio(net, factors))):
                drops.setdefault(key, []).append(accuracy(net) - accuracy(module))
                errors.setdefault(key, []).append(frobenius(net, module))
    drop = {name: statistics.mean(values) for name, values in drops.items()}
    error = {name: statistics.mean(values) for name, values in errors.items()}
    record(
        claim="137: accuracy lost at 33%, Fisher-weighted (baseline: plain)",
        measured=drop["Fisher"],
        baseline=drop["plain"],
    )
    record(claim="137: Frobenius error of the same weights", measured=error["Fisher"], baseline=error["plain"])
    record(
        claim="137: accuracy lost with the paper's one ratio for all layers",
        measured=drop["Fisher, one ratio"],
        baseline=drop["plain, one ratio"],
    )
    record(claim="137: accuracy lost, weighted from both sides", measured=drop["Kronecker"], baseline=drop["plain"])
    assert drop["plain"] > 0.02, "the plain decomposition loses too little to compare"
    assert drop["Fisher"] <= 0.8 * drop["plain"]
    assert error["Fisher"] >= error["plain"]
    # The variant that must not pass the same bar.
    assert drop["Fisher, one ratio"] > 0.8 * drop["plain, one ratio"]
