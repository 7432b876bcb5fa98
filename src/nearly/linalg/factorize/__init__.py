"""Low-rank factors of matrices."""

from nearly.linalg.factorize.empirical_interpolation import EmpiricalInterpolation, empirical_interpolation
from nearly.linalg.factorize.randomized_svd import LowRank, matrix_free_svd, randomized_svd

__all__ = ["EmpiricalInterpolation", "LowRank", "empirical_interpolation", "matrix_free_svd", "randomized_svd"]
