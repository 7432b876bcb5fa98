"""Orthonormal bases, in any inner product."""

from nearly.linalg.orthogonalize.gram_schmidt import dense_times, extend_orthonormal, sparse_times

__all__ = ["dense_times", "extend_orthonormal", "sparse_times"]
