"""Galerkin projection of an affine system onto a basis, with its residual in coordinates that round-off does not spoil."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearly.core.affine import Monomials
from nearly.core.surrogate import Model, operations_of_maps
from nearly.linalg.sparse import SparseFamily

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.affine import AffineSystem

# Batched LU of larger matrices on two or more CPU threads returns garbage pivots (torch 2.13.0 with MKL 2024.2: sizes
# 192 and above, any batch above 1); one matrix at a time is right.
BATCHED_LU = 128
CACHE = (
    32  # systems solved together on a CPU: their matrices (32 x 64 kB at rank 90) then stay in the second-level cache
)


class Rows:
    """A matrix that grows by rows without being copied at each growth: the capacity doubles."""

    def __init__(self, columns: int) -> None:
        self._store, self._count = np.empty((0, columns)), 0

    def append(self, rows: Float[np.ndarray, "k n"]) -> None:
        """Add rows."""
        need = self._count + len(rows)
        if need > len(self._store):
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
    coordinates of the Riesz representatives `X^{-1} f_p` and `X^{-1} A_q v_n` in one X-orthonormal basis W of their span. Unlike the
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
        self.supports = [np.flatnonzero(np.diff(a.indptr)) for a in system.operators]
        self.restricted = [a[s] for a, s in zip(system.operators, self.supports, strict=True)]
        if residual:
            theta = system.operator_coefficients(system.reference[None])[0].numpy().copy()
            theta[[q for q in range(len(theta)) if q not in system.coercive]] = 0.0
            self.riesz = SparseFamily(system.operators, system.free).factor(theta)
            self.load_coordinates = self._coordinates(system.loads)
            # One array per extension, of shape (operators, new vectors, width of the span at that time).
            self.operator_coordinates: list[np.ndarray] = []

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
        images = (self.product @ vectors.T).T
        new, _ = orthonormalize(self._basis.filled, vectors, images, self.product)
        if not len(new):
            return 0
        old = self.rank
        self._basis.append(new)
        basis = self._basis.filled
        operators = np.zeros((len(self.operators), len(basis), len(basis)))
        operators[:, :old, :old] = self.operators
        functionals = np.zeros((len(operators), len(new), self.system.unknowns))
        for q, (rows, part) in enumerate(zip(self.supports, self.restricted, strict=True)):
            image = (part @ new.T).T
            functionals[q][:, rows] = image
            operators[q, :, old:] = basis[:, rows] @ image.T
            if self.system.symmetric:
                operators[q, old:, :old] = operators[q, :old, old:].T
            elif old:
                operators[q, old:, :old] = new[:, rows] @ (part @ basis[:old].T)
        self.operators = operators
        self.loads = np.concatenate([self.loads, self.system.loads @ new.T], axis=1)
        if self.residual:
            found = self._coordinates(functionals.reshape(-1, self.system.unknowns))
            self.operator_coordinates.append(found.reshape(len(operators), len(new), -1))
        return len(new)

    def _coordinates(self, functionals: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k r"]:
        """Coordinates of the functionals' Riesz representatives in the span, which grows where they leave it."""
        representatives = np.ascontiguousarray(self.riesz(functionals.T).T)
        new, coordinates = orthonormalize(self._span.filled, representatives, functionals, self.product)
        self._span.append(new)
        return coordinates

    def model(self) -> ReducedModel:
        """The reduced model as it stands."""
        system = self.system
        state: dict[str, Any] = {}
        if self.residual:
            width = len(self._span.filled)
            operators = np.zeros((len(system.operators), self.rank, width))
            start = 0
            for found in self.operator_coordinates:
                operators[:, start : start + found.shape[1], : found.shape[2]] = found
                start += found.shape[1]
            loads = np.zeros((len(self.loads), width))
            loads[:, : self.load_coordinates.shape[1]] = self.load_coordinates
            state = {"residual_operators": torch.from_numpy(operators), "residual_loads": torch.from_numpy(loads)}
        return ReducedModel(
            basis=torch.from_numpy(self._basis.filled),
            operators=torch.from_numpy(self.operators),
            loads=torch.from_numpy(self.loads),
            operator_scale=system.operator_coefficients.scale.clone(),
            operator_exponents=system.operator_coefficients.exponents.clone(),
            load_scale=system.load_coefficients.scale.clone(),
            load_exponents=system.load_coefficients.exponents.clone(),
            reference=system.reference.clone(),
            coercive=list(system.coercive),
            symmetric=system.symmetric,
            **state,
        )


