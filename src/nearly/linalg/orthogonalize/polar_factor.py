"""The orthonormal matrix nearest to a matrix, by the route that size, device and asked accuracy call for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, require_parameters
from nearly.linalg.derivatives import asked, first_only
from nearly.linalg.orthogonalize._polynomials import (
    Steps,
    advance,
    gram_matrix,
    multiplies_halves,
    runs,
    scaled_to_one,
)
from nearly.linalg.orthogonalize._schedules import MUON, MUON_STEPS, NEWTON_SCHULZ, minimax_schedule
from nearly.linalg.scaling import binary_scale
from nearly.linalg.threads import eigh, svd

if TYPE_CHECKING:
    from jaxtyping import Num

CARD = {
    "name": "polar_factor",
    "kind": "polar",
    "rows": [199],
    "replaces": "U V^T of a singular value decomposition",
    "residual": "||Q^T Q - I||_F / sqrt(n), the root mean square of s_i^2 - 1 over the singular values s_i of Q",
    "rate": "minimax: the best that so many products allow on [least, 1]; newton_schulz: cubic near the solution",
    "differentiable": ["matrix"],
    "complex": ["matrix"],
    "parameters": {
        "route": ["choice", "auto", "svd", "gram", "minimax", "newton_schulz", "muon"],
        "half": ["choice", True, False],
        "least": ["real", 0, 1],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

ROUGH = 0.3  # what five Muon steps reach; rounding in half precision (2^-8) is far below it
ROUGH_LEAST = 0.03  # measured on Gaussian matrices of size 128 to 2,048: three steps leave 0.20 to 0.27
PROBES = 16  # relative standard error sqrt(2 / (16 n)), 1% at n = 1,000
GRAM_LOSS = 4.0  # round-off of a Gram matrix's eigenvalues beside the largest, in units of epsilon


def polar_factor(
    matrix: Num[Tensor, "*batch m n"],
    *,
    route: str = "auto",
    half: bool = False,
    least: float = 1e-3,
    tolerance: float = 1e-6,
    iterations: int = 60,
    check: bool = True,
) -> Solution:
    r"""The polar factor $Q = U V^T$ of $A = U \Sigma V^T$, which has orthonormal columns (rows, where there are fewer).

    It is the matrix with orthonormal columns nearest to A in every unitarily invariant norm. Routes:

    - `svd`: exact; also for rank-deficient matrices, of whose many polar factors it gives one.
    - `gram`: $A (A^T A)^{-1/2}$ by eigenvectors, in double precision; its error is that of $\epsilon \kappa(A)^2$.
    - `minimax`: steps $X \leftarrow X (a I + b X^T X + c (X^T X)^2)$ with the best coefficients for singular values in [least, 1]
      of the bound $||(A^T A)^2||_F^{1/4} \ge ||A||_2$ (Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932), then Newton-Schulz
      steps.
    - `newton_schulz`: steps with $(15, -10, 3)/8$ (Kovarik 1970), for well-conditioned matrices.
    - `muon`: five steps with $(3.4445, -4.7750, 2.0315)$ (Jordan et al. 2024), which leave those above 1% in [0.68, 1.13].

    `auto` takes `minimax` in half precision, made for singular values above 3%, for tolerances of 0.3 and above, and otherwise
    `minimax` on accelerators, where an SVD is slow; on a CPU, where it is as fast as 14 products, `gram` for double precision and
    tall matrices, and `svd`. Where that route leaves more than the tolerance, `svd` follows. Polynomials of matrices with at least
    1.5 times as many rows as columns are taken two steps at a time on the Gram matrix (in bfloat16, the last two).

    Matrices in half precision are taken to single precision; their factor is rounded back and measured as it is returned.

    Derivatives, first ones, are those of the exact factor, by one eigendecomposition in the backward pass, whatever the route.

    Args:
        matrix: real or complex, in half precision too, of any scale, m and n of any order.
        route: see above.
        half: whether polynomial steps multiply in bfloat16, where the device does that fast. Directions whose singular values are
            below some 0.4% of the largest are then lost in rounding, though the factor is orthonormal.
        least: the least singular value that `minimax` is made for, as a fraction of the largest's bound; smaller ones take more
            steps.
        tolerance: asked of the orthogonality error $||Q^T Q - I||_F / \sqrt n$, a root mean square over all directions; with `half`
            the error of directions is not told by it. For a matrix in half precision at least that precision's epsilon, as rounding
            the factor leaves a third of it.
        iterations: steps of the polynomial routes at most.
        check: whether to raise rather than return a factor that is not orthonormal to the tolerance.

    Returns:
        The factor, with the measured orthogonality error as `residual` (after an SVD of more than 64 columns, by random vectors: to
        some percent).

    Raises:
        BadInput: for a matrix with NaN, infinity or no entries.
        NotConverged: where singular values are too small for the route.

    Example:
        >>> found = polar_factor(torch.tensor([[0.0, -2.0], [1e-3, 0.0]]))
        >>> found.value.tolist(), found.status
        ([[0.0, -1.0], [1.0, 0.0]], 'converged')
    """
    require_parameters(CARD, route=route, half=half, least=least, tolerance=tolerance, iterations=iterations)
    short = matrix.dtype if isinstance(matrix, Tensor) and matrix.dtype in (torch.float16, torch.bfloat16) else None
    given = as_floating("matrix", matrix.float() if short else matrix, least_dimensions=2, complex_too=True)
    if short:
        tolerance = max(tolerance, torch.finfo(short).eps)
    tall = given.mH if given.shape[-2] < given.shape[-1] else given
    scaled = tall.detach() / binary_scale(tall, (-2, -1))
    chosen = route
    if route == "auto":
        chosen, half = _route(scaled, tolerance)
        least = ROUGH_LEAST if half else least
    factor, steps, residual = _take(scaled, chosen, half, least, tolerance, iterations)
    if route == "auto" and chosen != "svd" and not bool((residual <= tolerance).all()):
        factor, steps, residual = _take(scaled, "svd", half, least, tolerance, iterations)
    if asked(tall):
        factor = _Polar.apply(tall, factor)  # type: ignore[no-untyped-call]
    if short:
        factor = factor.to(short)
        residual = orthogonality(factor.detach().float())
    return conclude(
        "polar_factor",
        factor.mH if tall is not given else factor,
        residual=residual,
        tolerance=tolerance,
        iterations=steps,
        advice="singular values are too small for this route (one of zero has no direction): lower least=, raise iterations=, or "
        "use route='svd'",
        check=check,
    )


def _route(scaled: Tensor, tolerance: float) -> tuple[str, bool]:
    """A route, and whether in half precision."""
    if tolerance >= ROUGH or scaled.device.type != "cpu":
        return "minimax", tolerance >= ROUGH
    tall = scaled.shape[-2] >= 2 * scaled.shape[-1]
    return "gram" if tall or scaled.dtype in (torch.float64, torch.complex128) else "svd", False


def _take(
    scaled: Tensor, route: str, half: bool, least: float, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor | int, Tensor]:
    """Factor, steps and orthogonality errors of one route."""
    if route == "svd":
        left, _, right = svd(scaled)
        factor = left @ right
        return factor, 1, _probed_orthogonality(factor)
    if route == "gram":
        factor = _by_gram(scaled)
        return factor, 1, orthogonality(factor)
    start = scaled.bfloat16() if half and multiplies_halves(scaled) else scaled
    if route == "muon":
        pieces: list[Steps] = [[MUON]] * min(MUON_STEPS, iterations)
    else:  # an error e of the singular values is one of 2 e of their squares
        schedule = minimax_schedule(least, tolerance / 2)[:iterations] if route == "minimax" else ()
        pieces = [*runs(schedule, start), *[[NEWTON_SCHULZ]] * (iterations - len(schedule))]
    flat = start.flatten(0, -3) if start.ndim > 3 else start
    factor, steps, residual = _iterate(flat, pieces, 0.0 if route == "muon" else tolerance)
    batch = scaled.shape[:-2]
    return (
        factor.reshape(scaled.shape).to(scaled.dtype),
        steps.reshape(batch),
        residual.reshape(batch).to(scaled.real.dtype),
    )


def orthogonality(factor: Tensor) -> Tensor:
    """`||Q^T Q - I||_F / sqrt(n)`, measured."""
    return _orthogonality(factor.mH @ factor)


def _orthogonality(gram: Tensor) -> Tensor:
    """`||G - I||_F / sqrt(n)` of Gram matrices, which are changed by round-off at most."""
    n, diagonal = gram.shape[-1], gram.diagonal(dim1=-2, dim2=-1)
    if (
        gram.dtype == torch.bfloat16
    ):  # without a copy in single precision; what cancels is far below errors of half precision
        square = (
            gram.flatten(-2).norm(dim=-1, dtype=torch.float32).square()
            - 2 * diagonal.sum(dim=-1, dtype=torch.float32)
            + n
        )
        return (square.clamp(min=0.0) / n).sqrt()
    diagonal.sub_(1.0)
    size = gram.flatten(-2).norm(dim=-1) / n**0.5
    diagonal.add_(1.0)
    return size


def _probed_orthogonality(factor: Tensor) -> Tensor:
    """Nearly the same by random signs z, as `E ||(Q^T Q - I) z||^2 = ||Q^T Q - I||_F^2`, at a fraction of a product's cost."""
    n = factor.shape[-1]
    if n <= 4 * PROBES:
        return orthogonality(factor)
    signs = torch.randint(0, 2, (n, PROBES), generator=torch.Generator().manual_seed(0)).to(factor) * 2 - 1
    return (factor.mH @ (factor @ signs) - signs).flatten(-2).norm(dim=-1) / (n * PROBES) ** 0.5


