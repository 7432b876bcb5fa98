"""Row 234: differences of the quantized loss along straight-through directions (Yang, Aamodt, arXiv 2510.23926).

The digits' perceptron 64-10-10 with ReLU and weights of two bits, the nearest of -1.5, -0.5, 0.5, 1.5, over the root of the
fan-in; 740 numbers, batches of 128, 400 steps of Adam, rates falling linearly to zero, the best of 3 for each method, mean of 5
seeds. The straight-through gradient is that of the identity within the levels' range, zero outside; `share` falls from one to
0.999, as in the paper. The final loss on all digits is below straight-through's, and below the best of n-SPSA with at most 1/50 of
its forward passes, a backward pass counted as two. n-SPSA has n = 740 directions, as many as numbers, as in the paper, and 200
steps of descent on batches of 64 with the best of 3 rates (by Adam it ends at 0.50).

Broken variants, run inside: differences over a thousandth of a quantization step, which do not see the quantization, and no
guide.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from nearly.optim import Fogzo

HIDDEN, STEPS, SEEDS, RATES = 10, 400, range(5), (0.1, 0.15, 0.2)
SPREAD = 12**-0.5  # of the quantization step, which is 1
PASSES = 1 + 2 + 2  # forward, backward, and the two ends of a difference


def digits():
    numbers, classes = load_digits(return_X_y=True)
    x = torch.from_numpy(numbers).float()
    x = x - x.mean(dim=0)
    return x / x.std(), torch.from_numpy(classes)


X, Y = digits()


def quantized(weight):
    return weight.clamp(-1.99, 1.99).floor() + 0.5


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, weight):
        context.save_for_backward(weight)
        return quantized(weight)

    @staticmethod
    def backward(context, slopes):
        (weight,) = context.saved_tensors
        return slopes * (weight.abs() <= 2)


def outputs(weights, x, quantize=StraightThrough.apply):
    inward, outward = (quantize(weight) for weight in weights)
    return (x @ inward.mT / 8).relu() @ outward.mT / HIDDEN**0.5


def start(seed):
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((HIDDEN, 64), (10, HIDDEN))]


def batches(seed, steps, rows):
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(X), (rows,), generator=draw)
        yield step / steps, X[chosen], Y[chosen]


def end(weights):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(outputs(weights, X), Y))


def straight_through(rate, seed):
    weights = start(seed)
    optimizer = torch.optim.Adam(weights, lr=rate)
    for done, x, y in batches(seed, STEPS, 128):
        optimizer.param_groups[0]["lr"] = rate * (1 - done)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs(weights, x), y).backward()
        optimizer.step()
    return end(weights)


def fogzo(rate, seed, *, spread=SPREAD, guide=True):
    weights = start(seed)
    optimizer = Fogzo(weights, lr=rate, spread=spread, rule="adam", seed=seed)
    for done, x, y in batches(seed, STEPS, 128):
        share = min(1 - 1e-3 * done, 1 - 1e-9) if guide else 0.0
        optimizer.param_groups[0].update(lr=rate * (1 - done), share=share)
        optimizer.step(lambda: nn.functional.cross_entropy(outputs(weights, x), y))  # noqa: B023
    return end(weights)


def simultaneous_perturbation(rate, steps):
    """n-SPSA with as many directions as numbers, all at once; final loss and forward passes."""
    weights, draw = start(0), torch.Generator().manual_seed(1)
    count = sum(weight.numel() for weight in weights)
    with torch.no_grad():
        for done, x, y in batches(0, steps, 64):
            noise = [(torch.rand(count, *w.shape, generator=draw) - 0.5) * 12**0.5 for w in weights]
            values = [
                nn.functional.cross_entropy(
                    outputs([w + sign * SPREAD * u for w, u in zip(weights, noise, strict=True)], x, quantized).mT,
                    y.expand(count, -1),
                    reduction="none",
                ).mean(dim=1)
                for sign in (1, -1)
            ]
            slopes = (values[0] - values[1]) / (2 * SPREAD * count)
            for weight, u in zip(weights, noise, strict=True):
                weight -= rate * (1 - done) * torch.tensordot(slopes, u, dims=1)
    return end(weights), 2 * count * steps


def best(method, rates=RATES, **options):
    return min(sum(method(rate, seed, **options) for seed in SEEDS) / len(SEEDS) for rate in rates)


def test_below_straight_through_and_cheaper_than_differences_alone(record):
    ours, theirs = best(fogzo), best(straight_through)
    record(claim="training loss of a 2-bit perceptron after equal steps", measured=ours, baseline=theirs)
    slow, passes = min(simultaneous_perturbation(rate, 200) for rate in (10.0, 20.0, 40.0))
    record(claim="training loss, and n-SPSA's best", measured=ours, baseline=slow)
    record(claim="forward passes for it, over n-SPSA's", measured=PASSES * STEPS / passes, baseline="bar 1/50")
    broken = best(fogzo, (0.15,), spread=1e-3 * SPREAD), best(fogzo, (0.15,), guide=False)
    record(claim="training loss of differences that see no quantization", measured=broken[0], baseline=theirs)
    record(claim="training loss without a guide", measured=broken[1], baseline=theirs)
    assert ours < theirs
    assert ours <= slow
    assert passes >= 50 * PASSES * STEPS
    assert min(broken) > theirs
