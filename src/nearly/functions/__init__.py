"""Methods whose target is a `Function`."""

from nearly.functions.polynomial_least_squares import PolynomialLeastSquares

__all__ = ["PolynomialLeastSquares"]
