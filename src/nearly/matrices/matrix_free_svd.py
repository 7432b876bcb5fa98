"""A low-rank matrix in place of one that is known by its products alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.linalg.factorize import matrix_free_svd
from nearly.matrices._low_rank import LowRankModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nearly.core.nouns import Matrix
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "MatrixFreeSVD",
    "nouns": ["matrix"],
    "rows": [],
    "replaces": "an operator of decaying singular values, known by its products and those of its transpose",
    "certificate": "Probable",
    "rate": "that of the singular values",
    "cost": "two thin products",
    "parameters": {"rank": ["integer", 1, None]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 1024},
    "skips": {},
}


class MatrixFreeSVDModel(LowRankModel):
    """`U S V^T x` with nearly the k largest singular triplets.

    Args:
        left: U S, shape (rows, k).
        right: V^T, shape (k, columns).
    """

    def __init__(self, *, left: Tensor, right: Tensor) -> None:
        super().__init__(left=left, right=right)


@dataclass(frozen=True, kw_only=True)
class MatrixFreeSVD(Method):
    """Nearly the rank-k matrix nearest to an operator, from some `4 k + 30` products with it and as many with its transpose.

    Products with the operator count as evaluations; those with the transpose do not. From products alone no norm of what
    is left out is certain, so that there is no bound; where the entries are there, `RandomizedSVD` has one.

    Sources: Halko, Martinsson and Tropp 2011, Finding structure with randomness, arXiv 0909.4061; Musco and Musco 2015,
    Randomized block Krylov methods, arXiv 1504.05477, algorithm 2.

    Args:
        rank: k; cut to the operator's smaller side.

    Example:
        >>> import torch
        >>> from nearly.core.nouns import Matrix
        >>> surrogate = MatrixFreeSVD(rank=1).fit(Matrix(lambda x: x.sum(dim=0, keepdim=True).expand(2, -1), shape=(2, 2)))
        >>> round(float(surrogate(torch.tensor([[1.0, 1.0]]))[0, 0]), 4)
        2.0
    """

    model = MatrixFreeSVDModel
    rank: int = 16

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Why it cannot fit this target, or None."""
        reason = super().refuses(target)
        if reason is not None:
            return reason
        operator = target.operator  # type: ignore[attr-defined]
        if operator is None:
            return "it is for operators; RandomizedSVD bounds the error where there are entries"
        return (
            None if operator.transposed is not None else "it needs products with the transpose (Matrix(transpose=...))"
        )

    def _fit(self, target: Matrix, supply: Supply, generator: torch.Generator) -> MatrixFreeSVDModel:
        assert target.operator is not None
        counted = replace(target.operator, product=lambda x: supply.solve(x.T).T)
        left, values, right = matrix_free_svd(counted, self.rank, generator=generator)
        return MatrixFreeSVDModel(left=left * values, right=right)
