"""Orthogonal factors within a step of an optimizer: nothing checked, nothing measured, no waiting for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.linalg.orthogonalize._polynomials import (
    Steps,
    advance,
    gram_matrix,
    multiplies_halves,
    runs,
    scaled_to_one,
    times_change,
    unit_norm,
)
from nearly.linalg.orthogonalize._schedules import MUON, MUON_STEPS, NEWTON_SCHULZ, minimax_schedule
from nearly.linalg.products import hermitian_product, multiply_add
from nearly.linalg.scaling import binary_scale
from nearly.linalg.threads import svd

if TYPE_CHECKING:
    from jaxtyping import Num

SCHEDULES = ("minimax", "muon", "newton_schulz", "svd")
# Columns from which bfloat16 pays on one core with instructions for it: 128 x 128 335 us against 451, 64 x 64 239 against 134.
SMALLEST_HALF = 128
ROUGH_ERROR = 0.3  # of singular values; what five Muon steps leave


@torch.no_grad()
def orthogonalize(
    matrices: Num[Tensor, "*batch m n"],
    *,
    schedule: str = "minimax",
    steps: int = MUON_STEPS,
    least: float = 0.02,
    half: bool = False,
) -> Num[Tensor, "*batch m n"]:
    r"""Nearly the polar factors $U V^T$ of matrices $U \Sigma V^T$: `polar_factor` for steps of optimizers, without derivatives.

    Schedules:

    - `minimax`: the fewest quintic steps that take singular values in [least, 1] of the bound $||(A^T A)^2||_F^{1/4} \ge ||A||_2$
      to within 0.3 of one (Amsel, Persson, Musco, Gower 2025, "The Polar Express", arXiv:2505.16932): three for 0.02, four for
      0.003. Where one side is at least 1.5 times the other, two steps at a time are taken on the Gram matrix (in
      bfloat16, the last two).
    - `muon`: steps with $(3.4445, -4.7750, 2.0315)$ from $A / ||A||_F$ (Jordan et al. 2024), with the arithmetic of
      `torch.optim.Muon`, but for matrices of norm below 1e-7, which it leaves small.
    - `newton_schulz`: steps with $(15, -10, 3) / 8$ (Kovarik 1970), exact after as many as the condition asks for.
    - `svd`: exact, $U V^T$ of the singular values above round-off.

    Orthogonality errors $||Q^T Q - I||_F / \sqrt n$ by `minimax`, with `least` 0.02 and 0.003, and by `muon`: 0.20, 0.29, 0.35 for
    Gaussian matrices of size 1,024; 0.34, 0.29, 0.38 for singular values from 1 to 0.01; but 0.93, 0.67, 0.58 for values 1/k, where
    the bound is tight and most values are below `least`.

    A zero matrix stays zero, and what is not finite spreads (an SVD refuses it): look at the gradients first.

    Args:
        matrices: real or complex, in any floating dtype and of any scale.
        schedule: see above.
        steps: of `muon` and `newton_schulz`.
        least: for `minimax`, as a fraction of the bound; singular values s below it end near `s / least`.
        half: whether to multiply in bfloat16 where the device does that fast (by `minimax`, from 128 columns on). Matrices in half
            precision are otherwise multiplied in single precision.

    Returns:
        The factors, in the dtype of the matrices.

    Raises:
        BadInput: for another schedule.

    Example:
        >>> orthogonalize(torch.tensor([[0.0, -2.0], [1.0, 0.0]]), schedule="svd").tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    if schedule not in SCHEDULES:
        raise BadInput("schedule", f"one of {', '.join(SCHEDULES)}", repr(schedule))
    few = schedule == "minimax" and matrices.device.type == "cpu" and min(matrices.shape[-2:]) < SMALLEST_HALF
    x = matrices / binary_scale(matrices, (-2, -1))
    if half and schedule != "svd" and not few and multiplies_halves(matrices):
        x = x.bfloat16()
    elif matrices.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    x = x.flatten(0, -3) if x.ndim > 3 else x
    if schedule == "svd":
        x = _partial_isometry(x)
    elif schedule == "muon":
        a, b, c = MUON
        x = unit_norm(x)
        for _ in range(steps):
            gram = gram_matrix(x)
            x = times_change(x, hermitian_product(gram, gram, gram, beta=b, alpha=c), beta=a)
    else:
        coefficients: Steps = minimax_schedule(least, ROUGH_ERROR) if schedule == "minimax" else [NEWTON_SCHULZ] * steps
        x, gram, square = scaled_to_one(x)
        for k, run in enumerate(runs(coefficients, x)):
            x = advance(x, gram_matrix(x) if k else gram, run, None if k else square)
    return x.reshape(matrices.shape).to(matrices.dtype)


def bjorck(matrices: Num[Tensor, "*batch m n"], steps: int = 1) -> Num[Tensor, "*batch m n"]:
    r"""Matrices that are nearly orthonormal made more so: steps $V \leftarrow V (3 I - V^T V) / 2$, an error e to $3 e^2 / 2$.

    They converge for singular values in $(0, \sqrt 3)$ (Bjorck, Bowie 1971, "An iterative algorithm for computing the best
    estimate of an orthogonal matrix", doi:10.1137/0708036), and repair eigenvectors that were quantized.

    Args:
        matrices: V, at least as many rows as columns.
        steps: one or two are enough after rounding to 4 bits.

    Returns:
        The matrices; derivatives are those of the steps.

    Example:
        >>> bjorck(torch.tensor([[1.1]]), steps=2).round(decimals=3).tolist()
        [[1.0]]
    """
    x = matrices.flatten(0, -3) if matrices.ndim > 3 else matrices
    for _ in range(steps):
        x = multiply_add(x, x, x.mH @ x, beta=1.5, alpha=-0.5)
    return x.reshape(matrices.shape)


def _partial_isometry(x: Tensor) -> Tensor:
    left, values, right = svd(x)
    resolved = values > max(x.shape[-2:]) * torch.finfo(values.dtype).eps * values[..., :1]
    return (left * resolved[..., None, :]) @ right
