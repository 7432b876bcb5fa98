"""Nearly the best approximation of a matrix by one of lower rank, found without a full decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.linalg.factorize import randomized_svd
from nearly.matrices._operators import needs_entries
from nearly.matrices.truncated_svd import TruncatedSVDModel

if TYPE_CHECKING:
    import torch

    from nearly.core.nouns import Matrix
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "RandomizedSVD",
    "nouns": ["matrix"],
    "rows": [],
    "replaces": "the product with a large matrix of decaying singular values",
    "certificate": "Bound",
    "rate": "that of the singular values",
    "cost": "two thin products",
    "parameters": {"rank": ["integer", 1, None], "tolerance": ["optional real", 0.0, 1.0]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 1024},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class RandomizedSVD(Method):
    """The product with the k largest singular triplets, found from a Gram matrix or a random block Krylov space, and the proven
    bound of the 2-norm of what they leave out on every product.

    `nearly.linalg.factorize.randomized_svd` is the algorithm. For matrices beyond some 4,096 x 4,096 with no side below 2,048, the
    2-norm left out is bounded by the Frobenius norm, which is far above it where singular values fall slowly; `TruncatedSVD` then
    costs more and bounds better.

    Sources: Halko, Martinsson and Tropp 2011, Finding structure with randomness, arXiv 0909.4061; Musco and Musco 2015,
    Randomized block Krylov methods, arXiv 1504.05477.

    Args:
        rank: k, or the most triplets with a tolerance; cut to the matrix's smaller side.
        tolerance: of the Frobenius norm left out, relative to the matrix's: the root mean square error on Gaussian vectors.

    Example:
        >>> import torch
        >>> from nearly.core.nouns import Matrix
        >>> surrogate = RandomizedSVD(rank=1).fit(Matrix(torch.diag(torch.tensor([4.0, 0.001]))))
        >>> round(float(surrogate(torch.tensor([[1.0, 1.0]]))[0, 0]), 4)
        4.0
    """

    model = TruncatedSVDModel
    rank: int = 16
    tolerance: float | None = None

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Why it cannot fit this target, or None."""
        return super().refuses(target) or needs_entries(target)

    def _fit(self, target: Matrix, supply: Supply, generator: torch.Generator) -> TruncatedSVDModel:
        matrix = target.matrix if target.sparse is None else target.sparse
        found = randomized_svd(matrix, self.rank, tolerance=self.tolerance, generator=generator)
        return TruncatedSVDModel(
            left=found.left * found.values,
            right=found.right,
            tail=found.values.new_tensor(found.spectral),
            # Weyl: what is kept and what is left out together bound the matrix's 2-norm.
            largest=found.values[0] + found.spectral,
            exact=False,
        )
