"""Row 136: the square-root rule changes Adam's batch size and keeps its trajectory (Malladi et al., 2205.10287).

A quadratic in 50 dimensions with curvatures from 0.1 to 1, started at normal numbers; the gradients of the smallest batch have
noise of deviation 40. Adam with betas (0.99, 0.9999), rate 0.004, 16384 steps, 256 runs at once. Time is steps times rate squared.
Bars: with batches 4 and 16 times as large and the settings of `rescaled_adam` the mean loss is within 5% of the plain run's at
each of 16 matched times; with the rate scaled linearly, the usual rule of SGD, it is 20% off or more at 16 times somewhere.
The same for RMSprop (alpha 0.9999); its second moment, which it does not correct for a start at 0, starts at its mean, as the
theorem assumes. The simulator: gradients amplified 2 times, in 4 times as many steps, stay within 5% too over the first quarter,
so that the differential equation does describe this run.

With noise of deviation 10 the largest batch's gradients are not dominated by noise (2.5 against gradients near 1), and its gap
was 10%: the rule's assumption, not its code.

Broken variant, run inside: the rate rescaled by the root, the betas left, misses the first bar.
"""

from __future__ import annotations

import torch

from nearly.optim.scaling import amplified_gradient, rescaled_adam, rescaled_rmsprop

DIMENSION, RUNS, STEPS, MARKS, NOISE = 50, 256, 16384, 16, 40.0
ADAM = {"lr": 4e-3, "betas": (0.99, 0.9999), "eps": 1e-8}
RMSPROP = {"lr": 4e-3, "alpha": 0.9999, "eps": 1e-8}


def mean_losses(make, batch, *, fineness=1, steps=STEPS, seed=0):
    """Mean losses over the runs at the marks; noise is that of batches `batch` times as large."""
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.linspace(0.1, 1.0, DIMENSION)
    start = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(136))
    x = start.expand(RUNS, DIMENSION).clone().requires_grad_()
    optimizer = make([x])
    count = round(steps * fineness**2 / batch)
    losses = []

    def gradient():
        return torch.randn(x.shape, generator=generator).mul_(NOISE / batch**0.5).addcmul_(x.detach(), curvature)

    for step in range(1, count + 1):
        x.grad = gradient() if fineness == 1 else amplified_gradient(gradient(), gradient(), fineness)
        optimizer.step()
        if step % (count // MARKS) == 0:
            losses.append(0.5 * (x.detach().square() @ curvature).mean())
    return torch.stack(losses)


def adam(**settings):
    return lambda parameters: torch.optim.Adam(parameters, **settings)


def test_square_root_rule(record):
    plain = mean_losses(adam(**ADAM), 1)

    def worst(make, batch):
        return float((mean_losses(make, batch, seed=batch) / plain - 1).abs().max())

    linear = worst(adam(**{**ADAM, "lr": 16 * ADAM["lr"]}), 16)
    broken = worst(adam(**{**rescaled_adam(16, **ADAM), "betas": ADAM["betas"]}), 16)
    fine = mean_losses(adam(**rescaled_adam(1 / 4, **ADAM)), 1, fineness=2, steps=STEPS // 4, seed=1)
    finer = float((fine[3::4] / plain[: MARKS // 4] - 1).abs().max())
    for factor in (4, 16):
        ours = worst(adam(**rescaled_adam(factor, **ADAM)), factor)
        record(
            claim=f"greatest relative gap of losses, batch x{factor}",
            measured=ours,
            baseline=f"linear x16 {linear:.3g}",
        )
        assert ours <= 0.05
    record(claim="gap of the simulated equation, twice as fine", measured=finer, baseline="bar 0.05")
    record(claim="betas left, batch x16", measured=broken, baseline="bar 0.05")
    assert linear >= 0.2
    assert finer <= 0.05
    assert broken > 0.05


def rmsprop(batch, **settings):
    def make(parameters):
        optimizer = torch.optim.RMSprop(parameters, **settings)
        for x in parameters:
            optimizer.state[x] = {"step": torch.tensor(0.0), "square_avg": torch.full_like(x, NOISE**2 / batch)}
        return optimizer

    return make


def test_square_root_rule_for_rmsprop(record):
    plain = mean_losses(rmsprop(1, **RMSPROP), 1)
    gap = float((mean_losses(rmsprop(16, **rescaled_rmsprop(16, **RMSPROP)), 16, seed=1) / plain - 1).abs().max())
    linear = float(
        (mean_losses(rmsprop(16, **{**RMSPROP, "lr": 16 * RMSPROP["lr"]}), 16, seed=2) / plain - 1).abs().max()
    )
    record(claim="RMSprop, batch x16", measured=gap, baseline=f"linear {linear:.3g}")
    assert gap <= 0.05
    assert linear >= 0.2
