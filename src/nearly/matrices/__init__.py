"""Methods whose target is a `Matrix` or a `Solve`."""

from nearly.matrices.incomplete_factorization import IncompleteFactorization
from nearly.matrices.truncated_svd import TruncatedSVD

__all__ = ["IncompleteFactorization", "TruncatedSVD"]