def orthonormalize(
    basis: Float[np.ndarray, "r n"],
    vectors: Float[np.ndarray, "k n"],
    images: Float[np.ndarray, "k n"],
    product: Any,
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "k s"]]:
    """Split vectors into a part in an X-orthonormal basis and new X-orthonormal directions.

    Block Gram-Schmidt, done twice (twice is enough; Giraud, Langou, Rozloznik, van den Eshof 2005, doi:10.1007/s00211-005-0615-4),
    then a rank-revealing factorization inside the block. What is left below 1e-14 of a vector's own norm is round-off and
    makes no direction.

    Args:
        basis: X-orthonormal rows.
        vectors: any rows.
        images: X times the vectors.
        product: X, sparse.

    Returns:
        The new directions (m rows), and coordinates of the vectors with respect to basis and new directions together, s = r + m.
    """
    sizes = np.sqrt(np.maximum(np.einsum("kn,kn->k", vectors, images), 0.0))
    inside = images @ basis.T
    rest = vectors - inside @ basis
    again = (product @ rest.T).T @ basis.T
    rest -= again @ basis
    inside += again
    scale = np.maximum(sizes, np.finfo(np.float64).tiny)[:, None]
    new, outside = _directions(rest, scale, product)
    if not len(new):
        return new, inside
    # Directions made from small remainders carry round-off along the basis, magnified as they were scaled up.
    if len(basis) and np.linalg.norm(outside / scale, axis=0).min() < 1e-4:
        for _ in range(2):
            new -= ((product @ new.T).T @ basis.T) @ basis
            new = np.linalg.solve(np.linalg.cholesky(new @ (product @ new.T)), new)
        outside = (product @ rest.T).T @ new.T
    return new, np.concatenate([inside, outside], axis=1)


def _directions(
    rest: Float[np.ndarray, "k n"], scale: Float[np.ndarray, "k 1"], product: Any
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "k m"]]:
    """X-orthonormal directions that span the rows of `rest` down to 1e-14 of `scale`, and the rows' coordinates.

    The Gram matrix' eigendecomposition only resolves 1e-7 of the largest direction; so it is repeated on what it left.
    """
    new = np.zeros((0, rest.shape[1]))
    for _ in range(3):
        scaled = rest / scale
        if len(new):
            for _ in range(2):
                scaled = scaled - ((product @ scaled.T).T @ new.T) @ new
        values, turn = np.linalg.eigh(scaled @ (product @ scaled.T))
        kept = values > max(1e-28, 1e-14 * values[-1])
        if not values[-1] > 1e-28:
            break
        found = (turn[:, kept].T / np.sqrt(values[kept])[:, None]) @ scaled
        for _ in range(2):
            if len(new):
                found -= ((product @ found.T).T @ new.T) @ new
            found = np.linalg.solve(np.linalg.cholesky(found @ (product @ found.T)), found)
        new = np.concatenate([new, found])
        if len(new) == len(rest):
            break
    return new, (product @ rest.T).T @ new.T


def solve_reduced(
    matrices: Float[Tensor, "n rank*rank"], right: Float[Tensor, "n rank"], *, symmetric: bool
) -> Float[Tensor, "n rank"]:
    """Solve small dense systems, one per row, given as flattened matrices; by Cholesky if symmetric (then positive definite)."""
    rank = right.shape[1]
    square = matrices.view(-1, rank, rank)
    if symmetric:
        return torch.cholesky_solve(right[..., None], torch.linalg.cholesky_ex(square)[0]).squeeze(-1)
    if rank > BATCHED_LU and square.device.type == "cpu":
        return torch.cat([torch.linalg.solve_ex(a[None], b[None, :, None])[0] for a, b in zip(square, right, strict=True)]).squeeze(-1)
    return torch.linalg.solve_ex(square, right[..., None])[0].squeeze(-1)


