"""The two correct methods that all broken members are, but for one defect each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nearly.core.method import Method
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares, PolynomialModel
from nearly.matrices.truncated_svd import TruncatedSVD, TruncatedSVDModel

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target


@dataclass(frozen=True, kw_only=True)
class Polynomials(Method):
    """Polynomial least squares."""

    model = PolynomialModel
    samples: int = 32

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> Any:
        honest = PolynomialLeastSquares(samples=self.samples, degree=20)._fit(target, supply, generator)
        return self.model(**honest.settings, **honest.state_dict())


@dataclass(frozen=True, kw_only=True)
class SingularValues(Method):
    """Truncated singular values."""

    model = TruncatedSVDModel
    rank: int = 4

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """As the member that it is made of."""
        return super().refuses(target) or TruncatedSVD.refuses(target)

    def _fit(self, target: Any, supply: Supply, generator: torch.Generator) -> Any:
        honest = TruncatedSVD(rank=self.rank)._fit(target, supply, generator)
        return self.model(**honest.settings, **honest.state_dict())
