"""Row 2: one momentum method whose norm gives Muon, normalized and sign descent (Kovalev, arXiv 2503.12645).

Spectral, l2 and l_inf norms give the steps of Muon with exact polar factors, normalized SGD and signSGD with momentum, to 1e-6.
On a noisy regression for a 24 x 24 matrix (gradients of single rows, whose targets carry exponential noise of deviation 10 less
its mean; 400 steps, rates falling linearly to zero, the best of 5 for each) the nuclear norm of the final gradient is at most
half of that of Orthogonal-SGDM, which orthogonalizes gradients before it averages them, and so does not average out noise whose
normalized mean is not zero. The bar holds where such noise rules: with targets without noise, or 16 rows a step, Orthogonal-SGDM
is the better one (0.03 against 0.44), as its steps shrink with the gradient; the second measurement says so.

Broken variant, run inside: momentum of 0, which orthogonalizes each row's gradient too, misses the bar.
"""

from __future__ import annotations

import torch

from nearly.optim import TrustRegion

N, ROWS, STEPS = 24, 2000, 400
RATES = [10 ** (-k / 2) for k in range(5)]


def polar(matrix):
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left * (values > 1e-9 * values[0])) @ right


def normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_norms_give_the_three_methods(record):
    directions = {"spectral": polar, "l2": lambda m: m / m.norm(), "linf": torch.sign}
    gaps = {}
    for norm, direction in directions.items():
        parameter = torch.nn.Parameter(normal(6, 4, seed=0) if norm != "spectral" else normal(6, 6, seed=0))
        optimizer = TrustRegion([parameter], lr=0.1, momentum=0.8, weight_decay=0.1, norm=norm)
        ours, mean = parameter.detach().clone(), 0.0
        for step in range(5):
            gradient = normal(*parameter.shape, seed=step + 1)
            parameter.grad = gradient
            optimizer.step()
            mean = 0.8 * mean + 0.2 * gradient
            ours = (1 - 0.1 * 0.1) * ours - 0.1 * direction(mean)
        gaps[norm] = float((ours - parameter).detach().abs().max())
    record(claim="gap to Muon, normalized and sign descent", measured=max(gaps.values()), baseline="bar 1e-6")
    assert max(gaps.values()) <= 1e-6


def nuclear_norm(method, rate, seed, batch=1, noise=10.0):
    """Of the true gradient at the end."""
    rows, truth = normal(ROWS, N, seed=100), normal(N, N, seed=101)
    uniform = torch.rand(ROWS, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(102))
    targets = rows @ truth + noise * (-uniform.log() - 1)
    draw = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.zeros(N, N, dtype=torch.float64))
    optimizer = TrustRegion([parameter], lr=rate, momentum=0.0 if method == "without momentum" else 0.95)
    mean = torch.zeros_like(parameter)
    for step in range(STEPS):
        left = 1 - step / STEPS
        chosen = torch.randint(ROWS, (batch,), generator=draw)
        gradient = rows[chosen].T @ (rows[chosen] @ parameter.detach() - targets[chosen]) / batch
        if method == "orthogonalize, then average":
            mean = 0.95 * mean + 0.05 * polar(gradient)
            parameter.data -= rate * left * mean
        else:
            optimizer.param_groups[0]["lr"] = rate * left
            parameter.grad = gradient
            optimizer.step()
    gradient = rows.T @ (rows @ parameter.detach() - targets) / ROWS
    return float(torch.linalg.matrix_norm(gradient, "nuc"))


def test_averaging_before_orthogonalizing_halves_the_gradient(record):
    found = {}
    for method in ("trust region", "orthogonalize, then average", "without momentum"):
        rate = min(RATES, key=lambda rate: nuclear_norm(method, rate, 7))
        found[method] = sum(nuclear_norm(method, rate, seed) for seed in range(3)) / 3
    ours, theirs, broken = found.values()
    record(claim="nuclear norm of the final gradient", measured=ours, baseline=theirs)
    record(claim="nuclear norm without momentum", measured=broken, baseline=theirs / 2)
    easy = [nuclear_norm(method, 0.1, 0, batch=16, noise=0.0) for method in list(found)[:2]]
    record(claim="nuclear norm without noise, 16 rows (no bar)", measured=easy[0], baseline=easy[1])
    assert ours <= theirs / 2
    assert broken > theirs / 2
