"""Sparse least squares in tensor Legendre polynomials: which terms, and how many, is read from the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from nearly.linalg.legendre import least_terms, leave_one_out_fit, legendre, total_degree
from nearly.linalg.matching_pursuit import matching_pursuit
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

NORMS = (0.5, 0.75, 1.0)  # of the candidate sets: from few products of variables to all of a total degree
FOLDS = 10
PER_SAMPLE = 10  # the most candidates for one sample
MOST_CANDIDATES, MOST_TERMS = 2048, 256
SHARE = 0.8  # the most terms for one fitted row
PATIENCE = 4  # degrees without a lower error, after which higher ones are not tried


def fit_sparse_polynomial(
    x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"], degree: int
) -> tuple[Int[Tensor, "terms d"], Float[Tensor, "terms k"]]:
    """Terms of least cross-validated error, and their least-squares coefficients.

    Candidate sets of growing degree are searched for each norm by orthogonal least squares; each of ten folds takes terms of its
    own, so that the left-out error includes the choice of terms. The exact leave-one-out error of terms chosen on all rows does
    not: with the correction of Blatman and Sudret it says 2e-5 where the error is 4e-3 (borehole, 200 samples, 3,955 candidates).

    Args:
        x: inputs in [-1, 1]^d, at least four, in an order that carries no meaning.
        outputs: as many rows.
        degree: the most degree tried.

    Returns:
        Exponents, and coefficients in the dtype of the outputs.

    Example:
        >>> x = 2 * torch.rand(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
        >>> exponents, coefficients = fit_sparse_polynomial(x, x[:, :1] * x[:, 1:2] ** 3, degree=6)
        >>> bool((legendre(x, exponents) @ coefficients - x[:, :1] * x[:, 1:2] ** 3).abs().max() < 1e-13)
        True
    """
    n, dimension = x.shape
    x, values = x.to(torch.float64), outputs.to(torch.float64)
    unit = binary_scale(values, (0, 1))
    values = values / unit  # squares of errors neither overflow nor vanish
    folds = min(FOLDS, n)
    fold = torch.arange(n, device=x.device) % folds
    parts = torch.cat([(fold != torch.arange(folds, device=x.device)[:, None]), torch.ones_like(fold[None]) > 0])
    rows = n - math.ceil(n / folds)
    candidates = min(PER_SAMPLE * n, MOST_CANDIDATES)
    best, chosen = math.inf, total_degree(dimension, 0).to(x.device)
    for norm in NORMS:
        least, waited = math.inf, 0
        for top in range(degree + 1):
            if least_terms(dimension, top, norm) > candidates or waited == PATIENCE:
                break
            exponents = total_degree(dimension, top, norm).to(x.device)
            if len(exponents) > candidates:
                break
            most = min(len(exponents), MOST_TERMS, max(1, int(SHARE * rows)))
            order, missed = matching_pursuit(legendre(x, exponents), values, parts.to(x.dtype), most)
            count = int(missed.argmin())
            error = float(missed[count])
            if error < best:
                best, chosen = error, exponents[order[-1, : count + 1]]
            waited = 0 if error < least else waited + 1
            least = min(least, error)
    coefficients, _ = leave_one_out_fit(legendre(x, chosen), values)
    return chosen, (coefficients * unit).to(outputs.dtype)
