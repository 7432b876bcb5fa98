"""Sparse precision matrices without positive off-diagonal entries, from few samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, check_parameter, describe, require_parameters

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

CARD = {
    "name": "m_matrix_precision",
    "kind": "m_matrix",
    "rows": [186],
    "replaces": "the graphical lasso, where all partial correlations are known to be nonnegative",
    "residual": "||P(T - G) - T||_F ||T||_F / n of the last stage, with gradient G and projection P, for unit variances",
    "rate": "linear for each stage",
    "differentiable": [],
    "parameters": {
        "weight": ["real", None, None],
        "stages": ["integer", 1, None],
        "concavity": ["real", 0, None],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

DECREASE = 1e-4  # of Armijo's rule (Nocedal and Wright 2006, section 3.1)
HALVINGS = 40  # of a step, before round-off forbids any decrease
SYMMETRY = 1e-6  # relative, of a covariance
DYKSTRA = 200  # alternating projections at most
AGREEMENT = 1e-12  # of successive ones, relative


def m_matrix_precision(
    covariance: Float[Tensor, "*batch n n"],
    *,
    weight: float = 0.1,
    stages: int = 4,
    concavity: float = 2.0,
    diagonally_dominant: bool = False,
    tolerance: float = 1e-6,
    iterations: int = 5000,
    check: bool = True,
) -> Solution:
    r"""The precision matrix of a Gaussian whose partial correlations are nonnegative.

    The minimizer of $-\log\det\Theta + \langle S, \Theta \rangle + \sum_{i \ne j} \lambda_{ij} |\Theta_{ij}|$ over (diagonally
    dominant) M-matrices: positive definite, with $\Theta_{ij} \le 0$ off the diagonal.

    On M-matrices the penalty is linear, so that each stage is smooth: projected gradient steps of Barzilai-Borwein length, halved
    until the objective falls and the matrix is positive definite. The first stage has all $\lambda_{ij}$ equal, a weighted l1
    norm, which shrinks large entries; each later one relaxes them where the last estimate is large, $\lambda_{ij} = \max(0,
    \lambda - |\Theta_{ij}| / \gamma)$, the derivative of the minimax concave penalty, which leaves large entries unbiased.

    Two samples suffice for the estimate to exist without a penalty, one with diagonal dominance (then entries of the correlation
    matrix are below one). Variances are scaled to one first, so that the weight does not depend on units.

    Source: Ying, de Miranda Cardoso, Palomar 2022, "Adaptive estimation of graphical models under total positivity",
    arXiv:2210.15471, algorithm 1 (stages) and section 3.2 (projections); Zhang 2010, doi:10.1214/09-AOS729 (the penalty).
    Departure: the projection on symmetric diagonally dominant M-matrices alternates, by Dykstra's algorithm, the exact projection
    of rows and that on symmetric matrices.

    Args:
        covariance: of the samples, symmetric with a positive diagonal.
        weight: lambda, at least 0, for unit variances; of the order of sqrt(log(n) / samples).
        stages: how often the problem is solved.
        concavity: gamma, in the same units; entries above weight times gamma are not penalized in the end.
        diagonally_dominant: whether every row sum must be nonnegative as well.
        tolerance: of the residual.
        iterations: steps at most in each stage.
        check: whether to raise rather than return what has not converged.

    Returns:
        Theta; its off-diagonal entries are exactly nonpositive, and zeros are exact.

    Raises:
        BadInput: for what is no covariance, or a negative weight.
        NotConverged: where no estimate exists, as for perfectly correlated variables without a penalty.

    Example:
        >>> precision = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
        >>> found = m_matrix_precision(torch.linalg.inv(precision), weight=0.0)
        >>> bool((found.value - precision).abs().max() < 1e-4)
        True
    """
    require_parameters(
        CARD, weight=weight, stages=stages, concavity=concavity, tolerance=tolerance, iterations=iterations
    )
    check_parameter("diagonally_dominant", diagonally_dominant, ["choice", True, False])
    if not weight >= 0:
        raise BadInput("weight", "at least 0", weight)
    correlation, deviation = _correlation(covariance)
    rows = 1 / deviation if diagonally_dominant else None  # whose products with the scaled matrix are the row sums
    n = correlation.shape[-1]
    eye = torch.eye(n, dtype=correlation.dtype, device=correlation.device)
    outside = weight * (1 - eye)
    penalty = outside.expand_as(correlation)
    theta = eye.expand_as(correlation)
    counts = torch.zeros(correlation.shape[:-2], dtype=torch.int64, device=correlation.device)
    for stage in range(stages):
        if stage:
            penalty = (outside - theta.abs() / concavity).clamp(min=0.0) * (1 - eye)
        theta, steps, residual = _minimize(correlation - penalty, theta, rows, tolerance, iterations)
        counts += steps
    value = theta / (deviation[..., :, None] * deviation[..., None, :])
    finite = torch.isfinite(value).all(dim=(-2, -1))
    return conclude(
        "m_matrix_precision",
        value,
        residual=torch.where(finite, residual, torch.nan),
        tolerance=tolerance,
        iterations=counts,
        advice="raise iterations=, or weight= where variables are (nearly) perfectly correlated: without it there is no estimate",
        check=check,
    )


def _correlation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    s = as_floating("covariance", covariance, least_dimensions=2).detach()
    if s.shape[-1] != s.shape[-2]:
        raise BadInput("covariance", "square", describe(s))
    variance = s.diagonal(dim1=-2, dim2=-1)
    if not bool((variance > 0).all()):
        raise BadInput("covariance", "of positive variances", f"a variance of {float(variance.min()):.3g}")
    deviation = variance.sqrt()
    correlation = s / deviation[..., :, None] / deviation[..., None, :]
    gap = float((correlation - correlation.mT).abs().max())
    if not gap <= SYMMETRY or not float(correlation.abs().max()) <= 1 + SYMMETRY:
        raise BadInput("covariance", "symmetric, with correlations of at most one", f"{describe(s)} that is not")
    return (correlation + correlation.mT) / 2, deviation


def _objective(theta: Tensor, linear: Tensor) -> tuple[Tensor, Tensor, Bool[Tensor, "*batch"]]:
    """`-log det T + <S, T>`, infinite where T is not positive definite; its Cholesky factor, and where there is one."""
    factor, info = torch.linalg.cholesky_ex(theta)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    definite = (info == 0) & (diagonal > 0).all(dim=-1)
    value = -2 * torch.where(definite[..., None], diagonal, 1.0).log().sum(-1) + (linear * theta).sum((-2, -1))
    return torch.where(definite, value, torch.inf), factor, definite


def _minimize(
    linear: Tensor, theta: Tensor, sums: Tensor | None, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimizer of `-log det T + <S, T>` over M-matrices, steps, and residual."""
    value, factor, _ = _objective(theta, linear)
    gradient = linear - torch.cholesky_inverse(factor)
    length = torch.ones_like(value)
    counts = torch.zeros_like(value, dtype=torch.int64)
    for step in range(iterations + 1):
        rest = _project(theta - gradient, sums) - theta
        # The gradient of a minimum at infinity vanishes like 1 / T: only the product shows that there is none.
        residual = _inner(rest, rest).sqrt() * _inner(theta, theta).sqrt() / theta.shape[-1]
        live = residual > tolerance
        if step == iterations or not bool(live.any()):
            break
        moved, moved_value, moved_factor, length = _search(theta, value, factor, gradient, linear, length, live, sums)
        change = moved - theta
        counts += live
        theta, value, factor, before = moved, moved_value, moved_factor, gradient
        gradient = linear - torch.cholesky_inverse(factor)
        square, curvature = _inner(change, change), _inner(change, gradient - before)
        length = torch.where((square > 0) & (curvature > 0), square / curvature, length)
    return theta, counts, residual


