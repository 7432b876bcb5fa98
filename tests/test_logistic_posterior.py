"""The logistic posterior's samples against quadrature."""

import numpy as np
import pytest
import torch

from nearly.core.errors import BadInput
from nearly.problems import logistic_posterior


def test_samples_have_the_moments_of_the_density():
    measure = logistic_posterior(dimension=2, observations=5, samples=20_000, seed=3)
    # The data again, drawn in the documented order; so few observations leave a posterior that is far from Gaussian.
    generator = torch.Generator().manual_seed(3)
    truth, x = (
        2 * torch.randn(2, dtype=torch.float64, generator=generator),
        torch.randn(5, 2, dtype=torch.float64, generator=generator),
    )
    heads = torch.rand(5, dtype=torch.float64, generator=generator) < torch.sigmoid(x @ truth)
    y = np.where(heads.numpy(), 1.0, -1.0)
    line = np.linspace(-12, 12, 801)
    w = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    log = -(w**2).sum(axis=1) / 8 - np.logaddexp(0, -(w @ x.numpy().T) * y).sum(axis=1)
    p = np.exp(log - log.max())
    p /= p.sum()
    mean = p @ w
    spread = (p[:, None] * (w - mean)).T @ (w - mean)
    skew = p @ (w - mean) ** 3
    samples = measure.samples.numpy()
    deviation = np.sqrt(np.diag(spread))
    assert np.abs(skew).max() / deviation.max() ** 3 > 0.15  # far enough from a Gaussian to tell
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.04 * deviation.max())
    np.testing.assert_allclose(np.cov(samples.T), spread, atol=0.05 * spread.max())
    np.testing.assert_allclose(
        ((samples - samples.mean(axis=0)) ** 3).mean(axis=0), skew, atol=0.1 * deviation.max() ** 3
    )


def test_same_seed_same_bits_and_sizes_as_asked():
    state = torch.get_rng_state()
    first, second = (logistic_posterior(3, 50, 301, seed=7).samples for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (301, 3)
    assert not torch.equal(first, logistic_posterior(3, 50, 301, seed=8).samples)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("argument", "value"), [("dimension", 0), ("observations", 1.5), ("samples", 1), ("seed", -1)])
def test_bad_input_is_refused_by_name(argument, value):
    with pytest.raises(BadInput, match=argument):
        logistic_posterior(**{argument: value})
