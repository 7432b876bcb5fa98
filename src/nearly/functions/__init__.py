"""Methods whose target is a `Function`."""

from nearly.functions.auto_knots import AutoKnots
from nearly.functions.chebyshev_tucker import ChebyshevTucker
from nearly.functions.gaussian_process import GaussianProcess
from nearly.functions.polynomial_least_squares import PolynomialLeastSquares
from nearly.functions.sparse_polynomial import SparsePolynomial
from nearly.functions.weighted_least_squares import WeightedLeastSquares

__all__ = [
    "AutoKnots",
    "ChebyshevTucker",
    "GaussianProcess",
    "PolynomialLeastSquares",
    "SparsePolynomial",
    "WeightedLeastSquares",
]
