"""Orthonormal bases, in any inner product."""

from nearly.linalg.orthogonalize.gram_schmidt import extend_orthonormal, sparse_times

__all__ = ["extend_orthonormal", "sparse_times"]
