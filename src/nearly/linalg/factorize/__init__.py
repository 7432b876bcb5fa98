"""Low-rank factors of matrices."""

from nearly.linalg.factorize.empirical_interpolation import EmpiricalInterpolation, empirical_interpolation
from nearly.linalg.factorize.randomized_svd import LowRank, randomized_svd

__all__ = ["EmpiricalInterpolation", "LowRank", "empirical_interpolation", "randomized_svd"]