def _search(
    theta: Tensor,
    value: Tensor,
    factor: Tensor,
    gradient: Tensor,
    linear: Tensor,
    length: Tensor,
    waiting: Tensor,
    sums: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Projected steps, halved until the objective falls; those that never do stay where they are."""
    moved, moved_value, moved_factor = theta, value, factor
    noise = 10 * torch.finfo(value.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        trial = _project(theta - length[..., None, None] * gradient, sums)
        change = trial - theta
        found, root, definite = _objective(trial, linear)
        falls = waiting & definite & (found <= value - DECREASE / length * _inner(change, change) + noise)
        moved = torch.where(falls[..., None, None], trial, moved)
        moved_factor = torch.where(falls[..., None, None], root, moved_factor)
        moved_value = torch.where(falls, found, moved_value)
        waiting = waiting & ~falls
        if not bool(waiting.any()):
            break
        length = torch.where(waiting, length / 2, length)
    return moved, moved_value, moved_factor, length


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((-2, -1))


def _project(
    matrix: Float[Tensor, "*batch n n"], sums: Float[Tensor, "*batch n"] | None
) -> Float[Tensor, "*batch n n"]:
    """The nearest symmetric matrix with nonpositive entries off the diagonal, and nonnegative products with `sums` if given."""
    nearest = _signed(matrix)
    if sums is None or bool(((nearest @ sums[..., None]) >= 0).all()):
        return nearest
    x, correction = matrix, torch.zeros_like(matrix)
    for _ in range(DYKSTRA):
        rows = _project_rows(x + correction, sums)
        correction = x + correction - rows
        before, x = x, (rows + rows.mT) / 2
        change, size = torch.stack([torch.dist(x, before, torch.inf), x.abs().max()]).tolist()
        if change <= AGREEMENT * size:
            break
    # What round-off leaves of the constraints is put on the diagonal.
    x = _signed(x)
    missing = -(x @ sums[..., None])[..., 0] / sums
    return x + torch.diag_embed(torch.where(missing > 0, missing * (1 + 1e-9), 0.0))


def _signed(matrix: Tensor) -> Tensor:
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    symmetric = ((matrix + matrix.mT) / 2).clamp(max=0.0)
    return symmetric - torch.diag_embed(symmetric.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(diagonal)


def _project_rows(matrix: Float[Tensor, "*batch n n"], sums: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """The nearest matrix whose rows have nonpositive entries off the diagonal and nonnegative products with a > 0.

    Row i, with diagonal d and others u, becomes `d + t a_i, min(u + t a, 0)` with the least t >= 0 for which the product is
    nonnegative: `a_i (d + t a_i) + sum_j a_j min(u_j + t a_j, 0)` is the least, over the first k of the u_j / a_j in rising
    order, of the sum over those k alone, so that t is the largest of the k roots.
    """
    n = matrix.shape[-1]
    eye = torch.eye(n, dtype=torch.bool, device=matrix.device)
    a = sums[..., None, :].expand_as(matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    others = matrix.masked_fill(eye, 0.0).clamp(max=0.0)
    order = (others / a).argsort(dim=-1)
    linear = (sums * diagonal)[..., None] + _prefixes((a * others).gather(-1, order))
    square = sums.square()[..., None] + _prefixes(a.square().masked_fill(eye, 0.0).gather(-1, order))
    shift = (-linear / square).amax(dim=-1).clamp(min=0.0)
    moved = (others + shift[..., None] * a).clamp(max=0.0).masked_fill(eye, 0.0)
    return moved + torch.diag_embed(diagonal + shift * sums)


def _prefixes(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ..., n."""
    return torch.cat([torch.zeros_like(values[..., :1]), values.cumsum(-1)], dim=-1)
