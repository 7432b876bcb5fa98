"""Kernel thinning against a transcription of its papers, and at its edges."""

import math

import pytest
import torch

from nearly import Measure
from nearly.core.errors import BadInput
from nearly.linalg.kernel_thinning import _halve, _resample, gaussian_kernel, kernel_thinning, laplace_kernel
from nearly.measures import KernelThinning, RandomSubsample


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def discrepancy(points, index, kernel, weights=None) -> float:
    weights = torch.full((len(points),), 1 / len(points), dtype=points.dtype) if weights is None else weights
    signed = weights.index_add(0, index, torch.full((len(index),), -1 / len(index), dtype=points.dtype))
    return math.sqrt(max(0.0, float(signed @ kernel(points, points) @ signed)))


def halve_as_printed(k, log, draws):
    """KT-SPLIT with m = 1 (Dwivedi and Mackey 2022, algorithm 1a): pair by pair, every kernel sum anew."""
    first, second, sigma = [], [], 0.0
    for i, draw in enumerate(draws):
        x, y = 2 * i, 2 * i + 1
        b2 = k[x, x] + k[y, y] - 2 * k[x, y]
        a = max(math.sqrt(b2 * sigma * 2 * log), b2)
        sigma += b2 * max(0.0, 1 + (b2 / a - 2) * sigma / a)
        alpha = sum(k[z, x] - k[z, y] for z in first + second) - 2 * sum(k[z, x] - k[z, y] for z in first)
        if draw <= (1 - alpha / a) / 2:
            x, y = y, x
        first.append(x)
        second.append(y)
    return [first, second]


def test_halving_is_the_printed_one():
    x = normal(3, 40, 2)
    k = gaussian_kernel(2.0)(x, x)
    draws = torch.rand(3, 20, dtype=torch.float64, generator=seeded(5))
    expected = [halve_as_printed(k[b].numpy(), math.log(320), draws[b].tolist()) for b in range(3)]
    assert _halve(k, math.log(320), seeded(5)).tolist() == expected


def test_kernels_are_as_documented():
    x, y = normal(5, 3), normal(4, 3, seed=1) + 100
    distance = (x[:, None] - y).norm(dim=2)
    torch.testing.assert_close(gaussian_kernel(70.0)(x, y), torch.exp(-distance.square() / 9800))
    torch.testing.assert_close(laplace_kernel(70.0)(x, y), torch.exp(-distance / 70))


@pytest.mark.parametrize(
    ("n", "size"), [(4096, 64), (3000, 50), (5000, 1500), (300, 299), (7, 2), (5, 1), (6, 6), (3, 9)]
)
def test_any_size_is_near_its_measure(n, size):
    x, kernel = normal(n, 2), gaussian_kernel(2.0)
    index = kernel_thinning(x, size, kernel, generator=seeded(1))
    assert index.shape == (size,)
    at_random = [discrepancy(x, torch.randint(n, (size,), generator=seeded(s)), kernel) for s in range(5)]
    assert discrepancy(x, index, kernel) < (0.5 if n > 100 else 1.0) * sum(at_random) / 5


def test_it_is_near_the_weighted_measure():
    x, kernel = normal(2000, 2), gaussian_kernel(2.0)
    weights = torch.exp(x[:, 0])
    index = kernel_thinning(x, 64, kernel, weights=7 * weights, generator=seeded(1))
    assert discrepancy(x, index, kernel, weights / weights.sum()) < 0.01
    assert discrepancy(x, index, kernel) > 0.1


def test_resampling_gives_each_point_its_share():
    weights = torch.tensor([0.5, 3.0, 0.25, 1.25], dtype=torch.float64)
    for seed in range(20):
        counts = _resample(weights, 32, seeded(seed)).bincount(minlength=4)
        assert bool(((counts - 32 * weights / weights.sum()).abs() < 1).all())
    assert _resample(torch.full((64,), 1 / 64), 64, seeded(0)).tolist() == list(range(64))


def test_sorted_and_repeated_points_are_thinned_too():
    kernel = gaussian_kernel(1.0)
    line = torch.linspace(-2, 2, 4096, dtype=torch.float64)[:, None]
    assert discrepancy(line, kernel_thinning(line, 64, kernel, generator=seeded(0)), kernel) < 1e-3
    twins = torch.cat([torch.zeros(300, 1), torch.ones(100, 1)]).double()
    chosen = twins[kernel_thinning(twins, 8, kernel, generator=seeded(0))]
    assert float(chosen.sum()) == 2.0


def test_method_takes_the_measures_own_scale_weights_and_dtype():
    x = normal(2000, 2).float()
    measure = Measure(x, weights=torch.exp(x[:, 0]), scale=0.5)
    inputs = measure.sample(500, 3)
    errors = {
        m: float(measure.error(measure(inputs), m(size=64).fit(measure)(inputs)).mean())
        for m in (KernelThinning, RandomSubsample)
    }
    assert errors[KernelThinning] < 0.5 * errors[RandomSubsample]
    model = KernelThinning(size=64).fit(measure).model
    assert model.points.dtype == model.weights.dtype == torch.float32
    everything = KernelThinning(size=2000).fit(measure).model
    assert torch.equal(everything.points, x)
    assert torch.equal(everything.weights, measure.weights)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("points", {"points": torch.zeros(4)}),
        ("points", {"points": torch.full((4, 2), torch.nan)}),
        ("size", {"size": 0}),
        ("size", {"size": 2.0}),
        ("weights", {"weights": torch.ones(3)}),
        ("weights", {"weights": torch.tensor([1.0, 1.0, 0.0, 1.0])}),
    ],
)
def test_bad_input_is_refused_by_name(argument, change):
    good = {"points": torch.zeros(4, 2), "size": 2, "kernel": gaussian_kernel(1.0), "generator": seeded(0)}
    with pytest.raises(BadInput) as caught:
        kernel_thinning(**(good | change))
    assert caught.value.argument == argument


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, "1"])
def test_a_scale_is_a_positive_number(scale):
    for kernel in (gaussian_kernel, laplace_kernel):
        with pytest.raises(BadInput, match="scale"):
            kernel(scale)
