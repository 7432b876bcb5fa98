"""Gaussian processes with a constant mean: hyper-parameters by restricted likelihood, exactly, through Cholesky factors."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nearly.core.errors import MissingExtra
from nearly.linalg.kernel_ridge import matern

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

KERNELS = ("matern", "gaussian")
SHORTEST, LONGEST = (
    0.05,
    1e4,
)  # length scales, where the inputs fill [-1, 1]^d; the longest says that a variable is inert
LEAST_NUGGET, MOST_NUGGET = 1e-12, 1.0  # in units of the process's variance; the least keeps a Cholesky factor in reach
DRAWS = 24  # random hyper-parameters looked at for each kernel
STARTS = 2  # of them, the best, from which the likelihood is climbed
STEPS = 120  # of each climb
LEARNING_ROWS = 512  # the most rows that hyper-parameters are learned from: a step costs rows^3


@dataclass(frozen=True)
class Hyperparameters:
    """What the likelihood chose: the kernel, its length scales (d,), and the nugget in units of the process's variance."""

    kernel: str
    lengths: Tensor
    nugget: float


def correlation(kernel: str, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Correlations of a process of unit length scales: Matern of smoothness 5/2, or `exp(-distance^2 / 2)`."""
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return matern(distance) if kernel == "matern" else torch.exp(-0.5 * distance.square())


def learn(x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"], generator: torch.Generator) -> Hyperparameters:
    """Length scales and nugget of largest restricted likelihood, and the kernel of least leave-one-out error.

    Each kernel's likelihood is climbed with the nugget free and without one: at its largest the likelihood has been seen to blur a
    deterministic function. Exact leave-one-out errors choose among the four. Mean and variance of each output are profiled out:
    with R the correlations, `A = R + nugget I` and `P = A^-1 - A^-1 1 1^T A^-1 / (1^T A^-1 1)`, twice the negative logarithm is,
    up to a constant,

        sum_k (n - 1) log(y_k^T P y_k) + k (log det A + log 1^T A^-1 1)

    with the derivative `k P - (n - 1) sum_k P y_k y_k^T P / (y_k^T P y_k)` by A
    (Harville 1974, doi:10.1093/biomet/61.2.383). Correlations and their derivatives come from gpytorch's kernels; all else is
    one Cholesky factor, since the conjugate gradients that gpytorch takes by default have been seen to give negative variances.

    Args:
        x: inputs in [-1, 1]^d, in float64; the first 512 rows are learned from.
        outputs: as many rows, standardized.
        generator: draws the starts.

    Returns:
        The hyper-parameters.

    Raises:
        MissingExtra: gpytorch is not installed.
    """
    import numpy as np
    from scipy.optimize import Bounds, minimize

    x, outputs = x[:LEARNING_ROWS], outputs[:LEARNING_ROWS]
    dimension = x.shape[1]
    low, high = [math.log(SHORTEST)] * dimension, [math.log(LONGEST)] * dimension
    draws = torch.rand(DRAWS, dimension + 1, dtype=torch.float64, generator=generator)
    # Drawn length scales are 1/2 to 8 times the mean distance of two points, which grows as the root of the dimension.
    draws[:, :-1] = math.log(dimension**0.5 / 2) + draws[:, :-1] * math.log(16)
    draws[:, -1] = math.log(1e-8) * draws[:, -1]
    best, chosen = math.inf, None
    for name in KERNELS:
        kernel = _gpytorch_kernel(name, dimension).to(x)

        def loss(theta: np.ndarray, kernel: Any = kernel) -> tuple[float, np.ndarray]:
            return _restricted_likelihood(kernel, torch.from_numpy(theta).to(x), x, outputs)

        for most in (MOST_NUGGET, LEAST_NUGGET):
            bounds = Bounds(np.array([*low, math.log(LEAST_NUGGET)]), np.array([*high, math.log(most)]))
            starts = np.clip(draws.numpy(), bounds.lb, bounds.ub)
            first = sorted((loss(theta)[0], i) for i, theta in enumerate(starts))[:STARTS]
            found = [
                minimize(loss, starts[i], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
                for _, i in first
            ]
            *lengths, nugget = np.exp(min(found, key=lambda f: float(f.fun)).x).tolist()
            tried = Hyperparameters(name, x.new_tensor(lengths), nugget)
            missed = _leave_one_out(tried, x, outputs)
            if missed < best:
                best, chosen = missed, tried
    assert chosen is not None
    return chosen


def _leave_one_out(tried: Hyperparameters, x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"]) -> float:
    """Root mean square of the errors at left-out rows, `(P y)_i / P_ii`; infinite where the factor fails."""
    inverse, _, failed = _projected_inverse(
        correlation(tried.kernel, x / tried.lengths, x / tried.lengths), tried.nugget
    )
    missed = (inverse @ outputs / inverse.diagonal()[:, None]).square().mean().sqrt()
    return math.inf if failed else float(missed)


def _projected_inverse(
    correlations: Float[Tensor, "n n"], nugget: float
) -> tuple[Float[Tensor, "n n"], Float[Tensor, ""], bool]:
    """P, `log det A + log 1^T A^-1 1`, and whether A has no Cholesky factor to round-off."""
    eye = torch.eye(len(correlations), dtype=correlations.dtype, device=correlations.device)
    factor, failed = torch.linalg.cholesky_ex(correlations + nugget * eye)
    inverse = torch.cholesky_inverse(factor)
    ones = inverse.sum(dim=1, keepdim=True)
    total = ones.sum()
    return inverse - ones @ ones.T / total, 2 * factor.diagonal().log().sum() + total.log(), bool(failed)


def _gpytorch_kernel(name: str, dimension: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # importing it compiles by torch.jit
            from gpytorch.constraints import Positive
            from gpytorch.kernels import MaternKernel, RBFKernel
    except ImportError as error:
        raise MissingExtra("gpytorch", "gp", "learning a Gaussian process") from error
    # The raw parameter is then the logarithm of the length scale itself.
    options: dict[str, Any] = {
        "ard_num_dims": dimension,
        "lengthscale_constraint": Positive(transform=torch.exp, inv_transform=torch.log),
    }
    return MaternKernel(nu=2.5, **options) if name == "matern" else RBFKernel(**options)


def _restricted_likelihood(
    kernel: Any, theta: Float[Tensor, " p"], x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"]
) -> tuple[float, Any]:
    """Twice the negative logarithm and its gradient by (log lengths, log nugget); infinite where a factor fails."""
    import numpy as np

    n, count = outputs.shape
    raw, nugget = kernel.raw_lengthscale, float(theta[-1].exp())
    with torch.no_grad():
        raw.copy_(theta[:-1])
    raw.grad = None
    correlations = kernel(x).to_dense()
    with torch.no_grad():
        inverse, determinants, failed = _projected_inverse(correlations, nugget)
        if failed:
            return 1e300, np.zeros(len(theta))
        weights = inverse @ outputs
        power = (outputs * weights).sum(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
        value = (n - 1) * power.log().sum() + count * determinants
        slope = count * inverse - (n - 1) * (weights / power) @ weights.T
    correlations.backward(slope)
    gradient = torch.cat([raw.grad.flatten(), nugget * slope.trace()[None]])
    return float(value), gradient.cpu().numpy()
