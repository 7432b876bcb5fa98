"""Low-rank factors where entries have weights, zero for those that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, require_parameters
from nearly.linalg.batched_lu import solve_all
from nearly.linalg.promotion import promoted
from nearly.linalg.two_factors import TwoFactors

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

CARD = {  # type: ignore[var-annotated]
    "name": "weighted_low_rank",
    "kind": "weighted_low_rank",
    "rows": [],
    "replaces": "the singular value decomposition, which takes all entries to be known equally well",
    "residual": "norm of the gradient of half the objective, over that of its data term's at the factors as sizes: "
    "||(G_L, G_R)|| / (||W o A|| ||(L, R)||), all scaled, Frobenius norms",
    "rate": "the objective never rises; linear near a minimum, to a local one in general",
    "order": None,
    "differentiable": [],
    "parameters": {
        "rank": ["integer", 1, None],
        "ridge": ["real", 0, None],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}


def weighted_low_rank(
    matrix: Float[Tensor, "*batch m n"],
    weights: Float[Tensor, "*batch m n"],
    *,
    rank: int,
    ridge: float = 1e-6,
    tolerance: float = 1e-6,
    iterations: int = 2_000,
    check: bool = True,
) -> Solution:
    """Factors that minimize `sum_ij W_ij (A - L R)_ij^2 + ridge (||L||^2 + ||R||^2)`, A and W divided by their largest entries.

    It replaces the singular value decomposition where entries are known with different variances (W = 1 / variance), or not at all
    (W = 0: matrix completion). With equal weights it is the singular value decomposition. Alternating least squares: given R, every
    row of L solves a k x k system, all of them at once, and the other way round; the objective never rises. It is not convex: what
    is found is a stationary point, from the decomposition of `W o A` to start with.

    A step takes some 4 m n k^2 operations.

    Source: Gabriel and Zamir 1979, Lower rank approximation of matrices by least squares with any choice of weights,
    doi:10.1080/00401706.1979.10489819; Srebro and Jaakkola 2003, Weighted low-rank approximations (ICML).

    Args:
        matrix: A; entries without weight may be any finite number.
        weights: W, nonnegative, of the same shape.
        rank: k, at most the smaller side.
        ridge: of the scaled problem; it fixes the factors where the weights do not.
        tolerance: of the residual `||(G_L, G_R)|| / (||W o A|| ||(L, R)||)`, where `G_L = (W o (L R - A)) R^T + ridge L` and G_R
            likewise; of the scaled problem, Frobenius norms; 0 for factors of zeros.
        iterations: the most steps.
        check: whether to raise rather than return what has not converged.

    Returns:
        The `TwoFactors`.

    Raises:
        BadInput: a matrix, weights or parameters that are not as above.

    Example:
        >>> a = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 4.0)).double()
        >>> known = torch.ones_like(a)
        >>> known[0, 0], a[0, 0] = 0.0, 99.0
        >>> left, right = weighted_low_rank(a, known, rank=1).value
        >>> round(float((left @ right)[0, 0]), 3)
        1.0
    """
    require_parameters(CARD, rank=rank, ridge=ridge, tolerance=tolerance, iterations=iterations)
    matrix = as_floating("matrix", matrix, least_dimensions=2).detach()
    weights = as_floating("weights", weights).detach()
    matrix, weights = promoted(matrix, weights)
    if weights.shape != matrix.shape:
        raise BadInput("weights", f"of shape {tuple(matrix.shape)}, as the matrix", describe(weights))
    if not bool((weights >= 0).all()):
        raise BadInput("weights", "nonnegative", f"one of {float(weights.min()):.3g}")
    if rank > min(matrix.shape[-2:]):
        raise BadInput("rank", f"at most {min(matrix.shape[-2:])}", rank)
    known = torch.where(weights > 0, matrix, 0.0)
    size, heaviest = (t.amax((-2, -1), keepdim=True) for t in (known.abs(), weights))
    a, w = (t / torch.where(unit > 0, unit, 1.0) for t, unit in ((known, size), (weights, heaviest)))
    u, values, vh = torch.linalg.svd(w * a, full_matrices=False)
    root = values[..., :rank].sqrt()
    left, right = u[..., :rank] * root[..., None, :], root[..., None] * vh[..., :rank, :]
    done = torch.zeros(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    counts = torch.zeros(matrix.shape[:-2], dtype=torch.int64, device=matrix.device)
    for step in range(iterations + 1):
        residual = _residual(a, w, left, right, ridge)
        counts = torch.where(done, counts, step)
        done = done | (residual <= tolerance)
        if bool(done.all()) or step == iterations:
            break
        stay = done[..., None, None]
        left = torch.where(stay, left, _fitted(a, w, right, ridge))
        right = torch.where(stay, right, _fitted(a.mT, w.mT, left.mT, ridge).mT)
    root = size.sqrt()
    return conclude(
        "weighted_low_rank",
        TwoFactors(left * root, right * root),
        residual=residual,
        tolerance=tolerance,
        iterations=counts,
        advice=f"raise iterations= above {iterations}, or ridge=, which makes the problem better conditioned",
        check=check,
    )


def _fitted(a: Tensor, w: Tensor, right: Tensor, ridge: float) -> Tensor:
    """The best left factor: for each row, `(R diag(w) R^T + ridge I) l = R diag(w) a`."""
    k, batch = right.shape[-2], a.shape[:-2]
    pairs = (right[..., :, None, :] * right[..., None, :, :]).reshape(*batch, k * k, -1)
    systems = (w @ pairs.mT).reshape(*batch, -1, k, k)
    systems = systems + ridge * torch.eye(k, dtype=a.dtype, device=a.device)
    return solve_all(systems, ((w * a) @ right.mT).unsqueeze(-1))[0].squeeze(-1)


def _residual(a: Tensor, w: Tensor, left: Tensor, right: Tensor, ridge: float) -> Tensor:
    rest = w * (left @ right - a)
    slope = torch.cat([(rest @ right.mT + ridge * left).flatten(-2), (left.mT @ rest + ridge * right).flatten(-2)], -1)
    factors = torch.cat([left.flatten(-2), right.flatten(-2)], -1)
    scale = torch.linalg.matrix_norm(w * a) * torch.linalg.vector_norm(factors, dim=-1)
    return torch.linalg.vector_norm(slope, dim=-1) / torch.where(scale > 0, scale, 1.0)
