"""Orthonormal matrices: the nearest to a matrix, bases in any inner product, and maps from coordinates without constraints."""

from nearly.linalg.orthogonalize.cayley_neumann import cayley_neumann
from nearly.linalg.orthogonalize.gram_schmidt import dense_times, extend_orthonormal, sparse_times
from nearly.linalg.orthogonalize.maps import (
    cayley,
    exponential,
    householder,
    inverse_cayley,
    inverse_householder,
    logarithm,
    skew,
)
from nearly.linalg.orthogonalize.orthogonalize import bjorck, orthogonalize
from nearly.linalg.orthogonalize.polar_factor import orthogonality, polar_factor

__all__ = [
    "bjorck",
    "cayley",
    "cayley_neumann",
    "dense_times",
    "exponential",
    "extend_orthonormal",
    "householder",
    "inverse_cayley",
    "inverse_householder",
    "logarithm",
    "orthogonality",
    "orthogonalize",
    "polar_factor",
    "skew",
    "sparse_times",
]
