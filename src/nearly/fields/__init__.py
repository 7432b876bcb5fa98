"""Methods whose target is a `Field` (the plainest of them take a `Function` too)."""

from nearly.fields.coarse_solve import CoarseSolve
from nearly.fields.corrected_coarse_solve import CorrectedCoarseSolve
from nearly.fields.empirical_reduced_basis import EmpiricalReducedBasis
from nearly.fields.fourier_neural_operator import FourierNeuralOperator
from nearly.fields.interpolated_residual import InterpolatedResidual
from nearly.fields.kernel_regression import KernelRegression
from nearly.fields.mean import Mean
from nearly.fields.nearest_neighbor import NearestNeighbor
from nearly.fields.pod_regression import PODRegression
from nearly.fields.reduced_basis import ReducedBasis

__all__ = [
    "CoarseSolve",
    "CorrectedCoarseSolve",
    "EmpiricalReducedBasis",
    "FourierNeuralOperator",
    "InterpolatedResidual",
    "KernelRegression",
    "Mean",
    "NearestNeighbor",
    "PODRegression",
    "ReducedBasis",
]
