"""Square roots of positive definite matrices and their inverses, in batches, by products alone or by eigenvectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.solution import Solution, conclude
from nearly.core.validate import as_floating, describe, require_parameters
from nearly.linalg.derivatives import first_only
from nearly.linalg.orthogonalize._schedules import NEWTON_SCHULZ, minimax_schedule
from nearly.linalg.scaling import binary_scale
from nearly.linalg.threads import eigh

if TYPE_CHECKING:
    from jaxtyping import Num

CARD = {
    "name": "square_root",
    "kind": "square_root",
    "rows": [199],
    "replaces": "an eigendecomposition, and derivatives through it that fail at repeated eigenvalues",
    "residual": "||X X - A||_F / ||A||_F, or ||X A X - I||_F / sqrt(n) of an inverse",
    "rate": "minimax: the best that so many products allow on [least, 1]; pade and taylor: of order 11 and 6 near the solution",
    "differentiable": ["matrix"],
    "complex": ["matrix"],
    "parameters": {
        "inverse": ["choice", True, False],
        "route": ["choice", "auto", "eigh", "minimax", "newton_schulz", "pade", "taylor"],
        "least": ["real", 0, 1],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

DEGREE = 5  # of the published approximants
# On one core the five steps of `minimax` take 0.36 of an eigendecomposition's time at n = 32, 1.4 at n = 128; with a gradient 1.3
# at n = 32, but 0.4 on four cores, which they share better.
SMALL = 64
ROUND_OFF = 4.0  # of products, in units of epsilon sqrt(n); beyond it `auto` takes eigenvectors
SYMMETRY = 1e-4  # entries of A - A^T beyond this fraction of the largest are not round-off
EXTRA = 20  # steps of Newton-Schulz beyond the schedule: each multiplies small eigenvalues by 15/8
STALLED = 1e-2  # residual below which steps of every route converge fast


def square_root(
    matrix: Num[Tensor, "*batch n n"],
    *,
    inverse: bool = False,
    route: str = "auto",
    least: float = 0.03,
    tolerance: float = 1e-5,
    iterations: int = 60,
    check: bool = True,
) -> Solution:
    r"""The positive definite X with $X X = A$, or its inverse $A^{-1/2}$.

    With $Y_0 = A / ||A||_F$ and $Z_0 = I$, steps $Y \leftarrow Y f(Z Y)$, $Z \leftarrow f(Z Y) Z$ bring $ZY$ to the identity, Y to
    the root and Z to its inverse (Higham 2008, "Functions of Matrices", section 6.7). Routes differ in f:

    - `minimax`: quadratics, best for roots of eigenvalues in [least, 1] (Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932), then
      $(15 - 10 G + 3 G^2) / 8$; `newton_schulz`: $(3 - G) / 2$.
    - `pade`: the [5/5] Padé approximant of $G^{-1/2}$ at I, one Cholesky solve (MPA of Song, Sebe, Wang 2022, "Fast Differentiable
      Matrix Square Root", arXiv:2201.08663); `taylor`: its Taylor polynomial of degree 5 (their MTP).
    - `eigh`: eigenvectors; also for semidefinite matrices, where the root is asked.

    `auto` takes `minimax` on accelerators and for n of at most 64, but on a single thread only where no derivative will be asked;
    `eigh` elsewhere, one matrix per thread, and where products have not brought the tolerance. (256 matrices of 32 x 32, condition
    100, float32, by `minimax` and by torch's eigenvectors: 6.4 and 12 ms on one core, with the backward pass 20 and 15; on four
    cores 2.8 and 20, with the backward pass 7.6 and 22.)

    Derivatives solve $X H + H X = G$: after `eigh` in its eigenvectors, which is right for repeated eigenvalues too; after
    products by `lyapunov`, their sign iteration with better coefficients, to the same tolerance, where only the
    skew part of $[X, G]$ and its products are formed.

    Departures from Song et al.: (1) the approximant is the one of the inverse root, times A, which is nearer at small eigenvalues;
    (2) steps are repeated until the tolerance is reached: `iterations=1` with `check=False` is theirs.

    Args:
        matrix: symmetric or Hermitian positive definite, of any scale; its Hermitian part is taken.
        inverse: whether $A^{-1/2}$ is wanted.
        route: see above.
        least: the square root of the least eigenvalue that `minimax` is made for, as a fraction of $||A||_F$'s; smaller ones take
            more steps.
        tolerance: of the residual, $||XX - A||_F / ||A||_F$, or $||X A X - I||_F / \sqrt n$ of the inverse.
        iterations: steps at most.
        check: whether to raise rather than return a matrix above the tolerance.

    Returns:
        X, with the residual computed from it.

    Raises:
        BadInput: for a matrix that is not square or Hermitian, or has NaN, infinity or no entries.
        NotConverged: for a matrix that is not positive definite, or too badly conditioned.

    Example:
        >>> square_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).value.round(decimals=4).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    require_parameters(CARD, inverse=inverse, route=route, least=least, tolerance=tolerance, iterations=iterations)
    scaled, scale = scaled_hermitian(matrix)
    value, residual, steps = _Root.apply(scaled, inverse, route, least, tolerance, iterations)  # type: ignore[no-untyped-call]
    factor = scale.sqrt()
    return conclude(
        "square_root",
        value / factor if inverse else value * factor,
        residual=residual,
        tolerance=tolerance,
        iterations=steps,
        advice="the matrix is not positive definite, or too badly conditioned for this precision or so many steps: raise "
        "iterations=, use double precision or route='eigh', or add a multiple of the identity",
        check=check,
    )


