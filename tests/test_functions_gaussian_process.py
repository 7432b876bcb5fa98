"""Gaussian processes against gpytorch's own exact posterior, finite differences, and cases with known answers."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

import nearly
from nearly.core.certificate import Estimate
from nearly.core.domain import Box
from nearly.core.errors import BadInput, MissingExtra
from nearly.core.nouns import Function
from nearly.functions import GaussianProcess
from nearly.linalg import gaussian_process
from nearly.linalg.features import features_of
from nearly.problems.robot_arm import robot_arm

gpytorch = pytest.importorskip("gpytorch")


def smooth(metric: str = "spread") -> Function:
    return Function(
        lambda x: torch.exp(x[:, 0]) * torch.sin(3 * x[:, 1]),
        Box([0.1, -1.0], [2.0, 1.0], log=[True, False]),
        metric=metric,
    )


@pytest.mark.parametrize("problem", [smooth, robot_arm])
def test_answers_and_deviations_are_those_of_gpytorch_computed_exactly(problem) -> None:
    target = problem()
    model = GaussianProcess(samples=40).fit(target).model
    fresh = target.sample(30, 1)

    class Exact(gpytorch.models.ExactGP):
        def __init__(self, x, y, likelihood) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            kernels = {"matern": gpytorch.kernels.MaternKernel(nu=2.5), "gaussian": gpytorch.kernels.RBFKernel()}
            self.covar_module = gpytorch.kernels.ScaleKernel(kernels[model.kernel])

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    matrix = model.factor @ model.factor.T
    nugget = float(matrix[0, 0]) - 1
    outputs = (matrix @ model.weights)[:, 0] + model.mean
    likelihood = gpytorch.likelihoods.GaussianLikelihood(
        noise_constraint=gpytorch.constraints.GreaterThan(1e-14)
    ).double()
    exact = Exact(model.references, outputs, likelihood).double()
    variance = float(model.spread) ** 2
    exact.covar_module.outputscale, exact.covar_module.base_kernel.lengthscale = variance, 1.0
    exact.mean_module.constant.data = model.mean[0]
    likelihood.noise = variance * nugget
    exact.eval()
    scaled = features_of(model, fresh) / model.lengths
    with gpytorch.settings.fast_computations(False, False, False), torch.no_grad():
        posterior = exact(scaled)
    torch.testing.assert_close(model(fresh)[:, 0], posterior.mean, rtol=1e-5, atol=1e-6 * float(model.spread))
    # The constant mean is estimated here and known there: the deviation is larger, by little.
    ours, theirs = model.deviation(fresh)[:, 0], posterior.variance.sqrt()
    assert (ours > 0.99 * theirs).all()
    assert float((ours / theirs).median()) < 1.2


def test_deviation_holds_the_uncertainty_of_the_mean() -> None:
    """Far from all samples it is that of the mean alone: spread^2 (1 + 1 / (1^T A^-1 1))."""
    model = GaussianProcess(samples=40).fit(smooth()).model
    model.lengths = model.lengths * 1e-6
    model.references = model.references * 1e6
    model.factor = torch.eye(40, dtype=torch.float64)
    apart = model.deviation(smooth().sample(3, 1))
    torch.testing.assert_close(apart, (model.spread * (1 + 1 / 40) ** 0.5).expand(3, 1))


@pytest.mark.parametrize("kernel", gaussian_process.KERNELS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_restricted_likelihood_and_its_gradient(kernel: str, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(25, 2, dtype=torch.float64, generator=generator) - 1
    y = torch.stack([torch.sin(3 * x[:, 0]) + x[:, 1], torch.cos(x[:, 0])], dim=1)[:, :outputs]
    module = gaussian_process._gpytorch_kernel(kernel, 2).double()
    theta = torch.tensor([0.3, -0.2, -6.0], dtype=torch.float64)
    value, gradient = gaussian_process._restricted_likelihood(module, theta, x, y)
    lengths, nugget = theta[:2].exp(), theta[2].exp()
    matrix = gaussian_process.correlation(kernel, x / lengths, x / lengths) + nugget * torch.eye(
        25, dtype=torch.float64
    )
    # Restricted likelihood by its definition: that of contrasts that are orthogonal to the constant.
    contrasts = torch.linalg.qr(torch.cat([torch.ones(25, 1), torch.eye(25)[:, :24]], dim=1).double())[0][:, 1:]
    inner = contrasts.T @ matrix @ contrasts
    expected = 0.0
    for k in range(outputs):
        left = contrasts.T @ y[:, k]
        expected += float(24 * (left @ torch.linalg.solve(inner, left)).log() + torch.logdet(inner))
    expected += outputs * float(np.log(25))  # log 1^T A^-1 1 is taken with ones, not with their unit vector
    assert value == pytest.approx(expected, rel=1e-9)
    for j in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[j] = 1e-5
        ends = [gaussian_process._restricted_likelihood(module, theta + s * step, x, y)[0] for s in (1, -1)]
        assert float(gradient[j]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_noise_is_learned_and_not_interpolated() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, 1, dtype=torch.float64, generator=generator)
    noise = 0.1 * torch.randn(300, 1, dtype=torch.float64, generator=generator)
    target = Function.from_data(x, torch.sin(6 * x) + noise, certify=90)
    surrogate = GaussianProcess(samples=200).fit(target)
    inside = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)[:, None]
    assert float((surrogate.model(inside) - torch.sin(6 * inside)).abs().max()) < 0.08


def test_own_deviation_is_an_estimate_and_the_certificate_is_probable() -> None:
    target = smooth(metric="absolute")
    surrogate = nearly.fit(target, method=GaussianProcess(samples=40))
    estimate = surrogate.model.estimate(target.sample(100, 5))
    assert type(estimate) is Estimate
    assert 0.01 < estimate.error < 0.5
    assert type(surrogate.certificate).__name__ == "Probable"
    with pytest.raises(BadInput, match="Bound"):
        surrogate.bound(target.sample(2, 0))


def test_constant_and_repeated_rows() -> None:
    constant = Function(lambda x: 2 + 0 * x[:, 0], Box([0.0], [1.0]), metric="absolute")
    surrogate = GaussianProcess(samples=8).fit(constant)
    torch.testing.assert_close(surrogate(constant.sample(5, 1)), torch.full((5, 1), 2.0, dtype=torch.float64))
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None].repeat(4, 1)
    repeated = Function.from_data(x, torch.sin(3 * x), certify=90)
    assert torch.isfinite(GaussianProcess(samples=30).fit(repeated).model(x)).all()


def test_without_gpytorch_it_is_left_out_of_races_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "nearly.functions.gaussian_process.find_spec", lambda name: None if name == "gpytorch" else known(name)
    )
    assert "nearly[gp]" in str(GaussianProcess.refuses(smooth()))
    with pytest.raises(BadInput, match="nearly\\[gp\\]"):
        GaussianProcess(samples=8).fit(smooth())
    monkeypatch.setitem(sys.modules, "gpytorch.kernels", None)
    with pytest.raises(MissingExtra, match="nearly\\[gp\\]"):
        gaussian_process.learn(torch.rand(8, 2).double(), torch.rand(8, 1).double(), torch.Generator())
