"""Galerkin projection of an affine system onto a growing basis, with its residual in coordinates that round-off does not spoil."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nearly.fields._reduced_model import ReducedModel
from nearly.linalg.orthogonalize import dense_times, extend_orthonormal, sparse_times
from nearly.linalg.sparse import SparseFamily

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearly.core.affine import AffineSystem


class Rows:
    """A matrix that grows by rows without being copied at each growth: the capacity doubles."""

    def __init__(self, columns: int) -> None:
        self._store, self._count = np.empty((0, columns)), 0

    def append(self, rows: Float[np.ndarray, "k n"]) -> None:
        """Add rows."""
        need = self._count + len(rows)
        if not self._count:
            self._store = rows
        elif need > len(self._store):
            grown = np.empty((max(need, 2 * len(self._store)), rows.shape[1]))
            grown[: self._count] = self.filled
            self._store = grown
        self._store[self._count : need] = rows
        self._count = need

    @property
    def filled(self) -> Float[np.ndarray, "r n"]:
        """The rows so far; a view."""
        return self._store[: self._count]


class Projection:
    """Grows a basis and everything that projects on it: reduced operators, reduced loads, residual coordinates.

    The residual `r(mu) = sum_p phi_p f_p - sum_qn theta_q u_n A_q v_n` has the dual norm `||c C||_2`, where the rows of C are the
    coordinates of the Riesz representatives `X^{-1} f_p` and `X^{-1} A_q v_n` in one X-orthonormal basis of their span. Unlike the
    expanded square `c G c^T`, which cancels at the square root of the unit round-off, this is accurate to the unit round-off
    (Buhr, Engwer, Ohlberger, Rave 2014, A numerically stable a posteriori error estimator for reduced basis approximations of
    elliptic equations, arXiv 1407.8005, section 3).

    Args:
        system: the affine system.
        residual: whether residual coordinates are kept too; without them there is no bound.
    """

    def __init__(self, system: AffineSystem, *, residual: bool = True) -> None:
        self.system, self.residual = system, residual
        self.product = system.product
        self._basis, self._span = Rows(system.unknowns), Rows(system.unknowns)
        self.operators = np.zeros((len(system.operators), 0, 0))
        self.loads = np.zeros((len(system.loads), 0))
        # Rows of each operator that are not empty: A_q v is computed and multiplied on these alone.
        self._supports = [np.flatnonzero(np.diff(a.indptr)) for a in system.operators]
        self._restricted = [a[s] for a, s in zip(system.operators, self._supports, strict=True)]
        if residual:
            theta = system.operator_coefficients(system.reference[None])[0].numpy().copy()
            theta[[q for q in range(len(theta)) if q not in system.coercive]] = 0.0
            self._riesz = SparseFamily(system.operators, system.free).factor(theta)
            self._load_coordinates = np.zeros((len(system.loads), 0))
            # One array per extension, of shape (operators, new vectors, width of the span at that time).
            self._operator_coordinates: list[np.ndarray] = []

    @property
    def rank(self) -> int:
        """Number of basis vectors."""
        return len(self._basis.filled)

    def extend(self, vectors: Float[np.ndarray, "k n"]) -> int:
        """Add vectors to the basis, X-orthonormalized; those in its span already (to round-off) are left out.

        Args:
            vectors: zero at Dirichlet unknowns.

        Returns:
            How many were added.
        """
        new, _ = extend_orthonormal(self._basis.filled, vectors, sparse_times(self.product, vectors), self.product)
        if not len(new):
            return 0
        old = self.rank
        self._basis.append(new)
        basis = self._basis.filled
        operators = np.zeros((len(self.operators), len(basis), len(basis)))
        operators[:, :old, :old] = self.operators
        images = []
        for q, (rows, part) in enumerate(zip(self._supports, self._restricted, strict=True)):
            image = (part @ new.T).T
            images.append(image)
            operators[q, :, old:] = dense_times(basis[:, rows], image.T)
            if self.system.symmetric:
                operators[q, old:, :old] = operators[q, :old, old:].T
            elif old:
                operators[q, old:, :old] = new[:, rows] @ (part @ basis[:old].T)
        self.operators = operators
        self.loads = np.concatenate([self.loads, self.system.loads @ new.T], axis=1)
        if self.residual:
            self._extend_residual(images)
        return len(new)

    def _extend_residual(self, images: list[np.ndarray]) -> None:
        """Coordinates of the Riesz representatives of the new functionals, given on their supports (and of the loads, at first)."""
        first = not self._operator_coordinates
        parts = list(zip(self._supports, images, strict=True))
        if first:
            parts.append((np.arange(self.system.unknowns), self.system.loads))
        starts = np.cumsum([0, *(len(values) for _, values in parts)])
        functionals = np.zeros((starts[-1], self.system.unknowns))
        for start, (rows, values) in zip(starts, parts, strict=False):
            functionals[start : start + len(values), rows] = values
        representatives = np.ascontiguousarray(self._riesz(functionals.T).T)
        gram = None
        if first:  # the supports make the Gram matrix cheap
            gram = np.concatenate([dense_times(representatives[:, r], values.T) for r, values in parts], axis=1)
        new, found = extend_orthonormal(self._span.filled, representatives, functionals, self.product, gram=gram)
        self._span.append(new)
        count = sum(len(values) for values in images)
        self._operator_coordinates.append(found[:count].reshape(len(images), -1, found.shape[1]))
        if first:
            self._load_coordinates = found[count:]

    def _residual_coordinates(self, rank: int) -> Float[np.ndarray, "rows width"]:
        """C for the first basis vectors: a row per operator and vector (operator by operator), then one per load."""
        parts = self._operator_coordinates
        used = int(np.searchsorted(np.cumsum([part.shape[1] for part in parts]), rank)) + 1
        width = parts[used - 1].shape[2]
        operators = np.zeros((len(self.operators), sum(part.shape[1] for part in parts[:used]), width))
        start = 0
        for part in parts[:used]:
            operators[:, start : start + part.shape[1], : part.shape[2]] = part
            start += part.shape[1]
        loads = np.zeros((len(self.loads), width))
        loads[:, : self._load_coordinates.shape[1]] = self._load_coordinates
        return np.concatenate([operators[:, :rank].reshape(-1, width), loads])

    def model(self, rank: int | None = None, *, accuracy: float = 0.0) -> ReducedModel:
        """The reduced model on the first `rank` basis vectors.

        Args:
            rank: by default all vectors.
            accuracy: residual coordinates are rotated to their principal axes and cut where what is left changes the residual's
                dual norm by at most this times the 2-norm of the weights; the bound then holds with that added. 0 keeps all.

        Returns:
            The model; without residual coordinates it has no bound.
        """
        rank = self.rank if rank is None else rank
        state: dict[str, Tensor] = {}
        if self.residual:
            coordinates, tail = torch.from_numpy(self._residual_coordinates(rank)), 0.0
            if accuracy > 0:
                left, values, _ = torch.linalg.svd(coordinates, full_matrices=False)
                kept = int((values > accuracy).sum())
                coordinates, tail = left[:, :kept] * values[:kept], float(values[kept]) if kept < len(values) else 0.0
            count = len(self.operators) * rank
            state = {
                "residual_operators": coordinates[:count],
                "residual_loads": coordinates[count:],
                "tail": torch.tensor(tail, dtype=torch.float64),
            }
        system, basis = self.system, torch.from_numpy(self._basis.filled[:rank].copy())
        steepest = float(abs(self.product).sum(axis=1).max()) ** 0.5
        return ReducedModel(
            basis=basis,
            operators=torch.from_numpy(self.operators[:, :rank, :rank].copy()),
            loads=torch.from_numpy(self.loads[:, :rank].copy()),
            operator_scale=system.operator_coefficients.scale.clone(),
            operator_exponents=system.operator_coefficients.exponents.clone(),
            load_scale=system.load_coefficients.scale.clone(),
            load_exponents=system.load_coefficients.exponents.clone(),
            reference=system.reference.clone(),
            lift=steepest * basis.norm(dim=1),
            coercive=list(system.coercive),
            symmetric=system.symmetric,
            **state,
        )