class ReducedModel(Model):
    """`sum_q theta_q(mu) A_q u = sum_p phi_p(mu) f_p` on a basis of N functions, and its residual bound.

    The bound is `Delta / max(||u_N|| - Delta, ||f||_* / gamma)` with `Delta = (||r||_* + c eps scale) / alpha(mu)`: residual over
    coercivity, made relative by the least that `||u||` can be. The rounding term has c = sqrt(number of summed terms) and
    scale = the sum of the magnitudes that cancel in the residual.
    """

    theorem = "dual norm of the residual over the min-theta coercivity bound; coercive affine system"

    def __init__(self, **state: Any) -> None:
        super().__init__(**state)
        self.certified = "residual_operators" in state
        if self.certified:
            norms = state["residual_operators"].norm(dim=2)
            # Stored flat, (terms * rank, width): one matrix product then sums the residual.
            self.register_buffer("_residual_flat", state["residual_operators"].flatten(0, 1), persistent=False)
            self.register_buffer("_residual_norms", norms.flatten(), persistent=False)
            self.register_buffer("_load_norms", state["residual_loads"].norm(dim=1), persistent=False)
        self.register_buffer("_operators_flat", state["operators"].flatten(1), persistent=False)
        self.terms = self._monomials("operator")
        self.load_terms = self._monomials("load")
        reference = self.terms(state["reference"][None])[0, state["coercive"]]
        self.register_buffer("_coercive_reference", reference, persistent=False)
        self.all_coercive = len(state["coercive"]) == len(state["operators"])

    def _monomials(self, name: str) -> Monomials:
        return Monomials(getattr(self, f"{name}_scale"), getattr(self, f"{name}_exponents"))

    @property
    def rank(self) -> int:
        """Number of basis functions."""
        return len(self.basis)

    @property
    def operations(self) -> int:
        """Assembly, factorization and reconstruction."""
        rank = self.rank
        return 2 * self.operators.numel() + 2 * rank**3 // 3 + operations_of_maps(tuple(self.basis.shape))

    def coordinates(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n rank"]:
        """Coefficients of the reduced solution in the basis."""
        return self._solve(parameters, bounded=False)[0]

    def coordinates_and_bound(
        self, parameters: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n rank"], Float[Tensor, " n"]]:
        """Coefficients of the reduced solution, and the bound on its relative error."""
        return self._solve(parameters, bounded=True)

    def forward(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n unknowns"]:
        """The reduced solution on all unknowns."""
        return self.coordinates(parameters) @ self.basis

    def bound(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Bound on the relative error in the X-norm."""
        return self.coordinates_and_bound(parameters)[1]

    def _solve(self, parameters: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        if len(parameters) > CACHE and parameters.device.type == "cpu":
            parts = [self._solve(p, bounded) for p in parameters.split(CACHE)]
            return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        theta, phi = self.terms(parameters), self.load_terms(parameters)
        solution = solve_reduced(theta @ self._operators_flat, phi @ self.loads, symmetric=self.symmetric)
        return solution, self._bound(theta, phi, solution) if bounded else solution[:, 0]

    def _bound(self, theta: Tensor, phi: Tensor, solution: Tensor) -> Tensor:
        weights = (theta[:, :, None] * solution[:, None, :]).flatten(1)
        load = phi @ self.residual_loads
        residual = torch.addmm(load, weights, self._residual_flat, alpha=-1).norm(dim=1)
        # Rounding term: every entry of the residual is a sum of so many products.
        terms = weights.shape[1] + phi.shape[1]
        magnitude = weights.abs() @ self._residual_norms + phi.abs() @ self._load_norms
        residual = residual + math.sqrt(terms) * torch.finfo(residual.dtype).eps * magnitude
        relative = theta[:, self.coercive] / self._coercive_reference
        absolute = residual / relative.amin(dim=1)
        size = solution.norm(dim=1) - absolute
        if self.all_coercive:
            size = torch.maximum(size, load.norm(dim=1) / relative.amax(dim=1))
        return absolute / size.clamp(min=0)
