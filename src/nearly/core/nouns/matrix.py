"""Matrices as maps `x -> A x`, and linear solves as maps `b -> A^{-1} b`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nearly.core.domain import Anywhere
from nearly.core.errors import BadInput, FactorizationFailed
from nearly.core.target import Target, collect, relative_norm
from nearly.core.validate import as_floating, describe

if TYPE_CHECKING:
    from jaxtyping import Float


class Matrix(Target):
    """The product with a matrix; inputs are Gaussian vectors, the error is `||A x - y|| / ||A x||` in the 2-norm.

    Args:
        matrix: dense tensor or array, or SciPy sparse matrix, of shape (rows, columns).
        name: for reports.

    Raises:
        BadInput: for anything but a finite, non-empty, real matrix.

    Example:
        >>> Matrix(torch.eye(3))(torch.ones(1, 3)).tolist()
        [[1.0, 1.0, 1.0]]
    """

    noun: ClassVar[str] = "matrix"
    unit = "relative 2-norm"

    def __init__(self, matrix: Any, *, name: str = "matrix") -> None:
        self.sparse, self.matrix = _checked_matrix(matrix)
        self.shape: tuple[int, int] = (int(self.matrix.shape[0]), int(self.matrix.shape[1]))
        self.dtype = torch.from_numpy(self.sparse.data[:0]).dtype if self.sparse is not None else self.matrix.dtype
        self.name, self.domain = name, Anywhere([self.shape[1]])

    @property
    def source(self) -> str:
        """The distribution of inputs, in words."""
        return "standard Gaussian vectors"

    @property
    def bytes(self) -> int | None:
        """Memory of the entries."""
        return matrix_bytes(self.sparse if self.sparse is not None else self.matrix)

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.randn(n, self.shape[1], dtype=torch.float64, generator=generator)
        return draw.to(device=self.matrix.device if self.sparse is None else "cpu", dtype=self.dtype)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        if inputs.ndim != 2 or inputs.shape[1] != self.shape[1]:
            raise BadInput("inputs", f"of shape (n, {self.shape[1]})", describe(inputs))
        if self.sparse is not None:
            outputs = torch.from_numpy(np.ascontiguousarray((self.sparse @ inputs.numpy().T).T))
        else:
            outputs = inputs @ self.matrix.T
        return outputs, [None] * len(inputs)

    def error(self, outputs: Float[Tensor, "n k"], predictions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Relative 2-norm per input."""
        return relative_norm((outputs - predictions).norm(dim=1), outputs.norm(dim=1))


