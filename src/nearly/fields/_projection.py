"""Galerkin projection of an affine system onto a growing basis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearly.fields._reduced_model import ReducedModel
from nearly.fields._residual_coordinates import ResidualCoordinates, Rows, compress
from nearly.linalg.orthogonalize import dense_times, extend_orthonormal, sparse_times

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearly.core.affine import AffineSystem


class Projection:
    """Grows a basis and everything that projects on it: reduced operators, reduced loads, residual coordinates.

    The residual `r(mu) = sum_p phi_p f_p - sum_qn theta_q u_n A_q v_n` is kept in coordinates (see `ResidualCoordinates`).

    Args:
        system: the affine system.
        residual: whether residual coordinates are kept too; without them there is no bound.
    """

    def __init__(self, system: AffineSystem, *, residual: bool = True) -> None:
        self.system = system
        self.product = system.product
        self._basis = Rows(system.unknowns)
        self.operators = np.zeros((len(system.operators), 0, 0))
        self.loads = np.zeros((len(system.loads), 0))
        # Rows of each operator that are not empty: A_q v is computed and multiplied on these alone.
        self._supports = [np.flatnonzero(np.diff(a.indptr)) for a in system.operators]
        self._restricted = [a[s] for a, s in zip(system.operators, self._supports, strict=True)]
        self.residual = ResidualCoordinates(system, self._supports) if residual else None

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
        old = self.rank
        new, inside, _ = extend_orthonormal(
            self._basis.filled, vectors, sparse_times(self.product, vectors), self.product
        )
        if not len(new):
            return 0
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
                operators[q, old:, :old] = dense_times(new[:, rows], part @ basis[:old].T)
        self.operators = operators
        self.loads = np.concatenate([self.loads, dense_times(self.system.loads, new.T)], axis=1)
        if self.residual is not None:
            # How much of the vectors is new: their round-off is larger in a basis vector by the inverse.
            remainders = np.abs(inside[:, old:]).max(axis=0) / np.linalg.norm(inside, axis=1).max()
            self.residual.extend(images, remainders)
        return len(new)

    def model(self, rank: int | None = None, *, typical: Float[Tensor, "m d"] | None = None) -> ReducedModel:
        """The reduced model on the first `rank` basis vectors.

        Args:
            rank: by default all vectors.
            typical: parameters whose residuals say how accurately residuals are needed; by default they are kept to round-off.

        Returns:
            The model; without residual coordinates it has no bound.
        """
        rank = self.rank if rank is None else rank
        system, basis = self.system, torch.from_numpy(self._basis.filled[:rank].copy())
        steepest = float(abs(self.product).sum(axis=1).max()) ** 0.5
        reduced: dict[str, Any] = {
            "basis": basis,
            "operators": torch.from_numpy(self.operators[:, :rank, :rank].copy()),
            "loads": torch.from_numpy(self.loads[:, :rank].copy()),
            "operator_scale": system.operator_coefficients.scale.clone(),
            "operator_exponents": system.operator_coefficients.exponents.clone(),
            "load_scale": system.load_coefficients.scale.clone(),
            "load_exponents": system.load_coefficients.exponents.clone(),
            "reference": system.reference.clone(),
            "lift": steepest * basis.norm(),
            "coercive": list(system.coercive),
            "symmetric": system.symmetric,
        }
        if self.residual is not None:
            residual = self.residual.tensors(rank)
            if typical is not None and len(typical):
                theta, phi = system.operator_coefficients(typical), system.load_coefficients(typical)
                residual = compress(residual, theta, phi, ReducedModel(**reduced).coordinates(typical))
            reduced |= residual
        return ReducedModel(**reduced)
