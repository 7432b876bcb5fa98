"""Solving with the slowest modes exactly and with a few steps for the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.core.validate import describe, to_tensor
from nearly.linalg.precondition.polynomial import chebyshev_iteration

if TYPE_CHECKING:
    from typing import Self

    from jaxtyping import Float
    from scipy.sparse.linalg import LinearOperator

    from nearly.core.nouns import Solve
    from nearly.core.supply import Supply
    from nearly.core.target import Target
    from nearly.linalg.operator import Operator

CARD = {
    "name": "Deflation",
    "nouns": ["solve"],
    "rows": [],
    "replaces": "a direct solve with a symmetric positive definite matrix",
    "certificate": "Probable",
    "rate": "2 ((sqrt(k) - 1) / (sqrt(k) + 1))^steps, k the largest eigenvalue over the first one not deflated",
    "cost": "two products with the modes and steps - 1 with the matrix",
    "parameters": {"rank": ["integer", 1, None], "steps": ["optional integer", 1, None]},
    "budget": {"parameter": "rank", "start": 2, "factor": 2, "most": 512},
    "skips": {},
}

ASYMMETRY = 100.0  # units of round-off by which transposed entries may differ: assembly sums them in another order
IN_CACHE = (
    2**19
)  # numbers in one iterate: at twice as many the five of them leave a third-level cache, at 2/3 of the speed
WIDER = 1.01  # the interval of the other eigenvalues is taken wider by this: its ends are computed


class DeflatedChebyshevModel(Model):
    """`x = S (p(A) + V c V^T) S b` for `A = S M S` with unit diagonal, its lowest eigenpairs (V, D), and `c = D^{-1} - p(D)`, which
    makes these modes exact.

    p is the polynomial of `steps` Chebyshev steps for the inverse on the interval [low, high] of the other eigenvalues (Saad 2003,
    Iterative methods for sparse linear systems, algorithm 12.1).

    Args:
        modes: V, shape (unknowns, rank).
        correction: c.
        scale: the diagonal of S.
        entries: of A: all, shape (unknowns, unknowns), or those of a sparse matrix by rows; None for an operator.
        starts: of a sparse matrix's rows.
        columns: of its entries.
        steps: of the iteration.
        low: end of the interval.
        high: the other end.
        operator: A itself, not saved, where it is known by products alone.
    """

    def __init__(
        self,
        *,
        modes: Tensor,
        correction: Tensor,
        scale: Tensor,
        entries: Tensor | None,
        starts: Tensor | None,
        columns: Tensor | None,
        steps: int,
        low: float,
        high: float,
        operator: Operator | None = None,
    ) -> None:
        state = {k: v for k, v in locals().items() if k not in {"self", "__class__", "operator"}}
        super().__init__(**state)
        self.operator, self.needs_target = operator, operator is not None  # type: ignore[misc]

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> Self:
        """Take the operator from the target, where the matrix was one.

        Raises:
            BadInput: without it.
        """
        operator = None
        if "entries" not in tensors:
            operator = getattr(target, "operator", None)
            if operator is None:
                raise BadInput("target", "the Solve of an operator, which this surrogate calls", describe(target))
        state: dict[str, Any] = settings | tensors
        return cls(**state, operator=operator)

    @property
    def operations(self) -> int:
        """Two per entry of the matrix and step but one, of the modes twice, and four vector operations per step.

        An operator counts as a dense matrix: nobody knows what it costs.
        """
        entries = len(self.scale) ** 2 if self.entries is None else self.entries.numel()
        products = 2 * (self.steps - 1) * entries + 4 * self.modes.numel()
        return products + (4 * self.steps + 1) * len(self.scale)

    def forward(self, inputs: Float[Tensor, "n unknowns"]) -> Float[Tensor, "n unknowns"]:
        """Approximate solutions."""
        some = max(1, IN_CACHE // len(self.scale))
        return torch.cat([self._solve(part) for part in inputs.split(some)])

    def _solve(self, inputs: Tensor) -> Tensor:
        right = (inputs * self.scale).T.contiguous()  # side by side: sparse products are fastest so
        slow = self.modes @ (self.correction[:, None] * (self.modes.T @ right))
        rest = chebyshev_iteration(self._subtract, right, self.steps, self.low, self.high)
        return (slow + rest).T * self.scale

    def _subtract(self, rest: Tensor, x: Tensor, weight: float) -> Tensor:
        """`rest - weight A x`."""
        if self.operator is not None:
            return rest - weight * (self.operator @ x)
        if self.starts is None:
            return torch.addmm(rest, self.entries, x, alpha=-weight)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            shape = (len(x), len(x))
            matrix = torch.sparse_csr_tensor(self.starts, self.columns, self.entries, shape, check_invariants=False)
        return torch.addmm(rest, matrix, x, alpha=-weight)


@dataclass(frozen=True, kw_only=True)
class Deflation(Method):
    """A solve with the `rank` lowest modes exact and the others by `steps` of the Chebyshev iteration, which then see a smaller
    condition number.

    For symmetric positive definite matrices, scaled to unit diagonal. On a mode that is not deflated the relative error is at
    most `2 q^steps`, `q = (sqrt(k) - 1) / (sqrt(k) + 1)` with k the largest eigenvalue over the first one not deflated. The modes
    come from Lanczos iterations with an exact factorization (sparse) or the target's own solutions, counted (operators), or from a
    full eigendecomposition (dense, or nearly all modes). An operator's diagonal is not known, so that it is not scaled; the
    surrogate calls it, so that to load it takes the target.

    Sources: Nicolaides 1987, Deflation of conjugate gradients, doi:10.1137/0724027; Saad 2003, Iterative methods for sparse linear
    systems, section 12.3.2.

    Args:
        rank: modes that are exact; cut to one less than there are unknowns.
        steps: of the iteration; by default as many as cost what the modes cost, and at least one; for an operator, `rank`.

    Example:
        >>> from nearly.core.nouns import Solve
        >>> surrogate = Deflation(rank=1, steps=1).fit(Solve(torch.tensor([[2.0, 1.0], [1.0, 2.0]])))
        >>> [round(v, 2) for v in surrogate(torch.tensor([[1.0, -1.0]]))[0].tolist()]
        [1.0, -1.0]
    """

    model = DeflatedChebyshevModel
    rank: int = 16
    steps: int | None = None

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Why it cannot fit this target, or None."""
        reason = super().refuses(target)
        if reason is not None:
            return reason
        if target.operator is not None:  # type: ignore[attr-defined]
            if not target.operator.symmetric:  # type: ignore[attr-defined]
                return "its operator is not symmetric"
            return None if target.solver == "cg" else "its operator is not positive definite"  # type: ignore[attr-defined]
        matrix = target.matrix  # type: ignore[attr-defined]
        gap, size = abs(matrix - matrix.T).max(), abs(matrix).max()
        if not float(gap) <= ASYMMETRY * torch.finfo(target.dtype).eps * float(size):  # type: ignore[attr-defined]
            return f"its matrix is not symmetric (transposed entries differ by up to {float(gap):.3g})"
        if not bool((matrix.diagonal() > 0).all()):
            return "its matrix is not positive definite (a diagonal entry is not positive)"
        return None

    def _fit(self, target: Solve, supply: Supply, generator: torch.Generator) -> DeflatedChebyshevModel:
        rank = min(self.rank, target.unknowns - 1)
        if target.operator is None:
            scale = torch.as_tensor(target.matrix.diagonal()).to(torch.float64).rsqrt()
        else:
            scale = torch.ones(target.unknowns, dtype=torch.float64, device=target.operator.device)
        if target.unknowns <= 2 * rank + 2 or isinstance(target.matrix, Tensor):
            values, modes, highest = _dense_modes(target, scale)
        elif target.operator is not None:
            values, modes, highest = _operator_modes(target.operator, supply, rank, generator)
        else:
            values, modes, highest = _sparse_modes(target, scale, rank, generator)
        entries, starts, columns = _scaled(target, scale)
        if not float(values[0]) > 0:
            raise BadInput("matrix", "positive definite", f"one with an eigenvalue {float(values[0]):.3g} on scaling")
        low, high = float(values[rank]) / WIDER, highest * WIDER
        steps = self.steps or rank
        if self.steps is None and entries is not None:
            steps = 1 + round(2 * rank * len(scale) / (entries.numel() + 3 * len(scale)))
        kept = values[:rank]
        correction = 1 / kept - chebyshev_iteration(
            lambda rest, x, weight: rest - weight * kept * x, torch.ones_like(kept), steps, low, high
        )
        return DeflatedChebyshevModel(
            modes=modes[:, :rank].to(target.dtype),
            correction=correction.to(target.dtype),
            scale=scale.to(target.dtype),
            entries=None if entries is None else entries.to(target.dtype),
            starts=starts,
            columns=columns,
            steps=steps,
            low=low,
            high=high,
            operator=target.operator,
        )


