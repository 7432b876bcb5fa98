"""Row 144: maximal-update parametrization keeps learning features at any width (Yang and Hu, arXiv 2011.14522).

A tanh network with two hidden layers, widths 128 to 4096, 20 SGD steps at the base's rate on one batch of a seeded regression.
Bars: the log-log slope of the hidden layers' RMS change against width is within 0.1 of 0 under the parametrization, and within
0.1 of -1/2 under the kernel parametrization (NTK: weights of order 1 times 1/sqrt(fan_in), run as the rates 1/fan_in that it
amounts to). A linear network with one hidden layer has a limit that is computed exactly: (input weights, n times output weight)
of each unit are multiplied, each step, by one matrix that the outputs determine, so that their second moments obey a closed
recursion. The outputs after 20 steps approach it with slope at most -0.4 (RMS over 32 seeds).

Broken variant, run inside: the parametrization with another family's rates, Adam's, under SGD misses the first bar.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from nearly.optim.scaling import coordinate_check, maximal_update

WIDTHS, BASE, STEPS, RATE = (128, 256, 512, 1024, 2048, 4096), 128, 20, 0.03


def network(width):
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def maximal(family):
    def make(model, seed):
        return torch.optim.SGD(maximal_update(model, network(BASE), family=family, lr=RATE, seed=seed).groups)

    return make


def kernel(model, seed):
    maximal_update(model, model, family="sgd", lr=RATE, seed=seed)  # as wide as its base: standard initialization
    ratio = model[2].in_features / BASE
    wide = [{"params": [model[place].weight], "lr": RATE / ratio} for place in (2, 4)]
    return torch.optim.SGD([*wide, {"params": [model[0].weight, *(model[place].bias for place in (0, 2, 4))]}], lr=RATE)


def test_features_are_learned_at_any_width(record):
    generator = torch.Generator().manual_seed(144)
    x = torch.randn(16, 10, generator=generator)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    found = {}
    for name, optimizer in (("maximal", maximal("sgd")), ("kernel", kernel), ("broken", maximal("adam"))):
        check = coordinate_check(
            lambda width, seed: network(width),
            WIDTHS,
            optimizer,
            (x, y),
            loss=nn.functional.mse_loss,
            steps=STEPS,
            seeds=2,
            layers=("1", "3"),
        )
        found[name] = tuple(check.slopes().values())
    for layer in (0, 1):
        record(
            claim=f"slope of hidden layer {layer + 1}'s change against width",
            measured=found["maximal"][layer],
            baseline=f"kernel {found['kernel'][layer]:.3g}; broken {found['broken'][layer]:.3g}",
        )
    assert all(abs(slope) <= 0.1 for slope in found["maximal"])
    assert all(abs(slope + 0.5) <= 0.1 for slope in found["kernel"])
    assert any(abs(slope) > 0.1 for slope in found["broken"])


def limit_outputs(x, y, steps, rate):
    """Outputs of the infinitely wide linear network; u has variance 1/d, w = n v variance BASE; rates as at the base."""
    count, d = x.shape
    moments = torch.diag(torch.cat([torch.full((d,), 1 / d), torch.tensor([float(BASE)])])).double()
    for _ in range(steps):
        outputs = x @ moments[:d, d]
        pull = x.T @ (2 * (outputs - y) / count)
        move = torch.eye(d + 1, dtype=torch.float64)
        move[:d, d] = -rate / BASE * pull
        move[d, :d] = -rate * BASE * pull
        moments = move @ moments @ move.T
    return x @ moments[:d, d]


def test_outputs_approach_the_computed_limit(record):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(8, generator=generator, dtype=torch.float64)
    rate, steps, seeds = 0.002, 20, 32
    limit = limit_outputs(x, y, steps, rate)

    def build(width):
        return nn.Sequential(nn.Linear(8, width, bias=False), nn.Linear(width, 1, bias=False)).double()

    errors = []
    for width in WIDTHS:
        squares = []
        for seed in range(seeds):
            model = build(width)
            scaled = maximal_update(model, build(BASE), family="sgd", lr=rate, seed=1000 * width + seed)
            optimizer = torch.optim.SGD(scaled.groups)
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x)[:, 0], y).backward()
                optimizer.step()
            squares.append((model(x)[:, 0].detach() - limit).square().mean())
        errors.append(math.sqrt(sum(squares) / seeds))
    logs = torch.tensor(WIDTHS).double().log()
    logs -= logs.mean()
    slope = float(logs @ torch.tensor(errors).double().log() / (logs @ logs))
    scale = float(limit.square().mean().sqrt())
    record(claim="slope of the outputs' distance to the limit", measured=slope, baseline="bar -0.4")
    record(
        claim="relative distance at width 4096",
        measured=errors[-1] / scale,
        baseline=f"width 128 {errors[0] / scale:.3g}",
    )
    assert slope <= -0.4
