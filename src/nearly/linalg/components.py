"""Principal components of rows in a given inner product (proper orthogonal decomposition)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def principal_components(
    rows: Float[Tensor, "n m"],
    *,
    product: Tensor | None = None,
    rank: int | None = None,
    tolerance: float = 1e-7,
    center: bool = True,
) -> tuple[Float[Tensor, " m"], Float[Tensor, "r m"], Float[Tensor, "n r"], Float[Tensor, " r"]]:
    """The basis that best represents rows on average: method of snapshots, an eigendecomposition of the n x n Gram matrix.

    For n rows of length m >> n it costs 2 n^2 m operations, against the singular value decomposition's several times as many;
    singular values below about 1e-8 of the largest are lost to the squaring (Sirovich 1987, doi:10.1090/qam/910462). It is done in
    double precision, as in single 3e-4 would be.

    Args:
        rows: one vector per row.
        product: weights (m,) or a (sparse) symmetric positive (m, m) matrix; None is the Euclidean product.
        rank: the most components; None for no limit.
        tolerance: components whose singular values are below this share of the largest are left out.
        center: whether the mean is taken off first.

    Returns:
        The mean (zero without `center`), the components (orthonormal in the product, best first), the rows' coordinates, and the
        singular values, the last three of the same length.

    Example:
        >>> _, components, _, values = principal_components(torch.eye(3, dtype=torch.float64), rank=1)
        >>> components.shape, bool(values[0] > 0.99)
        (torch.Size([1, 3]), True)
    """
    kind, unit = rows.dtype, binary_scale(rows, (0, 1)).to(torch.float64)
    rows = rows.to(torch.float64) / unit  # squares neither overflow nor vanish
    mean = rows.mean(dim=0) if center else torch.zeros_like(rows[0])
    centered = weighted = rows - mean
    if product is not None:
        product = product.to(torch.float64)
        weighted = centered * product if product.ndim == 1 else (product @ centered.T).T
    values, turn = torch.linalg.eigh(centered @ weighted.T)
    values, turn = values.flip(0).clamp(min=0).sqrt(), turn.flip(1)
    count = int((values > max(tolerance, 1e-8) * values[0]).sum())
    count = count if rank is None else min(rank, count)
    values, turn = values[:count], turn[:, :count]
    components = (turn.T @ centered) / values[:, None]
    mean, coordinates, values = mean * unit[0], turn * values * unit, values * unit[0]
    return mean.to(kind), components.to(kind), coordinates.to(kind), values.to(kind)