def _by_gram(scaled: Tensor) -> Tensor:
    double = scaled.to(torch.complex128 if scaled.is_complex() else torch.float64)
    values, vectors = eigh(double.mH @ double)
    # Values at the level of round-off are directions that A does not resolve; the residual tells of them.
    floor = GRAM_LOSS * torch.finfo(values.dtype).eps * values[..., -1:].abs().clamp(min=torch.finfo(values.dtype).tiny)
    inverse = torch.where(values > floor, values.clamp(min=floor).rsqrt(), 0.0)
    return (double @ ((vectors * inverse[..., None, :]) @ vectors.mH)).to(scaled.dtype)


def _iterate(start: Tensor, pieces: list[Steps], tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of a schedule, each problem's until its own tolerance; the Gram matrix of each piece measures the last one's error."""
    x, gram, square = scaled_to_one(start)
    counts = torch.zeros(start.shape[:-2], dtype=torch.int64, device=start.device)
    residual = _orthogonality(gram)
    for k, piece in enumerate(pieces):
        live = ~(residual <= tolerance)
        if not bool(live.any()):
            break
        counts += live * len(piece)
        moved = advance(x, gram, piece, None if k else square)
        x = moved if bool(live.all()) else torch.where(live[..., None, None], moved, x)
        gram = gram_matrix(x)
        residual = _orthogonality(gram)
    return x, counts, residual


class _Polar(torch.autograd.Function):
    """Derivatives: `dQ = Q Y + (I - Q Q^T) dA H^-1` with `H Y + Y H = Q^T dA - dA^T Q` and `H = Q^T A`."""

    @staticmethod
    def forward(context: Any, matrix: Tensor, factor: Tensor) -> Tensor:
        context.save_for_backward(matrix, factor)
        return factor.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        first_only("polar factors")
        matrix, factor = context.saved_tensors
        (gradient,) = gradients
        symmetric = factor.mH @ matrix
        values, vectors = eigh((symmetric + symmetric.mH) / 2)
        inner = factor.mH @ gradient
        turned = vectors.mH @ (inner - inner.mH) @ vectors / (values[..., :, None] + values[..., None, :])
        outside = (gradient - factor @ inner) @ ((vectors / values[..., None, :]) @ vectors.mH)
        return factor @ (vectors @ turned @ vectors.mH) + outside, None
