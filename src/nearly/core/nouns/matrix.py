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
from nearly.core.validate import as_floating, describe, to_tensor
from nearly.linalg.krylov import NAMES, choose_solver, krylov_solve, tolerance_of
from nearly.linalg.operator import Operator, as_operator, is_operator
from nearly.linalg.scaling import row_norms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float


class Matrix(Target):
    """The product with a matrix; inputs are Gaussian vectors, the error is `||A x - y|| / ||A x||` in the 2-norm.

    Args:
        matrix: dense tensor or array, SciPy sparse matrix, or anything with products: a SciPy `LinearOperator`, an object with
            `shape` and `@` (and `device`, where that is not the CPU), or a callable that maps columns, shape (columns, n), to
            (rows, n).
        name: for reports.
        shape: (rows, columns) of a callable.
        transpose: the callable of its transpose, which low-rank factors need.

    Raises:
        BadInput: for anything but a finite, non-empty, real matrix, and for an operator that a random probe finds not linear, or
            not of its shape.

    Example:
        >>> Matrix(torch.eye(3))(torch.ones(1, 3)).tolist()
        [[1.0, 1.0, 1.0]]
        >>> Matrix(lambda x: 2 * x, shape=(2, 2))(torch.ones(1, 2)).tolist()
        [[2.0, 2.0]]
    """

    noun: ClassVar[str] = "matrix"
    unit = "relative 2-norm"

    def __init__(
        self,
        matrix: Any,
        *,
        name: str = "matrix",
        shape: Sequence[int] | None = None,
        transpose: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.sparse, self.operator, self.matrix = _checked_matrix(matrix, shape, transpose)
        self.shape: tuple[int, int] = (int(self.matrix.shape[0]), int(self.matrix.shape[1]))
        self.dtype = to_tensor(self.sparse.data[:0]).dtype if self.sparse is not None else self.matrix.dtype
        self.name, self.domain = name, Anywhere([self.shape[1]])

    @property
    def source(self) -> str:
        """The distribution of inputs, in words."""
        return "standard Gaussian vectors"

    @property
    def bytes(self) -> int | None:
        """Memory of the entries; of an operator nobody knows."""
        return (
            None if self.operator is not None else matrix_bytes(self.sparse if self.sparse is not None else self.matrix)
        )

    def _draw_inputs(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.randn(n, self.shape[1], dtype=torch.float64, generator=generator)
        return draw.to(device=self.matrix.device if self.sparse is None else "cpu", dtype=self.dtype)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        if inputs.ndim != 2 or inputs.shape[1] != self.shape[1]:
            raise BadInput("inputs", f"of shape (n, {self.shape[1]})", describe(inputs))
        if self.sparse is not None:
            outputs = torch.from_numpy(np.ascontiguousarray((self.sparse @ inputs.cpu().numpy().T).T)).to(inputs.device)
        elif self.operator is not None:
            return collect(list((self.operator @ inputs.T).T), [None] * len(inputs), self.dtype, inputs.device)
        else:
            outputs = inputs @ self.matrix.T
        return outputs, [None] * len(inputs)

    def error(self, outputs: Float[Tensor, "n k"], predictions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Relative 2-norm per input."""
        return relative_norm(row_norms(outputs - predictions), row_norms(outputs))


class Solve(Target):
    """The solution of `A x = b`; inputs are Gaussian right-hand sides, the error is `||x - y|| / ||x||` in the 2-norm.

    A dense or sparse matrix is factorized. An operator is solved with by conjugate gradients, MINRES or GMRES, whichever a random
    right-hand side shows to apply, to a relative residual of two thirds of the digits; a right-hand side where that is not reached
    counts as a failure. What is left is an error of at most the residual times the condition number.

    Args:
        matrix: square, nonsingular; dense tensor or array, SciPy sparse matrix, or anything with products, as for a `Matrix`.
        name: for reports.
        shape: (rows, columns) of a callable.

    Raises:
        BadInput: for anything but a finite, non-empty, real, square matrix.
        FactorizationFailed: for a singular one, or an operator that the iterations do not solve.

    Example:
        >>> Solve(2 * torch.eye(3))(torch.ones(1, 3)).tolist()
        [[0.5, 0.5, 0.5]]
    """

    noun: ClassVar[str] = "solve"
    unit = "relative 2-norm"

    def __init__(self, matrix: Any, *, name: str = "solve", shape: Sequence[int] | None = None) -> None:
        self.sparse, self.operator, self.matrix = _checked_matrix(matrix, shape)
        if self.matrix.shape[0] != self.matrix.shape[1]:
            raise BadInput("matrix", "square", describe(self.matrix))
        self.unknowns = int(self.matrix.shape[0])
        self.dtype = to_tensor(self.sparse.data[:0]).dtype if self.sparse is not None else self.matrix.dtype
        self.name, self.domain = name, Anywhere([self.unknowns])
        _ = self.factors if self.operator is None else self.solver

    @cached_property
    def solver(self) -> str:
        """The iteration that an operator is solved with: "cg" for a positive definite one, "minres" or "gmres"."""
        assert self.operator is not None
        return choose_solver(self.operator)

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
        """Memory of the exact factors; an operator has none."""
        if self.operator is not None:
            return None
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
            solution = torch.from_numpy(np.ascontiguousarray(self.factors.solve(inputs.cpu().numpy().T).T))
        elif self.operator is not None:
            return self._iterate(inputs)
        else:
            solution = torch.linalg.lu_solve(*self.factors, inputs.T).T
        return collect(list(solution), [None] * len(inputs), solution.dtype, inputs.device)

    def _iterate(self, inputs: Tensor) -> tuple[Tensor, list[str | None]]:
        assert self.operator is not None
        solution, residuals = krylov_solve(self.operator, inputs.T, self.solver)
        failures = [
            None
            if left <= tolerance_of(self.operator)
            else f"{NAMES[self.solver]} left a relative residual of {left:.2g}"
            for left in residuals.tolist()
        ]
        return collect(list(solution.T.to(self.dtype)), failures, self.dtype, inputs.device)

    def error(self, outputs: Float[Tensor, "n k"], predictions: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Relative 2-norm per input."""
        return relative_norm(row_norms(outputs - predictions), row_norms(outputs))


def matrix_bytes(matrix: Any) -> int:
    """Bytes of a dense tensor's or a SciPy sparse matrix's entries and indices."""
    if isinstance(matrix, Tensor):
        return matrix.numel() * matrix.element_size()
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def _checked_matrix(
    matrix: Any, shape: Sequence[int] | None, transpose: Callable[[Tensor], Tensor] | None = None
) -> tuple[Any, Operator | None, Any]:
    """SciPy CSR or None, an operator or None, and whichever of them or a dense tensor it is.

    Raises:
        BadInput: for anything but a finite, non-empty, real matrix.
    """
    if is_operator(matrix):
        operator = as_operator(matrix, shape, transpose)
        return None, operator, operator
    if shape is not None or transpose is not None:
        raise BadInput("matrix", "a callable, where shape or transpose is given", describe(matrix))
    sparse = None
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
    else:
        matrix = as_floating("matrix", matrix, dimensions=2)
    if not (matrix if sparse is None else sparse.data).any():
        raise BadInput("matrix", "nonzero", "a matrix of zeros, whose relative error means nothing")
    return sparse, None, matrix if sparse is None else sparse
