"""Factors of matrices: low-rank, diagonal, interpolating, and of matrices that grow or depend on parameters."""

from nearly.linalg.factorize.approximate_diagonalization import (
    Diagonalization,
    hippo_legs,
    perturb_then_diagonalize,
)
from nearly.linalg.factorize.empirical_interpolation import EmpiricalInterpolation, empirical_interpolation
from nearly.linalg.factorize.inverse_root import inverse_root, inverse_root_of
from nearly.linalg.factorize.kronecker import KroneckerSum, nearest_kronecker_sum
from nearly.linalg.factorize.ldu import LDU, ldu
from nearly.linalg.factorize.parametrized_inverse import PowerInterpolation, power_interpolation
from nearly.linalg.factorize.projections import (
    CUR,
    Interpolative,
    Nystrom,
    cur,
    generalized_nystrom,
    interpolative,
    projected_core,
    pseudo_inverse,
)
from nearly.linalg.factorize.random_pivots import Factors, pivot, pivot_potential, random_pivots
from nearly.linalg.factorize.randomized_svd import LowRank, matrix_free_svd, randomized_svd
from nearly.linalg.factorize.separated_operator import SeparatedOperator, separate_operator
from nearly.linalg.factorize.square_root import lyapunov, square_root
from nearly.linalg.factorize.updated_svd import UpdatedSVD
from nearly.linalg.factorize.weighted_low_rank import weighted_low_rank

__all__ = [
    "CUR",
    "LDU",
    "Diagonalization",
    "EmpiricalInterpolation",
    "Factors",
    "Interpolative",
    "KroneckerSum",
    "LowRank",
    "Nystrom",
    "PowerInterpolation",
    "SeparatedOperator",
    "UpdatedSVD",
    "cur",
    "empirical_interpolation",
    "generalized_nystrom",
    "hippo_legs",
    "interpolative",
    "inverse_root",
    "inverse_root_of",
    "ldu",
    "lyapunov",
    "matrix_free_svd",
    "nearest_kronecker_sum",
    "perturb_then_diagonalize",
    "pivot",
    "pivot_potential",
    "power_interpolation",
    "projected_core",
    "pseudo_inverse",
    "random_pivots",
    "randomized_svd",
    "separate_operator",
    "square_root",
    "weighted_low_rank",
]
