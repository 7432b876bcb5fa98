"""How much each row of a matrix matters, and rows drawn by it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, generator_from, require_float, require_int
from nearly.linalg.scaling import binary_scale
from nearly.linalg.sketch.operators import sparse_signs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class RowSample(NamedTuple):
    """Rows kept, rising, and weights, shapes (kept,): `sum_i weights_i f(row_i)` has the mean `sum over all rows of f(row)`."""

    rows: Tensor
    weights: Tensor


def leverage_scores(matrix: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:
    """`tau_i = max_x |a_i x|^2 / ||A x||^2`, the diagonal of the projection onto A's columns, in [0, 1]; they add up to the rank.

    By a QR decomposition, `4 n d^2` operations, and where columns depend on each other by `orthonormal_columns`.

    Args:
        matrix: A, real or complex, of any scale.

    Returns:
        The scores.

    Raises:
        BadInput: no matrix of finite numbers.

    Example:
        >>> leverage_scores([[1.0], [2.0], [0.0]]).round(decimals=9).tolist()
        [0.2, 0.8, 0.0]
    """
    near, _ = _scaled(matrix)
    basis, triangle = torch.linalg.qr(near)
    full = near.shape[-2] >= near.shape[-1] and bool(
        _above_rounding(torch.linalg.svdvals(triangle.detach()), near).all()
    )
    basis = basis if full else orthonormal_columns(near)[0]
    return basis.abs().square().sum(dim=-1).clamp(max=1.0)


def orthonormal_columns(
    matrix: Float[Tensor, "*batch n d"],
) -> tuple[Float[Tensor, "*batch n k"], Float[Tensor, "*batch d k"], Float[Tensor, "*batch k"]]:
    """`Q = A T`, an orthonormal basis of A's columns with zeros in place of dependent ones; T; and which are ones, not zeros.

    Directions below `max(n, d) eps` of the largest, with A's columns scaled to length one, count as dependent.

    Args:
        matrix: A, real or complex, of any scale.

    Returns:
        Q, T and the flags; k is the smaller of n and d.

    Raises:
        BadInput: no matrix of finite numbers.

    Example:
        >>> q, t, kept = orthonormal_columns([[1.0, 1.0], [1.0, 1.0]])
        >>> kept.tolist(), (q**2).round(decimals=9).tolist()
        ([1.0, 0.0], [[0.5, 0.0], [0.5, 0.0]])
    """
    near, scale = _scaled(matrix)
    tall = near.shape[-2] >= near.shape[-1]
    q, r = torch.linalg.qr(near) if tall else (None, near)
    u, values, vh = torch.linalg.svd(r, full_matrices=False)
    kept = _above_rounding(values, near)
    basis = u * kept.unsqueeze(-2)
    transform = vh.mH * (kept / torch.where(kept > 0, values, 1.0)).unsqueeze(-2) / scale.mT
    return basis if q is None else q @ basis, transform, kept


def approximate_leverage_scores(
    matrix: Float[Tensor, "*batch n d"], *, probes: int = 32, seed: int | torch.Generator = 0
) -> Float[Tensor, "*batch n"]:
    """Leverage scores from a sketch: squared lengths of the rows of `A R^-1 G`, R of `S A = Q R`, G Gaussian of `probes` columns.

    It replaces the QR decomposition of A by `2 n d probes` operations: worth it where `probes` is well below d. The errors are some
    `sqrt(2 / probes)` of each score, and the sketch's.

    Source: Drineas, Magdon-Ismail, Mahoney and Woodruff 2012, arXiv 1109.3843, algorithm 1; with the sketch of sparse signs.

    Args:
        matrix: A, real or complex, of any scale.
        probes: columns of G.
        seed: number or source of randomness.

    Returns:
        The scores, at most 1.

    Raises:
        BadInput: no matrix of finite numbers.

    Example:
        >>> approximate_leverage_scores(torch.eye(50)[:, :2]).sum() > 1.5
        tensor(True)
    """
    (matrix, _), probes = _scaled(matrix), require_int("probes", probes, least=1)
    generator = generator_from(seed)
    n, d = matrix.shape[-2:]
    small = sparse_signs(8 * d, n, seed=generator)(matrix) if 8 * d < n else matrix
    _, values, vh = torch.linalg.svd(small, full_matrices=False)
    kept = _above_rounding(values, matrix)
    inverse = vh.mH * (kept / torch.where(kept > 0, values, 1.0)).unsqueeze(-2)
    spread = torch.randn(inverse.shape[-1], probes, dtype=torch.float64, generator=generator, device=generator.device)
    probe = inverse @ (spread / math.sqrt(probes)).to(inverse)
    return (matrix @ probe).abs().square().sum(dim=-1).clamp(max=1.0)


def root_leverage_scores(matrix: Float[Tensor, "*batch n d"], *, p: float) -> Float[Tensor, "*batch n"]:
    r"""`tau_i^(p/2)` for 1 <= p <= 2, upper bounds of the l_p sensitivities `max_x |a_i x|^p / ||A x||_p^p`.

    That they are bounds: `|a_i x|^p <= tau_i^(p/2) ||A x||_2^p`, and the 2-norm is at most the p-norm. Rows drawn by them, with
    weights, keep `||A x||_p^p` for all x to a factor `1 +- eps`, about d of them for fixed eps where repeated, against the `S d`
    (S the sum of the sensitivities) of general theory.

    Source: Woodruff and Yasuda 2023, Sharper bounds for l_p sensitivity sampling, arXiv 2306.00732 (root leverage scores).

    Args:
        matrix: A.
        p: of the norm.

    Returns:
        The bounds.

    Raises:
        BadInput: p outside [1, 2], or no matrix of finite numbers.

    Example:
        >>> root_leverage_scores([[3.0], [4.0]], p=1).round(decimals=9).tolist()
        [0.6, 0.8]
    """
    p = require_float("p", p)
    if not 1 <= p <= 2:
        raise BadInput("p", "in [1, 2]", p)
    return leverage_scores(matrix) ** (p / 2)


def sample_rows(scores: Float[Tensor, " n"], count: float, *, seed: int | torch.Generator = 0) -> RowSample:
    """Rows kept independently with probability `q_i = min(1, c s_i)`, c such that `count` are on average, and weights `1 / q_i`.

    For the l_p norm rows are multiplied by `weights^(1/p)`; for least squares p = 2.

    Args:
        scores: nonnegative, not all zero; ones for uniform sampling.
        count: rows to keep on average; all of those with a score where there are fewer.
        seed: number or source of randomness.

    Returns:
        The rows and weights.

    Raises:
        BadInput: for other scores or counts.

    Example:
        >>> rows, weights = sample_rows([1.0, 0.0, 1.0], 2)
        >>> rows.tolist(), weights.tolist()
        ([0, 2], [1.0, 1.0])
    """
    scores = as_floating("scores", scores, dimensions=1).detach()
    count = require_float("count", count, above=0.0)
    if not bool((scores >= 0).all()) or not bool((scores > 0).any()):
        raise BadInput("scores", "nonnegative, and not all zero", f"the least {float(scores.min()):.3g}")
    scaled = (scores / scores.max()).double()
    if count >= int((scaled > 0).sum()):
        kept = (scaled > 0).double()
    else:
        falling = scaled.sort(descending=True).values
        # With the k largest kept for certain, c is (count - k) / the sum of the others; k is the least for which c s_(k+1) <= 1.
        rest = falling.flip(0).cumsum(0).flip(0)
        certain = torch.arange(len(falling), dtype=torch.float64, device=falling.device)
        factors = (count - certain).clamp(min=0.0) / rest.clamp(min=torch.finfo(rest.dtype).tiny)
        k = int((factors * falling <= 1 + 1e-12).double().argmax())
        kept = (factors[k] * scaled).clamp(max=1.0)
    generator = generator_from(seed)
    level = torch.rand(len(kept), dtype=torch.float64, generator=generator, device=generator.device).to(kept.device)
    rows = (level < kept).nonzero()[:, 0]
    return RowSample(rows, (1 / kept[rows]).to(scores.dtype))


def _scaled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix with columns of length one, and what they were divided by.

    Raises:
        BadInput: no matrix of finite numbers.
    """
    matrix = as_floating("matrix", matrix, complex_too=True)
    if matrix.ndim < 2:
        raise BadInput("matrix", "one or a batch of matrices", f"shape {tuple(matrix.shape)}")
    unit = binary_scale(matrix, -2)
    near = matrix / unit
    length = torch.linalg.vector_norm(near, dim=-2, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return near / length, length * unit


def _above_rounding(values: Tensor, matrix: Tensor) -> Tensor:
    cut = max(matrix.shape[-2:]) * torch.finfo(values.dtype).eps
    return (values > cut * values[..., :1]).to(values.dtype)
