"""Linear finite elements on the crisscross triangulation of the unit square, assembled by scikit-fem."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse
import torch

from nearly.core.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jaxtyping import Float
    from torch import Tensor

    from nearly.core.affine import AffineSystem

    Solver = Callable[[Tensor], Tensor]


class Entries(NamedTuple):
    """A matrix that is linear in one coefficient per triangle: entry (rows_e, columns_e) gains `weights_e c[triangles_e]`."""

    rows: np.ndarray
    columns: np.ndarray
    triangles: np.ndarray
    weights: np.ndarray


class Crisscross:
    """The unit square cut into `cells` x `cells` squares, each cut into four triangles by its center.

    Nodes: first the (cells + 1)^2 corners, row by row from the bottom, then the cells^2 centers in the same order.
    Matrices and loads are zero in rows and columns of nodes on the boundary.

    Args:
        cells: squares per side, at least 2.

    Raises:
        MissingExtra: scikit-fem is not installed.
    """

    def __init__(self, cells: int) -> None:
        try:
            import skfem
        except ImportError as error:
            raise MissingExtra("scikit-fem", "fem", "assembling finite elements") from error
        self.cells, side = cells, cells + 1
        row, column = (index.ravel() for index in np.indices((cells, cells)))
        southwest = row * side + column
        corners = southwest, southwest + 1, southwest + side + 1, southwest + side
        center = side * side + row * cells + column
        pairs = zip(corners, (*corners[1:], corners[0]), strict=True)
        lattice = np.indices((side, side)).reshape(2, -1)[::-1] / cells
        self.points = np.concatenate([lattice.T, np.stack([column + 0.5, row + 0.5], axis=1) / cells])
        self.triangles = np.concatenate([np.stack([a, b, center], axis=1) for a, b in pairs])
        # Centroids times 6 * cells, as exact integers: which block a triangle is in must not depend on round-off.
        self.centroids_times_six_cells = np.concatenate(
            [6 * np.stack([column, row], axis=1) + offset for offset in ([3, 1], [5, 3], [3, 5], [1, 3])]
        )
        self.free = np.flatnonzero(((self.points > 0.0) & (self.points < 1.0)).all(axis=1))
        mesh = skfem.MeshTri(self.points.T.copy(), self.triangles.T.copy())
        self._basis = skfem.Basis(mesh, skfem.ElementTriP1(), intorder=2)

    @property
    def unknowns(self) -> int:
        """The number of nodes, boundary included."""
        return len(self.points)

    @cached_property
    def centroids(self) -> np.ndarray:
        """Shape (triangles, 2)."""
        return self.centroids_times_six_cells / (6 * self.cells)

    def entries(self, form: Callable[..., Any]) -> Entries:
        """Local matrices of a bilinear form `form(u, v, w)` in scikit-fem's notation, on interior nodes."""
        import skfem

        parts = skfem.BilinearForm(form).coo_data(self._basis)
        triangles = np.arange(parts.data.size) % len(self.triangles)
        interior = np.isin(parts.indices, self.free).all(axis=0)
        # Corners of a right angle do not couple by diffusion; what round-off leaves there would only cost fill-in.
        used = interior & (np.abs(parts.data) > 1e-14 * np.abs(parts.data).max())
        return Entries(parts.indices[0][used], parts.indices[1][used], triangles[used], parts.data[used])

    @cached_property
    def diffusion(self) -> Entries:
        """Of `integral of c grad(u) . grad(v)` for c constant on each triangle."""
        return self.entries(lambda u, v, _: u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1])

    def matrix(self, entries: Entries, coefficient: Float[np.ndarray, " triangles"]) -> scipy.sparse.csr_matrix:
        """Sum the entries with one coefficient per triangle."""
        data = entries.weights * coefficient[entries.triangles]
        size = self.unknowns
        matrix = scipy.sparse.csr_matrix((data, (entries.rows, entries.columns)), shape=(size, size))
        matrix.eliminate_zeros()
        return matrix

    def load(self, source: Float[np.ndarray, " triangles"]) -> Float[np.ndarray, " unknowns"]:
        """Of `integral of source * v`, for a source constant on each triangle (its value at the centroid)."""
        third = source / (12 * self.cells**2)  # a triangle's area is 1 / (4 cells^2)
        load = np.bincount(self.triangles.ravel(), np.repeat(third, 3), minlength=self.unknowns)
        inner = np.zeros(self.unknowns)
        inner[self.free] = load[self.free]
        return inner

    def interpolation(self, points: Float[np.ndarray, "n 2"]) -> scipy.sparse.csr_matrix:
        """The sparse (n, unknowns) matrix that evaluates a piecewise linear function at points of the unit square."""
        square = np.minimum((points * self.cells).astype(np.int64), self.cells - 1)
        local = points * self.cells - square - 0.5
        steep = np.abs(local).argmax(axis=1)
        rows = np.arange(len(points))
        toward, along = local[rows, steep], local[rows, 1 - steep]
        # In the triangle of the center and the side that `toward` points at, the corners weigh |toward| -+ along.
        side = np.where(toward >= 0.0, 1, 0)
        corner = square[:, 0] + square[:, 1] * (self.cells + 1)
        step = np.array([1, self.cells + 1])
        base = corner + side * step[steep]
        center = (self.cells + 1) ** 2 + square[:, 0] + square[:, 1] * self.cells
        columns = np.concatenate([base, base + step[1 - steep], center])
        weights = np.concatenate([np.abs(toward) - along, np.abs(toward) + along, 1.0 - 2.0 * np.abs(toward)])
        matrix = scipy.sparse.csr_matrix((weights, (np.tile(rows, 3), columns)), shape=(len(points), self.unknowns))
        matrix.eliminate_zeros()
        return matrix


def affine_solver(system: AffineSystem) -> Solver:
    """Solve an affine system directly: parameters of shape (d,) in, a float64 solution of shape (unknowns,) out."""

    def solve(parameters: Tensor) -> Tensor:
        row = parameters[None].to("cpu", torch.float64)
        load = system.load_coefficients(row)[0].numpy() @ system.loads
        return torch.from_numpy(system.family.factor(system.operator_coefficients(row)[0].numpy())(load))

    return solve


def interpolated(solver: Solver, interpolation: scipy.sparse.csr_matrix) -> Solver:
    """A coarse solver whose solution is interpolated to the fine nodes."""

    def solve(parameters: Tensor) -> Tensor:
        return torch.from_numpy(interpolation @ solver(parameters).numpy())

    return solve
