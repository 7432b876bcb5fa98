"""Eigenvectors that can be used, of matrices that have none: those of a matrix nearby."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch

from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.validate import describe, generator_from, require_float, require_int
from nearly.linalg.factorize._entry import as_matrix, in_range
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STRIDE, DECAY = 0.3, 0.95  # first step in units of the allowed norm, and its decay: 16 steps were then within 1% of 40


class Diagonalization(NamedTuple):
    """`A ~ vectors diag(values) inverse`, complex.

    Attributes:
        values: shape (..., n).
        vectors: unit columns, shape (..., n, n).
        inverse: of `vectors`.
        condition: of `vectors`, 2-norm, shape (...).
        backward_error: `||A - vectors diag(values) inverse|| / ||A||`, 2-norms, as computed, shape (...).
    """

    values: Tensor
    vectors: Tensor
    inverse: Tensor
    condition: Tensor
    backward_error: Tensor


def perturb_then_diagonalize(
    matrix: Float[Tensor, "*batch n n"], epsilon: float, *, steps: int = 16, seed: int | torch.Generator = 0
) -> Diagonalization:
    """Eigenvalues and well-conditioned eigenvectors of `A + E`, `||E|| <= epsilon ||A||`, in place of A's.

    It replaces the eigenvectors of a matrix far from normal, whose condition may be beyond all digits (1e20 for HiPPO-LegS of size
    64). A Gaussian E gives, with high probability, a condition of order `n^(3/2) / epsilon`; the backward error is epsilon by
    construction, up to rounding times the condition: too small an epsilon is worse in both (see the results). Functions of A then
    cost n^2 each: resolvents, exponentials, powers.

    E starts as a Gaussian matrix scaled to the full norm, real for real A, so that eigenvalues come in conjugate pairs; then
    follow steps along the gradient of `log ||V||_F ||V^-1||_F`, projected onto the ball by scaling; the best E met is taken. They
    lower the condition 15 to 20 times on HiPPO-LegS.

    Source: Yu, Nigmetov, Morozov, Mahoney and Erichson 2023, Robustifying state-space models for long sequences via approximate
    diagonalization, arXiv 2310.01698; the condition by Banks, Kulkarni, Mukherjee and Srivastava 2019, Gaussian regularization of
    the pseudospectrum and Davies' conjecture, arXiv 1906.11819. Departure: they minimize the condition plus a multiple of `||E||`;
    here the norm is given, and kept.

    Args:
        matrix: A, real or complex.
        epsilon: the relative 2-norm of E, below 1, and not below the square of the dtype's rounding; gradients reach A through
            `A + E` with E fixed.
        steps: of the descent; 0 for the Gaussian E itself.
        seed: of E; or a generator.

    Returns:
        The factors and what they are worth.

    Raises:
        BadInput: a matrix that is not square or not finite; an epsilon that is not as above.
        FactorizationFailed: where even the perturbed eigenvectors depend on each other.

    Example:
        >>> jordan = torch.diag(torch.ones(9, dtype=torch.float64), 1)
        >>> found = perturb_then_diagonalize(jordan, 1e-3)
        >>> bool(found.condition < 1e4), round(float(found.backward_error), 6)
        (True, 0.001)
    """
    matrix = as_matrix("matrix", matrix)
    n = matrix.shape[-1]
    if matrix.shape[-2] != n:
        raise BadInput("matrix", "square", describe(matrix))
    require_float("epsilon", epsilon, above=0.0, below=1.0)
    if epsilon < torch.finfo(matrix.dtype).eps ** 2:
        raise BadInput(
            "epsilon", f"at least the square of {matrix.dtype}'s rounding, below which it does nothing", epsilon
        )
    require_int("steps", steps, least=0)
    scale = binary_scale(matrix, (-2, -1))
    near = matrix / scale
    size = torch.linalg.matrix_norm(near.detach(), 2)[..., None, None]
    unit = near.detach() / torch.where(size == 0, 1.0, size)
    kind = torch.complex128 if matrix.is_complex() else torch.float64
    draw = torch.randn(matrix.shape, dtype=kind, generator=generator_from(seed)).to(matrix)
    shift = _descended(unit, epsilon * draw / torch.linalg.matrix_norm(draw, 2)[..., None, None], epsilon, steps)
    values, vectors = torch.linalg.eig(near + shift * size)
    inverse, info = torch.linalg.inv_ex(vectors)
    if bool(info.any()) or not bool(torch.isfinite(inverse.detach()).all()):
        raise FactorizationFailed("eigenvectors are dependent to rounding: raise epsilon=, or steps=")
    with torch.no_grad():
        sizes = torch.linalg.svdvals(vectors)
        rebuilt = (vectors * (values / torch.where(size == 0, 1.0, size)[..., 0])[..., None, :]) @ inverse
        error = torch.linalg.matrix_norm(unit - rebuilt, 2)
    condition = in_range("the eigenvectors' condition", sizes[..., 0] / sizes[..., -1])
    return Diagonalization(values * scale[..., 0], vectors, inverse, condition, error)


def hippo_legs(
    size: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """The state matrix A and input B of HiPPO-LegS, which keeps Legendre coefficients of the past: `x' = A x + B u`.

    `A_ij = -sqrt((2 i + 1) (2 j + 1))` for i > j, `-(i + 1)` for i = j, and 0 above; `B_i = sqrt(2 i + 1)`, i from 0 (Gu, Dao,
    Ermon, Rudra and Re 2020, HiPPO, arXiv 2008.07669, theorem 2, without the time's factor). `A + B B^T / 2` is normal.

    Args:
        size: n.
        dtype: of both.
        device: of both.

    Returns:
        A and B.

    Raises:
        BadInput: a size below 1.

    Example:
        >>> hippo_legs(2)[0].round(decimals=3).tolist()
        [[-1.0, 0.0], [-1.732, -2.0]]
    """
    require_int("size", size, least=1)
    index = torch.arange(size, dtype=dtype, device=device)
    root = torch.sqrt(2 * index + 1)
    return torch.tril(-root[:, None] * root, -1) - torch.diag(index + 1), root


def _descended(unit: Tensor, shift: Tensor, epsilon: float, steps: int) -> Tensor:
    """The shift, of those met on the way down, with the least `||V||_F ||V^-1||_F`."""
    best, least = shift, torch.full(unit.shape[:-2], torch.inf, dtype=unit.real.dtype, device=unit.device)
    inference = torch.is_inference_mode_enabled()
    for step in range(steps + 1 if steps else 0):
        with torch.inference_mode(False) if inference else nullcontext(), torch.enable_grad():
            variable = shift.detach().clone().requires_grad_()  # tensors of inference mode cannot be
            vectors = torch.linalg.eig(unit + variable)[1]
            inverse = torch.linalg.inv_ex(vectors)[0]  # infinite or NaN where there is none
            height = torch.linalg.matrix_norm(vectors).log() + torch.linalg.matrix_norm(inverse).log()
            (slope,) = torch.autograd.grad(height.sum(), variable)
        lower = height.detach() < least
        best, least = torch.where(lower[..., None, None], shift, best), torch.where(lower, height.detach(), least)
        length = torch.linalg.matrix_norm(slope.nan_to_num(0.0, 0.0, 0.0), 2)[..., None, None]
        slope = torch.where(length > 0, slope.nan_to_num(0.0, 0.0, 0.0) / torch.where(length > 0, length, 1.0), 0.0)
        shift = shift - STRIDE * DECAY**step * epsilon * slope
        shift = shift * (epsilon / torch.linalg.matrix_norm(shift, 2)[..., None, None]).clamp(max=1.0)
    return best