def scaled_hermitian(matrix: Tensor, name: str = "matrix") -> tuple[Tensor, Tensor]:
    """The Hermitian part over a power of four near its largest entry, which has a root without rounding, and that power.

    Raises:
        BadInput: for a matrix that is not square or Hermitian, or has NaN, infinity or no entries.
    """
    given = as_floating(name, matrix, least_dimensions=2, complex_too=True)
    if given.shape[-1] != given.shape[-2]:
        raise BadInput(name, "square", describe(given))
    scale = binary_scale(given, (-2, -1))
    scale = torch.ldexp(torch.ones_like(scale), 2 * ((torch.frexp(scale)[1] - 1) // 2))
    scaled = given / scale
    if bool(((scaled - scaled.mH).detach().abs().amax(dim=(-2, -1)) > SYMMETRY * 4).any()):
        raise BadInput(name, "Hermitian", f"entries of A - A^H up to {float((given - given.mH).abs().max()):.2g}")
    return (scaled + scaled.mH) / 2, scale


class _Root(torch.autograd.Function):
    """The root and its derivative by a Lyapunov equation."""

    @staticmethod
    def forward(
        context: Any, matrix: Tensor, inverse: bool, route: str, least: float, tolerance: float, iterations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, steps, pair = matrix.shape[-1], torch.ones(matrix.shape[:-2], dtype=torch.int64, device=matrix.device), None
        epsilon = float(torch.finfo(matrix.dtype).eps)
        alone = context.needs_input_grad[0] and torch.get_num_threads() == 1
        quick = matrix.device.type != "cpu" or (n <= SMALL and not alone)
        chosen = route
        if route == "auto":
            chosen = "minimax" if quick and tolerance >= ROUND_OFF * epsilon * math.sqrt(n) else "eigh"
        if chosen != "eigh":
            root, inverted, residual, steps = _coupled(matrix, chosen, least, tolerance, iterations, inverse)
            pair = root, inverted
        if chosen == "eigh" or (route == "auto" and not bool((residual <= tolerance).all())):
            values, vectors = eigh(matrix)
            # Eigenvalues within round-off of zero are zero.
            roots = torch.where(values.abs() <= n * epsilon * values.abs().amax(-1, keepdim=True), 0.0, values).sqrt()
            powers = roots.reciprocal() if inverse else roots
            pair = None
            found = (vectors * powers[..., None, :]) @ vectors.mH
            residual = _residual(matrix, found, inverse)
            context.save_for_backward(vectors, roots)
        else:
            assert pair is not None
            found = pair[1] if inverse else pair[0]
            context.save_for_backward(*pair)
        context.by_products, context.inverse = pair is not None, inverse
        context.least, context.tolerance = least, tolerance
        context.mark_non_differentiable(residual, steps)
        return found, residual, steps

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        first_only("square roots")
        gradient = gradients[0]
        assert gradient is not None
        first, second = context.saved_tensors
        gradient = (gradient + gradient.mH) / 2
        if context.by_products:
            if context.inverse:
                gradient = -second @ gradient @ second
            return _lyapunov(first, gradient, context.least, context.tolerance), None, None, None, None, None
        vectors, roots = first, second
        sums = roots[..., :, None] + roots[..., None, :]
        inner = vectors.mH @ gradient @ vectors / sums
        if context.inverse:
            inner = -inner / (roots[..., :, None] * roots[..., None, :])
        return vectors @ inner @ vectors.mH, None, None, None, None, None


def _residual(matrix: Tensor, found: Tensor, inverse: bool) -> Tensor:
    if inverse:
        gap = found @ matrix @ found
        gap.diagonal(dim1=-2, dim2=-1).sub_(1.0)
        return gap.flatten(-2).norm(dim=-1) / math.sqrt(matrix.shape[-1])
    size = matrix.flatten(-2).norm(dim=-1)
    return (found @ found - matrix).flatten(-2).norm(dim=-1) / torch.where(size > 0, size, 1.0)


def _coupled(
    matrix: Tensor, route: str, least: float, tolerance: float, iterations: int, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Root, inverse root, residual and steps. The residual is looked at after the schedule, then after every step."""
    size = matrix.flatten(-2).norm(dim=-1)[..., None, None]
    matrix = matrix / torch.where(size > 0, size, 1.0)
    schedule = minimax_schedule(least, tolerance / 4) if route == "minimax" else ()
    root, inverted, change = matrix, torch.empty(0), None
    counts = torch.zeros(matrix.shape[:-2], dtype=torch.int64, device=matrix.device)
    live = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    best = torch.full(matrix.shape[:-2], torch.inf, dtype=matrix.real.dtype, device=matrix.device)
    kept = root, root
    for k in range(iterations):
        gram = root if k == 0 else inverted @ root
        if route in FACTORS:
            change = FACTORS[route](gram)
        else:
            change = _quadratic(gram, schedule[k] if k < len(schedule) else NEWTON_SCHULZ)
        root, inverted = root @ change, change if k == 0 else change @ inverted
        counts += live
        if k < len(schedule) - 1 and k < iterations - 1:
            continue
        residual = _residual(matrix, inverted if inverse else root, inverse)
        better = live & (residual < best)
        keep = better[..., None, None]
        kept = (torch.where(keep, root, kept[0]), torch.where(keep, inverted, kept[1])) if k else (root, inverted)
        # Close to the solution, what does not fall by half is round-off.
        live = live & (residual > tolerance) & ~((residual < STALLED) & (residual > best / 2))
        best = torch.where(better, residual, best) if k else residual
        if not bool(live.any()):
            break
    root, inverted = kept
    return root * size.sqrt(), inverted / size.sqrt(), best, counts


def _quadratic(gram: Tensor, coefficients: Sequence[float]) -> Tensor:
    a, b, c = coefficients
    found = b * gram if c == 0 else (gram @ gram).mul_(c).add_(gram, alpha=b)
    found.diagonal(dim1=-2, dim2=-1).add_(a)
    return found


def _pade(gram: Tensor) -> Tensor:
    """N(G) D(G)^-1 with binomials of 2 m + 1, the odd ones in N (Kenney and Laub 1991, doi:10.1137/0612020, at G = S^2)."""
    square = gram @ gram
    fourth = square @ square
    odd, even = ([math.comb(2 * DEGREE + 1, 2 * j + shift) for j in range(DEGREE + 1)] for shift in (1, 0))
    numerator, denominator = (_polynomial(gram, square, fourth, c) for c in (odd, even))
    triangle, failed = torch.linalg.cholesky_ex((denominator + denominator.mH) / 2)
    found = torch.cholesky_solve(numerator, triangle)
    return torch.where((failed > 0)[..., None, None], torch.nan, found)


def _taylor(gram: Tensor) -> Tensor:
    """(I - E)^(-1/2) to degree 5 in E = I - G."""
    error = -gram
    error.diagonal(dim1=-2, dim2=-1).add_(1.0)
    coefficients = [1.0]
    for k in range(1, DEGREE + 1):
        coefficients.append(coefficients[-1] * (2 * k - 1) / (2 * k))
    square = error @ error
    return _polynomial(error, square, square @ square, coefficients)


def _polynomial(x: Tensor, square: Tensor, fourth: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Of degree 5, by one product."""
    even, odd = (fourth * coefficients[4 + i] for i in (0, 1))
    for part, i in ((even, 0), (odd, 1)):
        part.add_(square, alpha=coefficients[2 + i])
        part.diagonal(dim1=-2, dim2=-1).add_(coefficients[i])
    return torch.baddbmm(even, x, odd) if x.ndim == 3 else even + x @ odd


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "newton_schulz": lambda gram: _quadratic(gram, (1.5, -0.5, 0.0)),
    "pade": _pade,
    "taylor": _taylor,
}


def lyapunov(
    root: Num[Tensor, "*batch n n"],
    right: Num[Tensor, "*batch n n"],
    *,
    least: float = 0.03,
    tolerance: float = 1e-10,
) -> Num[Tensor, "*batch n n"]:
    r"""The H with $X H + H X = G$, for Hermitian positive definite X and Hermitian G, by products alone.

    The sign of $M = \begin{pmatrix} X & G \\ 0 & -X \end{pmatrix}$ is $\begin{pmatrix} I & 2H \\ 0 & -I \end{pmatrix}$ (Roberts
    1980, doi:10.1080/00207178008922881). Steps $M \leftarrow M (a + b M^2 + c M^4)$ with the best coefficients for eigenvalues of X
    in [least, 1] of its Frobenius norm, then Newton-Schulz's; seven products each. Where they do not converge, eigenvectors.

    Args:
        root: X.
        right: G.
        least: see above.
        tolerance: of the sign's square, in single precision at least some hundred roundings.

    Returns:
        H.

    Raises:
        BadInput: for matrices that are not square or Hermitian, or have NaN, infinity or no entries.

    Example:
        >>> lyapunov(torch.eye(2), 2 * torch.eye(2)).round(decimals=4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    x, scale = scaled_hermitian(root, "root")
    given, unit = scaled_hermitian(right, "right")
    return _lyapunov(x, given, least, tolerance) * (unit / scale)


def _lyapunov(root: Tensor, right: Tensor, least: float, tolerance: float) -> Tensor:
    """The same, unchecked: gradients that overflowed pass through."""
    n, epsilon = root.shape[-1], float(torch.finfo(root.dtype).eps)
    enough = max(tolerance, 10 * epsilon * math.sqrt(n))
    schedule = minimax_schedule(least, enough / 2)
    square = root @ root
    size = square.flatten(-2).norm(dim=-1)[..., None, None].sqrt()  # at least the largest eigenvalue
    x, c, square = root / size, right / size, square / size.square()
    for k in range(len(schedule) + EXTRA):
        if k >= len(schedule) and bool((2 * _distance_to_identity(x) <= enough).all()):
            return c / 2
        first, second, third = schedule[k] if k < len(schedule) else NEWTON_SCHULZ
        product = x @ c
        skew = product - product.mH
        lift = square @ skew
        upper = (lift - lift.mH).mul_(third).add_(skew, alpha=second)
        diagonal = (square @ square).mul_(third).add_(square, alpha=second)
        diagonal.diagonal(dim1=-2, dim2=-1).add_(first)
        c = x @ upper + c @ diagonal
        x = x @ diagonal
        square = x @ x
    values, vectors = eigh(root)
    inner = vectors.mH @ right @ vectors / (values[..., :, None] + values[..., None, :])
    return vectors @ inner @ vectors.mH


def _distance_to_identity(gram: Tensor) -> Tensor:
    """`||G - I||_F / sqrt(n)`."""
    gap = gram.clone()
    gap.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return gap.flatten(-2).norm(dim=-1) / math.sqrt(gram.shape[-1])
