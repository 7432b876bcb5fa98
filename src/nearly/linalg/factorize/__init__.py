"""Low-rank factors made of a matrix's own rows and columns."""

from nearly.linalg.factorize.empirical_interpolation import EmpiricalInterpolation, empirical_interpolation

__all__ = ["EmpiricalInterpolation", "empirical_interpolation"]
