"""Row 43: unit-scaled transformers start with all tensors at scale 1, and keep their best rate and eight bits (2407.17465).

A decoder of `nearly.optim.scaling`'s unit layers with four heads. Bars:
- at widths 64 and 512, two layers, random tokens: the RMS of every activation, of its gradient, of every weight and of its
  gradient is in [0.5, 2]. Exempt are the gradients of queries and keys and of their weights, and the logits' values, all of which
  vanish with width by design (logits of attention over the width, readout over the width); tokens are random since the scales
  assume independent rows: on text, whose rows are alike, weights' gradients reach 5.
- one layer, characters of the Python manual, 50 steps of Adam: on a grid of rates a factor of 2 apart the best one moves at most
  one step over widths 64 to 512.
- simulated casts (inputs and weights of all hidden layers e4m3, gradients e5m2) change the mean of the last ten losses by less
  than 1%, two seeds.
Baseline: the standard parametrization's RMS range, and the change that the same casts make to it (at this size they do not harm
it either: its gradients, down to 1e-5, are still representable in e5m2).

Broken variant, run inside: plain residual sums fail the first bar.
"""

from __future__ import annotations

import torch
from claims.optim import _transformer
from claims.optim._stacked import Copies, best_place
from claims.optim._transformer import HEADS, LENGTH, batches, next_token_loss, text
from torch import nn

from nearly.optim.scaling import (
    UnitEmbedding,
    UnitLinear,
    UnitReadout,
    UnitResidual,
    maximal_update,
    unit,
    unit_groups,
)

WIDTHS, STEPS, RATES = (64, 128, 256, 512), 50, [2.0**k for k in range(-3, 2)]


class Attention(nn.Module):
    """Queries, keys and values are layers of their own, so that each one's gradient is seen."""

    def __init__(self, width, float8, seed):
        super().__init__()
        self.query, self.key, self.value, self.outward = (
            UnitLinear(width, width, float8=float8, seed=seed) for _ in range(4)
        )

    def forward(self, x):
        batch, length, width = x.shape
        x = unit.rms_norm(x)
        parts = (
            part(x).reshape(batch, length, HEADS, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        self.heads = unit.attention(*parts)
        return self.outward(self.heads.transpose(1, 2).reshape(batch, length, width))


class Mixer(nn.Module):
    def __init__(self, width, float8, seed):
        super().__init__()
        self.inward = UnitLinear(width, 2 * width, float8=float8, seed=seed)
        self.outward = UnitLinear(2 * width, width, float8=float8, seed=seed)

    def forward(self, x):
        return self.outward(unit.gelu(self.inward(unit.rms_norm(x))))


class Transformer(nn.Module):
    def __init__(self, vocabulary, width, *, layers=1, float8=False, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.token = UnitEmbedding(vocabulary, width, seed=generator)
        self.place = UnitEmbedding(LENGTH, width, seed=generator)
        parts = [part(width, float8, generator) for _ in range(layers) for part in (Attention, Mixer)]
        self.branches = nn.Sequential(*(UnitResidual(part, i, len(parts)) for i, part in enumerate(parts)))
        self.readout = UnitReadout(width, vocabulary, seed=generator)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        x = (self.token(tokens) + self.place(places)) * 0.5**0.5
        return self.readout(unit.rms_norm(self.branches(x)))


def rms(tensor):
    return float(tensor.detach().square().mean().sqrt())


def scales(model, loss):
    """RMS of all modules' outputs, their gradients, the weights and theirs, by name, on random tokens."""
    outputs = {}

    def keep(name):
        def hook(module, inputs, output):
            output.retain_grad()
            outputs[name] = output

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    tokens, targets = torch.randint(94, (2, 64, LENGTH), generator=torch.Generator().manual_seed(1))
    loss(model(tokens), targets).backward()
    found = {}
    for name, tensor in [*outputs.items(), *model.named_parameters()]:
        found[name], found[f"gradient of {name}"] = rms(tensor), rms(tensor.grad)
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            found[f"{name}.heads"] = rms(module.heads)
    return found


def exempt(name):
    return name in {"", "readout"} or (name.startswith("gradient") and (".query" in name or ".key" in name))


def spread(found):
    kept = [value for name, value in found.items() if not exempt(name)]
    return min(kept), max(kept)


def test_scales_at_the_start(record):
    for width in (WIDTHS[0], WIDTHS[-1]):
        least, greatest = spread(scales(Transformer(94, width, layers=2), unit.cross_entropy))
        plain = _transformer.Transformer(94, width, (width // HEADS) ** -0.5, layers=2)
        maximal_update(plain, plain, family="adam", lr=1.0)
        standard = "{:.2g} to {:.2g}".format(*spread(scales(plain, next_token_loss)))
        claim = f"least and greatest RMS of all tensors, width {width}"
        record(claim=claim, measured=f"{least:.3g} to {greatest:.3g}", baseline=standard)
        assert 0.5 <= least <= greatest <= 2
    broken = Transformer(94, WIDTHS[0], layers=2)
    for module in broken.modules():
        if isinstance(module, UnitResidual):
            module.weights = 1.0, 1.0
    least, greatest = spread(scales(broken, unit.cross_entropy))
    record(claim="plain residual sums", measured=f"{least:.3g} to {greatest:.3g}", baseline="bar 0.5 to 2")
    assert least < 0.5 or greatest > 2


def test_best_rate_is_that_of_the_narrow_network(record):
    stream, vocabulary = text()
    places = []
    for width in WIDTHS:
        models = [Transformer(vocabulary, width) for _ in RATES]
        groups = [unit_groups(model, lr=rate) for model, rate in zip(models, RATES, strict=True)]
        losses = Copies(models, groups).train(batches(stream, STEPS, 16), unit.cross_entropy)
        place, means = best_place(losses, 1, tail=10)
        places.append(place)
    claim = "steps that the best rate moves, width 64 to 512"
    record(
        claim=claim,
        measured=max(places) - min(places),
        baseline=f"best rate {RATES[places[0]]}, loss {means[place]:.3g}",
    )
    assert max(places) - min(places) <= 1


class CastLinear(nn.Linear):
    def forward(self, x):
        out = nn.functional.linear(unit.as_float8(x), unit.as_float8(self.weight))
        return unit.as_float8(out, None, torch.float8_e5m2)


def last_losses(models, groups, loss):
    return float(Copies(models, groups).train(batches(text()[0], STEPS, 16), loss)[:, -10:].mean())


def test_eight_bits(record):
    width, vocabulary, seeds = 128, text()[1], (0, 1)
    ours, standard = [], []
    for cast in (False, True):
        models = [Transformer(vocabulary, width, float8=cast, seed=seed) for seed in seeds]
        ours.append(last_losses(models, [unit_groups(model, lr=0.5) for model in models], unit.cross_entropy))
        models = [_transformer.Transformer(vocabulary, width, (width // HEADS) ** -0.5) for _ in seeds]
        groups = [
            maximal_update(model, model, family="adam", lr=2.0**-8, seed=s).groups for s, model in enumerate(models)
        ]
        for model in models:
            for layer in model.branches.modules():
                if cast and isinstance(layer, nn.Linear):
                    layer.__class__ = CastLinear
        standard.append(last_losses(models, groups, next_token_loss))
    moved, standard_moved = (abs(after / before - 1) for before, after in (ours, standard))
    record(claim="relative change of the loss by eight bits", measured=moved, baseline=f"standard {standard_moved:.3g}")
    assert moved < 0.01
