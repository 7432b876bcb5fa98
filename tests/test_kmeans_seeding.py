"""Rejection sampling has exactly the law of k-means++."""

import math
from collections import Counter

import pytest
import torch

from nearly import Measure
from nearly.core.errors import BadInput
from nearly.linalg.kmeans_seeding import kmeans_seeds, nearest_seed
from nearly.measures import KMeansCoreset

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [5.0, 6.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)


def law(points: torch.Tensor, weights: torch.Tensor, count: int) -> dict[tuple[int, ...], float]:
    """The probability of every ordered choice under k-means++."""
    found = {(i,): float(weights[i] / weights.sum()) for i in range(len(points))}
    for _ in range(count - 1):
        longer = {}
        for chosen, probability in found.items():
            near = weights * torch.cdist(points, points[list(chosen)]).amin(dim=1).square()
            for i, share in enumerate((near / near.sum()).tolist()):
                if share:
                    longer[*chosen, i] = probability * share
        found = longer
    return found


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_seeds_have_the_law_of_kmeans_plus_plus(shift):
    draws, generator = 4000, torch.Generator().manual_seed(0)
    counts = Counter(
        tuple(kmeans_seeds(POINTS + shift, 3, weights=WEIGHTS, generator=generator).indices.tolist())
        for _ in range(draws)
    )
    expected = law(POINTS, WEIGHTS, 3)
    assert set(counts) <= set(expected)
    # Pearson's statistic over the choices that are common enough; its mean and variance are n and 2 n.
    common = [choice for choice, p in expected.items() if p * draws >= 5]
    statistic = sum((counts[c] - expected[c] * draws) ** 2 / (expected[c] * draws) for c in common)
    assert statistic < len(common) + 4 * math.sqrt(2 * len(common))


def test_one_try_accepts_or_draws_by_weight():
    draws, generator = 4000, torch.Generator().manual_seed(0)
    line = torch.tensor([[-1.0], [0.0], [3.0]], dtype=torch.float64)
    pairs = [kmeans_seeds(line, 2, tries=1, generator=generator).indices.tolist() for _ in range(draws)]
    centered = line - line.mean()
    expected = 0.0
    for first in range(3):
        bound = centered.square().sum(dim=1) + centered[first].square()
        near = (line - line[first]).square().sum(dim=1)
        accepted = near / (2 * bound.sum())
        expected += float(accepted[2] + (1 - accepted.sum()) / 3) / 3
    share = sum(second == 2 for _, second in pairs) / draws
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / draws))


def test_distinct_points_run_out():
    twins = torch.tensor([[0.0]] * 50 + [[1.0]] * 50)
    found = kmeans_seeds(twins, 10, generator=torch.Generator().manual_seed(0))
    assert sorted(twins[found.indices].flatten().tolist()) == [0.0, 1.0]


def test_coreset_keeps_mass_and_mean_and_falls_faster_than_sampling():
    x = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    measure = Measure(x, weights=torch.exp(x[:, 0]))
    inputs = measure.sample(300, 0)
    errors = []
    for size in (25, 100, 400):
        surrogate = KMeansCoreset(size=size).fit(measure)
        model = surrogate.model
        torch.testing.assert_close(model.weights.sum(), torch.ones((), dtype=x.dtype))
        torch.testing.assert_close(model.weights @ model.points, measure.weights @ x)
        errors.append(float(measure.error(measure(inputs), surrogate(inputs)).mean()))
    assert errors[2] < errors[0] / 4**1.6  # 4^2 for the rate size^(-2/d), 4 for independent samples


def test_nearest_seed_is_nearest():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nearest_seed(x, x[:7]), torch.cdist(x, x[:7]).argmin(dim=1))


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("points", {"points": torch.zeros(4)}),
        ("count", {"count": 0}),
        ("count", {"count": 6}),
        ("tries", {"tries": 0}),
        ("weights", {"weights": torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])}),
        ("weights", {"weights": torch.ones(4)}),
    ],
)
def test_bad_input_is_refused_by_name(argument, change):
    with pytest.raises(BadInput) as caught:
        kmeans_seeds(**({"points": POINTS, "count": 2, "generator": torch.Generator()} | change))
    assert caught.value.argument == argument