class Solve(Target):
    """The solution of `A x = b`; inputs are Gaussian right-hand sides, the error is `||x - y|| / ||x||` in the 2-norm.

    Args:
        matrix: square, nonsingular; dense tensor or array, or SciPy sparse matrix.
        name: for reports.

    Raises:
        BadInput: for anything but a finite, non-empty, real, square matrix.
        FactorizationFailed: for a singular one.

    Example:
        >>> Solve(2 * torch.eye(3))(torch.ones(1, 3)).tolist()
        [[0.5, 0.5, 0.5]]
    """

    noun: ClassVar[str] = "solve"
    unit = "relative 2-norm"

    def __init__(self, matrix: Any, *, name: str = "solve") -> None:
        self.sparse, self.matrix = _checked_matrix(matrix)
        if self.matrix.shape[0] != self.matrix.shape[1]:
            raise BadInput("matrix", "square", describe(self.matrix))
        self.unknowns = int(self.matrix.shape[0])
        self.dtype = torch.from_numpy(self.sparse.data[:0]).dtype if self.sparse is not None else self.matrix.dtype
        self.name, self.domain = name, Anywhere([self.unknowns])
        _ = self.factors

    @cached_property
    def factors(self) -> Any:
        """The exact factorization: SuperLU of a sparse matrix, LU of a dense one.

        Raises:
            FactorizationFailed: for a singular matrix.
        """
        from scipy.linalg import get_lapack_funcs

        if self.sparse is not None:
            from scipy.sparse.linalg import LinearOperator, onenormest, splu

            try:
                found = splu(self.sparse.tocsc())
            except RuntimeError as error:
                raise FactorizationFailed(
                    "matrix is singular: an exact zero pivot; a Solve needs a nonsingular matrix"
                ) from error
            kind = self.sparse.dtype
            inverse = LinearOperator(
                found.shape,
                lambda b: found.solve(b.astype(kind)),
                rmatvec=lambda b: found.solve(b.astype(kind), "T"),
                dtype=kind,
            )
            # With more than one column the estimate would draw from NumPy's global generator.
            inverted = float(abs(self.sparse).sum(axis=0).max()) * onenormest(inverse, t=1)
            reciprocal = 1 / inverted if inverted > 0 else 0.0
        else:
            *found, info = torch.linalg.lu_factor_ex(self.matrix)
            factors = found[0].cpu().numpy()
            size = float(torch.linalg.matrix_norm(self.matrix, 1))
            (gecon,) = get_lapack_funcs(("gecon",), (factors,))
            reciprocal = 0.0 if int(info) else float(gecon(factors, size)[0])
        if not reciprocal > torch.finfo(self.dtype).eps:
            raise FactorizationFailed(
                f"matrix is singular to working precision (reciprocal condition number {reciprocal:.3g})"
            )
        return found

    @property
    def source(self) -> str:
        """The distribution of inputs, in words."""
        return "standard Gaussian right-hand sides"

    @property
    def bytes(self) -> int | None:
        """Memory of the exact factors."""
        if self.sparse is None:
            return matrix_bytes(self.matrix)
        return int(self.factors.nnz * (self.sparse.dtype.itemsize + 4))

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.randn(n, self.unknowns, dtype=torch.float64, generator=generator)
        return draw.to(device=self.matrix.device if self.sparse is None else "cpu", dtype=self.dtype)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        if inputs.ndim != 2 or inputs.shape[1] != self.unknowns:
            raise BadInput("inputs", f"of shape (n, {self.unknowns})", describe(inputs))
        if self.sparse is not None:
            solution = torch.from_numpy(np.ascontiguousarray(self.factors.solve(inputs.numpy().T).T))
        else:
            solution = torch.linalg.lu_solve(*self.factors, inputs.T).T
        return collect(list(solution), [None] * len(inputs), solution.dtype)

    def error(self, outputs: Float[Tensor, "n k"], predictions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Relative 2-norm per input."""
        return relative_norm((outputs - predictions).norm(dim=1), outputs.norm(dim=1))


def matrix_bytes(matrix: Any) -> int:
    """Bytes of a dense tensor's or a SciPy sparse matrix's entries and indices."""
    if isinstance(matrix, Tensor):
        return matrix.numel() * matrix.element_size()
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def _checked_matrix(matrix: Any) -> tuple[Any, Any]:
    """(SciPy CSR or None, the same or a dense tensor).

    Raises:
        BadInput: for anything but a finite, non-empty, real matrix.
    """
    if hasattr(matrix, "tocsr"):
        sparse = matrix.tocsr()
        if sparse.dtype not in (np.float32, np.float64):
            if np.issubdtype(sparse.dtype, np.complexfloating):
                raise BadInput("matrix", "real", describe(matrix))
            sparse = sparse.astype(np.float64)
        if 0 in sparse.shape:
            raise BadInput("matrix", "non-empty", describe(matrix))
        if not np.isfinite(sparse.data).all():
            raise BadInput("matrix", "finite", f"{int((~np.isfinite(sparse.data)).sum())} NaN or infinite entries")
        dense = None
    else:
        sparse, dense = None, as_floating("matrix", matrix, dimensions=2)
    if not (sparse.data if dense is None else dense).any():
        raise BadInput("matrix", "nonzero", "a matrix of zeros, whose relative error means nothing")
    return sparse, sparse if dense is None else dense