def _scaled(target: Solve, scale: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Entries of the matrix scaled to unit diagonal; where rows start and columns stand if it is sparse. Nones for an operator."""
    if target.operator is not None:
        return None, None, None
    if target.sparse is None:
        return scale[:, None] * target.matrix.double() * scale, None, None
    starts, columns = (
        torch.from_numpy(index.astype(np.int32)) for index in (target.sparse.indptr, target.sparse.indices)
    )
    rows = torch.repeat_interleave(starts.diff())
    return to_tensor(target.sparse.data).double() * scale[rows] * scale[columns], starts, columns


def _dense_modes(target: Solve, scale: Tensor) -> tuple[Tensor, Tensor, float]:
    """All eigenvalues in rising order, their vectors, and the largest."""
    if target.sparse is not None:
        matrix = torch.from_numpy(target.sparse.toarray())
    else:
        matrix = target.matrix @ torch.eye(target.unknowns, dtype=target.dtype, device=scale.device)
    values, vectors = torch.linalg.eigh(scale[:, None] * matrix.double() * scale)
    return values, vectors, float(values[-1])


def _operator_modes(
    operator: Operator, supply: Supply, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """As `_sparse_modes`, from products and the target's solutions."""
    from scipy.sparse.linalg import LinearOperator

    def acting(on_columns: Callable[[Tensor], Tensor]) -> LinearOperator:
        def act(vector: np.ndarray) -> np.ndarray:
            column = torch.from_numpy(vector.reshape(-1, 1)).to(operator.device, operator.dtype)
            return on_columns(column).double().cpu().numpy()

        return LinearOperator(operator.shape, act, dtype=np.float64)

    values, modes, highest = _lanczos(
        acting(operator.__matmul__), acting(lambda x: supply.solve(x.T).T), rank, generator
    )
    return values.to(operator.device), modes.to(operator.device), highest


def _sparse_modes(target: Solve, scale: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """The lowest `rank + 1` eigenvalues in rising order, their vectors, and the largest eigenvalue.

    Raises:
        BadInput: for a matrix that is not positive definite.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import LinearOperator, splu

    turn = diags(scale.numpy())
    matrix = (turn @ target.sparse.astype(np.float64) @ turn).tocsc()
    # Without pivoting the pivots have the signs of the eigenvalues (Sylvester's law of inertia).
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    pivots = factors.U.diagonal()
    if not bool((pivots > 0).all()):
        raise BadInput(
            "matrix", "positive definite", f"one with {int((pivots <= 0).sum())} eigenvalues that are not positive"
        )
    return _lanczos(matrix, LinearOperator(matrix.shape, factors.solve, dtype=np.float64), rank, generator)


def _lanczos(
    matrix: Any, inverse: LinearOperator, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """The lowest `rank + 1` eigenpairs from solutions, and the largest eigenvalue from products."""
    from scipy.sparse.linalg import eigsh

    start = torch.randn(matrix.shape[0], dtype=torch.float64, generator=generator).numpy()
    values, vectors = eigsh(matrix, rank + 1, sigma=0.0, OPinv=inverse, v0=start)
    order = np.argsort(values)
    highest = float(eigsh(matrix, 1, which="LA", v0=start, return_eigenvectors=False, tol=1e-3)[0])
    return torch.from_numpy(values[order].copy()), torch.from_numpy(vectors[:, order].copy()), highest
