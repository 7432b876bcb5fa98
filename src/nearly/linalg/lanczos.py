"""Krylov subspaces of symmetric operators, and the eigenpairs that they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float


def ritz_pairs(
    product: Callable[[Tensor], Tensor], start: Float[Tensor, " n"], steps: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, "n m"]]:
    r"""Eigenvalues of a symmetric operator on a Krylov subspace, rising, and their vectors: $m = \min(steps, n)$ of each.

    The outermost ones come near the operator's own first, at an exponential rate in m. The basis is orthogonalized in full, twice
    over: $O(n m^2)$ beside m products. Once the subspace is invariant, pairs of 0 and a zero vector fill up the rest.

    Source: Lanczos 1950, doi:10.6028/jres.045.026; Golub, Van Loan 2013, Matrix Computations, section 10.3.

    Args:
        product: of the operator with a vector of shape (n,).
        start: not zero.
        steps: products taken.

    Returns:
        Values and vectors, in the dtype of `start`; vectors have length 1, or 0 (see above).

    Example:
        >>> matrix = torch.diag(torch.tensor([4.0, 1.0, 1.0, -2.0]))
        >>> values, vectors = ritz_pairs(lambda x: matrix @ x, torch.ones(4), 3)
        >>> (values.round(decimals=4) + 0.0).tolist()
        [-2.0, 1.0, 4.0]
    """
    size = min(steps, len(start))
    basis, images = start.new_zeros(size, len(start)), start.new_zeros(size, len(start))
    vector = start
    for i in range(size):
        vector = vector / binary_scale(vector, 0)  # squares neither overflow nor vanish
        once = vector - basis[:i].T @ (basis[:i] @ vector)
        vector = once - basis[:i].T @ (basis[:i] @ once)
        # Where the second time takes much away again, rounding errors were all that the first had left.
        length = vector.norm()
        basis[i] = torch.where(length > 0.5 * once.norm(), vector / length, 0.0)
        images[i] = vector = product(basis[i])
    small = basis @ images.T
    values, turned = torch.linalg.eigh((small + small.T) / 2)
    return values, basis.T @ turned
