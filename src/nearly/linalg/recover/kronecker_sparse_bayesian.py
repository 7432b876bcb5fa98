"""Sparse vectors whose dictionary and support are Kronecker products, by Bayesian learning of a few variances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, require_parameters
from nearly.linalg.promotion import promoted
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Num
    from torch import Tensor

CARD = {
    "name": "kronecker_sparse_bayesian",
    "kind": "kronecker_sparse",
    "rows": [311],
    "replaces": "sparse Bayesian learning of one variance per entry, with a matrix of the size of all measurements",
    "residual": "||T(g) - g|| / ||g||, what one more step changes in the variances of entries, or of the noise if estimated",
    "rate": "that of expectation-maximization: linear",
    "differentiable": [],
    "complex": ["factors", "values"],
    "parameters": {
        "update": ["choice", "svd", "alternating"],
        "noise": ["optional real", 0, None],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

FLOOR = 1e-12  # of a factor's largest variance: entries below it are zero beside any noise
SWEEPS = 100  # of alternating minimization inside a step
AGREEMENT = 1e-9  # of successive sweeps, relative
LEAST_NOISE = 1e-10  # of the mean square of the values, where the noise is estimated


class KroneckerSparse(NamedTuple):
    """The posterior of a sparse tensor.

    Attributes:
        mean: the estimate, one dimension per factor.
        variances: per factor, the prior variances; that of an entry is the product over its indices.
        noise: variance of the noise, given or estimated.
    """

    mean: Num[Tensor, "*batch ..."]
    variances: tuple[Float[Tensor, "*batch n"], ...]
    noise: Float[Tensor, "*batch"]


def kronecker_sparse_bayesian(
    factors: Sequence[Num[Tensor, "m n"]],
    values: Num[Tensor, "*batch ..."],
    *,
    update: str = "svd",
    noise: float | None = None,
    tolerance: float = 1e-4,
    iterations: int = 500,
    check: bool = True,
) -> Solution:
    r"""X from $y = (\Phi_1 \otimes \dots \otimes \Phi_L) x + n$, where x is zero outside a Kronecker product of index sets.

    The prior $x \sim N(0, \mathrm{diag}(g_1 \otimes \dots \otimes g_L))$ has $\sum n_i$ variances instead of $\prod n_i$. A step of
    expectation-maximization takes the posterior second moments $d = |\mu|^2 + \mathrm{diag}\,\Sigma$ and fits the product to them:
    `alternating` minimizes $\sum \log g + d / g$ over one factor after the other, which never raises the cost $\log\det\Sigma_y
    + y^H \Sigma_y^{-1} y$; `svd` takes the best product of rank one, by one leading singular vector per factor, which is faster
    and in practice finds better estimates.

    The covariance $\Sigma_y = \sigma^2 I + \bigotimes \Phi_i \mathrm{diag}(g_i) \Phi_i^H$ is diagonal in the product of the small
    matrices' eigenvectors, so that a step costs products along single dimensions, for all problems of a batch at once, and no
    matrix of the size of y is formed: $O(\sum_i m_i^3 + \prod m_i \sum_i m_i)$ operations in place of $O(\prod m_i^3)$.

    Source: He, Joseph 2023, "Bayesian algorithms for Kronecker-structured sparse vector recovery with application to IRS-MIMO
    channel estimation", arXiv:2307.14719, algorithm 1 (AM- and SVD-KroSBL). Departures: (1) the covariance is diagonalized as
    above; (2) for more than two factors the rank-one product is found by splitting off one factor after the other.

    Args:
        factors: the $\Phi_i$, real or complex, the first varying slowest in x.
        values: y with one dimension per factor at the end, of sizes m_1, ..., m_L.
        update: "svd" or "alternating".
        noise: variance of an entry of n; estimated by default.
        tolerance: of the residual.
        iterations: steps at most.
        check: whether to raise rather than return what has not converged.

    Returns:
        The posterior mean, variances and noise.

    Raises:
        BadInput: for wrong shapes, NaN, zeros.
        NotConverged: with what was reached.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> one, two = (torch.randn(6, 9, dtype=torch.float64, generator=generator) for _ in range(2))
        >>> x = torch.zeros(9, 9, dtype=torch.float64)
        >>> x[2, 5], x[2, 7] = 1.0, -2.0
        >>> found = kronecker_sparse_bayesian([one, two], one @ x @ two.T, noise=1e-8)
        >>> bool((found.value.mean - x).abs().max() < 1e-3)
        True
    """
    require_parameters(CARD, update=update, noise=noise, tolerance=tolerance, iterations=iterations)
    matrices, y = _checked(factors, values)
    unit = binary_scale(y, tuple(range(-len(matrices), 0)))
    flat_unit = unit.flatten(-len(matrices))[..., 0]
    size = [binary_scale(matrix, (0, 1)) for matrix in matrices]
    matrices = [matrix / s for matrix, s in zip(matrices, size, strict=True)]
    y = y / unit
    batch = y.shape[: y.ndim - len(matrices)]
    power = _square(y).flatten(len(batch)).mean(-1)
    variance = power / 10 if noise is None else (noise / flat_unit / flat_unit).clamp(min=torch.finfo(power.dtype).tiny)
    gains = [power.new_ones(*batch, matrix.shape[1]) for matrix in matrices]
    # The first covariance has the mean square of the values.
    spread = math.prod(float(_square(matrix).sum() / matrix.shape[0]) for matrix in matrices)
    gains[0] = gains[0] * (power / spread)[..., None]
    counts = torch.zeros(batch, dtype=torch.int64, device=y.device)
    for step in range(iterations + 1):
        mean, moments, estimated = _posterior(matrices, y, gains, variance)
        moved = _rank_one(moments, len(batch)) if update == "svd" else _alternating(moments, gains, len(batch))
        estimated = estimated.clamp(min=LEAST_NOISE * power)
        residual = _change(gains, moved)
        if noise is None:
            residual = torch.maximum(residual, (estimated - variance).abs() / variance)
        live = residual > tolerance
        if step == iterations or not bool(live.any()):
            break
        counts += live
        gains = [torch.where(live[..., None], new, old) for new, old in zip(moved, gains, strict=True)]
        if noise is None:
            variance = torch.where(live, estimated, variance)
    whole = flat_unit / math.prod(float(s) for s in size)
    gains[0] = gains[0] * whole[..., None] * whole[..., None]
    mean = mean * whole[(...,) + (None,) * len(matrices)]
    finite = torch.isfinite(mean.flatten(len(batch))).all(-1) & torch.isfinite(gains[0]).all(-1)
    return conclude(
        "kronecker_sparse_bayesian",
        KroneckerSparse(mean, tuple(gains), variance * flat_unit * flat_unit),
        residual=torch.where(finite, residual, torch.nan),
        tolerance=tolerance,
        iterations=counts,
        advice="raise iterations= or tolerance=: expectation-maximization is slow where variances fall to zero",
        check=check,
    )


def _checked(factors: Any, values: Any) -> tuple[list[Tensor], Tensor]:
    if not isinstance(factors, list | tuple) or not factors:
        raise BadInput("factors", "a list of matrices", describe(factors))
    matrices = [as_floating("factors", f, dimensions=2, complex_too=True).detach() for f in factors]
    y = as_floating("values", values, least_dimensions=len(matrices), complex_too=True).detach()
    rows = tuple(len(matrix) for matrix in matrices)
    if tuple(y.shape[y.ndim - len(rows) :]) != rows:
        raise BadInput("values", f"of shape (..., {', '.join(map(str, rows))}), as the factors tell", describe(y))
    if not bool((y != 0).flatten(y.ndim - len(rows)).any(-1).all()):
        raise BadInput("values", "nonzero for every problem", "zeros, which a zero vector explains")
    if not all(bool(matrix.any()) for matrix in matrices):
        raise BadInput("factors", "nonzero", "a matrix of zeros")
    y, *matrices = promoted(y, *matrices)
    return matrices, y


def _square(tensor: Tensor) -> Tensor:
    return tensor.abs().square()


def _along(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """`(M_1 (x) ... (x) M_L)` of a tensor with one dimension per matrix; matrices may have batch dimensions."""
    count = len(matrices)
    for matrix in matrices:  # each moves the dimension it took to the end, so that after all the order is as before
        first = tensor.movedim(-count, -1)
        shape = first.shape
        flat = first.flatten(-count, -2) if count > 1 else first[..., None, :]
        moved = flat @ matrix.mT
        tensor = moved.reshape(*shape[:-1], matrix.shape[-2]) if count > 1 else moved[..., 0, :]
    return tensor


def _outer(vectors: Sequence[Tensor]) -> Tensor:
    """The outer product over the last dimensions."""
    result, batch = vectors[0], vectors[0].ndim - 1
    for count, vector in enumerate(vectors[1:], 1):
        result = result[..., None] * vector[(slice(None),) * batch + (None,) * count]
    return result


def _posterior(
    matrices: Sequence[Tensor], y: Tensor, gains: Sequence[Tensor], noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and second moments of x given y, and the noise variance that maximizes the expected likelihood."""
    values, vectors = [], []
    for matrix, gain in zip(matrices, gains, strict=True):
        small = (matrix * gain[..., None, :].to(matrix.dtype)) @ matrix.mH
        value, vector = torch.linalg.eigh((small + small.mH) / 2)
        values.append(value.clamp(min=0.0))
        vectors.append(vector)
    sigma = noise[(...,) + (None,) * len(matrices)]
    whole = sigma + _outer(values)
    turned = _along(y, [vector.mH for vector in vectors]) / whole
    back = [matrix.mH @ vector for matrix, vector in zip(matrices, vectors, strict=True)]
    prior = _outer(gains)
    mean = prior * _along(turned, back)
    explained = prior * _along(1 / whole, [_square(b) for b in back])
    moments = _square(mean) + prior * (1 - explained).clamp(min=0.0)
    # y - H mean = noise * Sigma_y^-1 y; noise * trace(I - noise Sigma_y^-1) is what the posterior leaves open
    count = math.prod(y.shape[y.ndim - len(matrices) :])
    rest = (sigma * turned).abs().square().flatten(-len(matrices)).sum(-1)
    open_ = noise * (1 - sigma / whole).flatten(-len(matrices)).sum(-1)
    return mean, moments, (rest + open_) / count


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Relative change of the outer product."""
    old, dims = _outer(before), len(before)
    return (_outer(after) - old).flatten(-dims).norm(dim=-1) / old.flatten(-dims).norm(dim=-1)


def _rank_one(moments: Tensor, batch: int) -> list[Tensor]:
    """Factors whose outer product is near the moments: one leading singular vector after the other."""
    gains, rest = [], moments
    while rest.ndim > batch + 1:
        flat = rest.flatten(batch + 1)
        # The leading singular vector of a nonnegative matrix is nonnegative; from the small Gram matrix, whose gap is wide.
        vector = torch.linalg.eigh(flat @ flat.mT)[1][..., -1].abs()
        gains.append(vector)
        rest = (vector[..., None, :] @ flat)[..., 0, :].reshape(*rest.shape[:batch], *rest.shape[batch + 1 :])
    return _floored([*gains, rest])


def _alternating(moments: Tensor, gains: Sequence[Tensor], batch: int) -> list[Tensor]:
    """Minimizer of `sum log g + moments / g` over one factor after the other, until none moves."""
    found = list(gains)
    dims = len(found)
    for _ in range(SWEEPS):
        before = list(found)
        for i in range(dims):
            weights = _outer([1 / gain if j != i else torch.ones_like(gain) for j, gain in enumerate(found)])
            others = [batch + j for j in range(dims) if j != i]
            weighted = moments * weights
            found[i] = weighted.mean(dim=others) if others else weighted
        found = _floored(found)
        if float(_change(before, found).max()) <= AGREEMENT:
            break
    return found


def _floored(gains: Sequence[Tensor]) -> list[Tensor]:
    """With variances that are zero in practice kept above it, and the size in the first factor."""
    kept = [gain.clamp(min=FLOOR * gain.amax(-1, keepdim=True)) for gain in gains]
    for i in range(1, len(kept)):
        size = kept[i].amax(-1, keepdim=True)
        kept[i], kept[0] = kept[i] / size, kept[0] * size
    return kept
