"""Inverse p-th roots of positive definite matrices, in batches: what preconditioners made of gradients ask for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.solution import Solution, conclude
from nearly.core.validate import require_parameters
from nearly.linalg.derivatives import first_only
from nearly.linalg.factorize.square_root import STALLED, scaled_hermitian
from nearly.linalg.products import hermitian_product
from nearly.linalg.threads import eigh

if TYPE_CHECKING:
    from jaxtyping import Num

CARD = {
    "name": "inverse_root",
    "kind": "inverse_root",
    "rows": [286],
    "replaces": "an eigendecomposition in double precision on an accelerator, and derivatives that fail at repeated eigenvalues",
    "residual": "||X^k B X^(p - k) - I||_F / sqrt(n) with k = ceil(p / 2) and B the matrix with its ridge, in double precision",
    "rate": "newton: quadratic near the solution; before, eigenvalues grow by (1 + 1/p)^p, 2 to e, in a step",
    "differentiable": ["matrix"],
    "complex": ["matrix"],
    "parameters": {
        "power": ["integer", 1, 8],
        "ridge": ["optional real", 0, None],
        "route": ["choice", "auto", "eigh", "newton"],
        "tolerance": ["real", 0, None],
        "iterations": ["integer", 1, None],
    },
    "skips": {},
}

STEPS = 25  # of Newton's method; a condition of 1e6 takes 18 at p = 4, 24 at p = 1


def inverse_root(
    matrix: Num[Tensor, "*batch n n"],
    *,
    power: int,
    ridge: float | None = None,
    route: str = "auto",
    tolerance: float = 1e-5,
    iterations: int = 100,
    check: bool = True,
) -> Solution:
    r"""The positive definite $X = B^{-1/p}$ of $B = A + \rho ||A||_F I$.

    Routes:

    - `eigh`: eigenvectors, in double precision: in single, eigenvalues below 1e-7 of the largest are round-off, and the second
      moments of gradients have such ones.
    - `newton`: by products alone, the coupled iteration $M_0 = z B$, $X_0 = z^{1/p} I$, $T = ((p + 1) I - M) / p$,
      $X \leftarrow X T$, $M \leftarrow T^p M$ (Guo, Higham 2006, "A Schur-Newton method for the matrix pth root and its inverse",
      doi:10.1137/050643374; Anil, Gupta, Koren, Regan, Singer 2020, "Scalable second order optimization for deep learning",
      arXiv:2002.09018).

    `auto` takes `newton` on accelerators, and `eigh` elsewhere and where products have not brought the tolerance. (One core, n =
    256, p = 4, condition 1e6, single precision: 8 ms and a relative error of 3e-8 by `eigh`, which alone takes 3 ms in single
    precision and leaves 3e-2; 29 ms and 1e-3 by `newton`.)

    Departures from Anil et al.: (1) the ridge is a fraction of $||A||_F$, at least the largest eigenvalue, which they find by a
    power iteration; (2) z is made from $||B^2||_F^{1/2}$, nearer to the largest eigenvalue than $||B||_F$; (3) each problem stops
    alone, where its own error is small or stops falling.

    Derivatives, first ones, are divided differences in eigenvectors (Higham 2008, "Functions of Matrices", theorem 3.11), whatever
    the route; those of the ridge are in them.

    Args:
        matrix: A, symmetric or Hermitian positive definite, of any scale; its Hermitian part is taken. With a ridge it may be
            semidefinite.
        power: p, 1 to 8.
        ridge: $\rho$, above 0; None for none. The condition of B is at most $1 + 1 / \rho$.
        route: see above.
        tolerance: of the residual $||X^k B X^{p-k} - I||_F / \sqrt n$, $k = \lceil p/2 \rceil$, which rounding X alone brings to
            some $\epsilon \kappa(B)^{1/2}$.
        iterations: of `newton`, at most.
        check: whether to raise rather than return a matrix above the tolerance.

    Returns:
        X, with the residual computed from it.

    Raises:
        BadInput: for a matrix that is not square or Hermitian, or has NaN, infinity or no entries.
        NotConverged: for a matrix that is not positive definite, or too badly conditioned.

    Example:
        >>> matrix = torch.tensor([[16.0, 0.0], [0.0, 81.0]], dtype=torch.float64)
        >>> inverse_root(matrix, power=4).value.round(decimals=4).tolist()
        [[0.5, 0.0], [0.0, 0.3333]]
    """
    require_parameters(CARD, power=power, ridge=ridge, route=route, tolerance=tolerance, iterations=iterations)
    scaled, scale = scaled_hermitian(matrix)
    ridged = scaled if ridge is None else _with_ridge(scaled, ridge)
    value, residual, steps = _InverseRoot.apply(ridged, power, route, tolerance, iterations)  # type: ignore[no-untyped-call]
    value = value * scale ** (-1 / power)
    return conclude(
        "inverse_root",
        value,
        residual=torch.where(torch.isfinite(value.detach()).all(dim=(-2, -1)), residual, torch.nan),
        tolerance=tolerance,
        iterations=steps,
        advice="the matrix is not positive definite, or too badly conditioned for this precision or so many steps: raise "
        "iterations= or ridge=, use double precision or route='eigh'",
        check=check,
    )


@torch.no_grad()
def inverse_root_of(
    matrix: Num[Tensor, "*batch n n"],
    power: int,
    *,
    ridge: float = 1e-6,
    route: str = "eigh",
    iterations: int = STEPS,
) -> Num[Tensor, "*batch n n"]:
    r"""The same within a step of an optimizer: nothing checked, nothing measured, no derivatives.

    Args:
        matrix: A, symmetric or Hermitian positive semidefinite. Negative eigenvalues are taken as zero by `eigh`.
        power: p, a positive integer.
        ridge: a fraction of $||A||_F$.
        route: `eigh` in double precision, where eigenvalues within round-off of zero, ridge included, give zero, or `newton` in
            the precision of the matrix, without waiting for the device.
        iterations: of `newton`, all of which are taken.

    Returns:
        $(A + \rho ||A||_F I)^{-1/p}$; zero for a zero matrix.

    Example:
        >>> inverse_root_of(torch.tensor([[16.0, 0.0], [0.0, 0.0]]), 4, ridge=0.0).round(decimals=4).tolist()
        [[0.5, 0.0], [0.0, 0.0]]
    """
    if route == "newton":
        return _newton(_with_ridge(matrix, ridge), power, iterations)[0]
    values, vectors = eigh(_double(matrix))
    values = values.clamp(min=0.0)
    values = values + ridge * values.norm(dim=-1, keepdim=True)
    floor = values.shape[-1] * torch.finfo(values.dtype).eps * values[..., -1:]
    half = torch.where(values > floor, values ** (-0.5 / power), 0.0)
    factor = (vectors * half[..., None, :]).to(matrix.dtype)
    flat = factor.flatten(0, -3) if factor.ndim > 3 else factor
    return hermitian_product(flat, flat.mH).reshape(factor.shape)


class _InverseRoot(torch.autograd.Function):
    """The root, and its derivative in eigenvectors."""

    @staticmethod
    def forward(
        context: Any, matrix: Tensor, power: int, route: str, tolerance: float, iterations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps = torch.ones(matrix.shape[:-2], dtype=torch.int64, device=matrix.device)
        by_newton = route == "newton" or (route == "auto" and matrix.device.type != "cpu")
        if by_newton:
            found, steps = _newton(matrix, power, iterations, tolerance)
            residual = _residual(matrix, found, power)
        if not by_newton or (route == "auto" and not bool((residual <= tolerance).all())):
            values, vectors = eigh(_double(matrix))
            values = torch.where(values > 0, values, torch.nan)  # of negative ones odd powers have inverses, too
            found = ((vectors * values[..., None, :] ** (-1 / power)) @ vectors.mH).to(matrix.dtype)
            residual = _residual(matrix, found, power)
        context.save_for_backward(matrix)
        context.power = power
        context.mark_non_differentiable(residual, steps)
        return found, residual, steps

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        first_only("inverse roots")
        (matrix,), (gradient, *_), power = context.saved_tensors, gradients, context.power
        assert gradient is not None
        values, vectors = eigh(_double(matrix))
        roots = values ** (1 / power)
        first, second = roots[..., :, None], roots[..., None, :]
        # (1/a - 1/b) / (a^p - b^p) without a difference
        sums = torch.stack([first**k * second ** (power - 1 - k) for k in range(power)]).sum(dim=0)
        inner = vectors.mH @ ((gradient + gradient.mH) / 2).to(vectors.dtype) @ vectors / (first * second * sums)
        return -(vectors @ inner @ vectors.mH).to(matrix.dtype), None, None, None, None


def _double(matrix: Tensor) -> Tensor:
    return matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)


def _with_ridge(matrix: Tensor, ridge: float) -> Tensor:
    size = torch.linalg.matrix_norm(matrix)[..., None, None]
    return matrix + ridge * size * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _residual(matrix: Tensor, found: Tensor, power: int) -> Tensor:
    """In double precision: products in single would lose the condition of the matrix, and rounding X loses its root."""
    exact, root = _double(matrix), _double(found)
    gap = _powered(root, (power + 1) // 2) @ exact
    if power > 1:
        gap = gap @ _powered(root, power // 2)
    gap.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return (torch.linalg.matrix_norm(gap) / math.sqrt(matrix.shape[-1])).to(matrix.real.dtype)


def _powered(matrix: Tensor, power: int) -> Tensor:
    return torch.linalg.matrix_power(matrix, power)


def _newton(matrix: Tensor, power: int, iterations: int, tolerance: float | None = None) -> tuple[Tensor, Tensor]:
    """Root and steps; with a tolerance, each problem until it is reached or its error, `||M - I||_F / sqrt(n)`, stops falling."""
    n = matrix.shape[-1]
    size = torch.linalg.matrix_norm(matrix @ matrix)[..., None, None].sqrt()  # at least the largest eigenvalue
    unit = torch.where(size > 0, size, 1.0)
    z = (1 + power) / 2  # eigenvalues of M are then at most (p + 1) / 2; it converges below p + 1
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    m, x = matrix * (z / unit), z ** (1 / power) * eye.expand_as(matrix)
    counts = torch.zeros(matrix.shape[:-2], dtype=torch.int64, device=matrix.device)
    live = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    error = torch.full(matrix.shape[:-2], torch.inf, dtype=matrix.real.dtype, device=matrix.device)
    for _ in range(iterations):
        t = ((power + 1) * eye - m) / power
        moved, next_m = x @ t, _powered(t, power) @ m
        if tolerance is None:
            x, m = moved, next_m
            continue
        counts += live
        x = torch.where(live[..., None, None], moved, x)
        m = torch.where(live[..., None, None], next_m, m)
        before, error = error, torch.linalg.matrix_norm(m - eye) / math.sqrt(n)
        live = live & (error > tolerance / 4) & ~((error < STALLED) & (error > before / 2))
        if not bool(live.any()):
            break
    return torch.where(size > 0, x * unit ** (-1 / power), 0.0), counts
