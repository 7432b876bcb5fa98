"""Methods whose target is a `Matrix` or a `Solve`."""

from nearly.matrices.deflation import Deflation
from nearly.matrices.incomplete_factorization import IncompleteFactorization
from nearly.matrices.matrix_free_svd import MatrixFreeSVD
from nearly.matrices.randomized_svd import RandomizedSVD
from nearly.matrices.truncated_svd import TruncatedSVD

__all__ = ["Deflation", "IncompleteFactorization", "MatrixFreeSVD", "RandomizedSVD", "TruncatedSVD"]
