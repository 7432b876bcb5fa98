"""Solving with the slowest modes exactly and with a few steps for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.method import Method
from nearly.core.surrogate import Model

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.nouns import Solve
    from nearly.core.supply import Supply
    from nearly.core.target import Target

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
WIDER = 1.01  # the interval of the other eigenvalues is taken wider by this: its ends are computed


class DeflatedChebyshevModel(Model):
    """`x = S (p(A) + V c V^T) S b` for `A = S M S` with unit diagonal, its lowest eigenpairs (V, D), and `c = D^{-1} - p(D)`, which
    makes these modes exact.

    p is the polynomial of `steps` Chebyshev steps for the inverse on the interval [low, high] of the other eigenvalues (Saad 2003,
    Iterative methods for sparse linear systems, algorithm 12.1).
    """

    def __init__(
        self,
        *,
        modes: Tensor,
        correction: Tensor,
        scale: Tensor,
        entries: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        steps: int,
        low: float,
        high: float,
    ) -> None:
        super().__init__(**{name: value for name, value in locals().items() if name not in {"self", "__class__"}})

    @property
    def operations(self) -> int:
        """Two per entry of the matrix and step but one, of the modes twice, and six vector operations per step."""
        products = 2 * (self.steps - 1) * self.entries.numel() + 4 * self.modes.numel()
        return products + (6 * self.steps - 3) * len(self.scale)

    def forward(self, inputs: Float[Tensor, "n unknowns"]) -> Float[Tensor, "n unknowns"]:
        """Approximate solutions."""
        right = (inputs * self.scale).T
        slow = self.modes @ (self.correction[:, None] * (self.modes.T @ right))
        rest = chebyshev(self._product, right, self.steps, self.low, self.high)
        return (slow + rest).T * self.scale

    def _product(self, x: Tensor) -> Tensor:
        if self.rows is None:
            return self.entries @ x
        return torch.zeros_like(x).index_add(0, self.rows, self.entries[:, None] * x[self.columns])


def chebyshev(product: Any, right: Tensor, steps: int, low: float, high: float) -> Tensor:
    """`p(A) b` by the three-term recurrence, from `product(x) = A x`."""
    middle, half = (high + low) / 2, (high - low) / 2
    ratio = half / middle
    step = right / middle
    x, rest = step, right
    for _ in range(steps - 1):
        rest = rest - product(step)
        after = 1 / (2 * middle / half - ratio)
        step = (after * ratio) * step + (2 * after / half) * rest
        x, ratio = x + step, after
    return x


@dataclass(frozen=True, kw_only=True)
class Deflation(Method):
    """A solve with the `rank` lowest modes exact and the others by `steps` of the Chebyshev iteration, which then see a smaller
    condition number.

    For symmetric positive definite matrices, scaled to unit diagonal. On a mode that is not deflated the relative error is at
    most `2 q^steps`, `q = (sqrt(k) - 1) / (sqrt(k) + 1)` with k the largest eigenvalue over the first one not deflated. The modes
    come from Lanczos iterations with an exact factorization (sparse) or a full eigendecomposition (dense, or nearly all modes).

    Sources: Nicolaides 1987, Deflation of conjugate gradients, doi:10.1137/0724027; Saad 2003, Iterative methods for sparse linear
    systems, section 12.3.2.

    Args:
        rank: modes that are exact; cut to one less than there are unknowns.
        steps: of the iteration; by default as many as cost what the modes cost, and at least one.

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
        matrix = target.matrix  # type: ignore[attr-defined]
        gap, size = abs(matrix - matrix.T).max(), abs(matrix).max()
        if not float(gap) <= ASYMMETRY * torch.finfo(target.dtype).eps * float(size):  # type: ignore[attr-defined]
            return f"its matrix is not symmetric (transposed entries differ by up to {float(gap):.3g})"
        if not bool((matrix.diagonal() > 0).all()):
            return "its matrix is not positive definite (a diagonal entry is not positive)"
        return None

    def _fit(self, target: Solve, supply: Supply, generator: torch.Generator) -> DeflatedChebyshevModel:
        rank = min(self.rank, target.unknowns - 1)
        diagonal = torch.as_tensor(target.matrix.diagonal()).to(torch.float64)
        scale = diagonal.rsqrt()
        pairs = _dense_modes if target.sparse is None or target.unknowns <= 2 * rank + 2 else _sparse_modes
        entries, rows, columns = _scaled(target, scale)
        values, modes, highest = pairs(target, scale, rank, generator)
        if not float(values[0]) > 0:
            raise BadInput("matrix", "positive definite", f"one with an eigenvalue {float(values[0]):.3g} on scaling")
        low, high = float(values[rank]) / WIDER, highest * WIDER
        steps = self.steps or 1 + round(2 * rank * len(scale) / (entries.numel() + 3 * len(scale)))
        kept = values[:rank]
        correction = 1 / kept - chebyshev(kept.mul, torch.ones_like(kept), steps, low, high)
        tensors = {"modes": modes[:, :rank], "correction": correction, "scale": scale, "entries": entries}
        return DeflatedChebyshevModel(
            **{name: tensor.to(target.dtype) for name, tensor in tensors.items()},
            rows=rows,
            columns=columns,
            steps=steps,
            low=low,
            high=high,
        )


def _scaled(target: Solve, scale: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Entries of the matrix scaled to unit diagonal, and where they stand if it is sparse."""
    if target.sparse is None:
        return scale[:, None] * target.matrix.double() * scale, None, None
    found = target.sparse.tocoo()
    rows, columns = (torch.from_numpy(index.astype(np.int64)) for index in (found.row, found.col))
    return torch.from_numpy(found.data).double() * scale[rows] * scale[columns], rows, columns


def _dense_modes(target: Solve, scale: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """All eigenvalues in rising order, their vectors, and the largest."""
    matrix = target.matrix if target.sparse is None else torch.from_numpy(target.sparse.toarray())
    values, vectors = torch.linalg.eigh(scale[:, None] * matrix.double() * scale)
    return values, vectors, float(values[-1])


def _sparse_modes(target: Solve, scale: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """The lowest `rank + 1` eigenvalues in rising order, their vectors, and the largest eigenvalue.

    Raises:
        BadInput: for a matrix that is not positive definite.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import LinearOperator, eigsh, splu

    turn = diags(scale.numpy())
    matrix = (turn @ target.sparse.astype(np.float64) @ turn).tocsc()
    # Without pivoting the pivots have the signs of the eigenvalues (Sylvester's law of inertia).
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    pivots = factors.U.diagonal()
    if not bool((pivots > 0).all()):
        raise BadInput(
            "matrix", "positive definite", f"one with {int((pivots <= 0).sum())} eigenvalues that are not positive"
        )
    start = torch.randn(target.unknowns, dtype=torch.float64, generator=generator).numpy()
    inverse = LinearOperator(matrix.shape, factors.solve, dtype=np.float64)
    values, vectors = eigsh(matrix, rank + 1, sigma=0.0, OPinv=inverse, v0=start)
    order = np.argsort(values)
    highest = float(eigsh(matrix, 1, which="LA", v0=start, return_eigenvectors=False, tol=1e-3)[0])
    return torch.from_numpy(values[order].copy()), torch.from_numpy(vectors[:, order].copy()), highest
