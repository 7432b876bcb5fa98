"""The residual of a growing reduced basis in coordinates whose 2-norm is its dual norm, and that round-off does not spoil."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from nearly.linalg.orthogonalize import dense_times, extend_orthonormal

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearly.core.affine import AffineSystem

NEGLIGIBLE = 3e-14  # smaller parts of a snapshot's functional are mostly its round-off; the slack counts them

SHARE = 0.1  # of a residual may be cut: at a right angle to the rest, it makes 0.5% of it


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


class ResidualCoordinates:
    """Coordinates C of the functionals F (rows `A_q v_n` and `f_p`) with `||c F||_{X^-1} = ||c C||_2` for all weights c.

    `F = S U` with orthonormal rows U in the plain 2-norm, `U X^-1 U^T = L L^T`, `C = S L`. The first step takes away what the
    functionals have in common, the second meets a matrix whose condition number is at most that of X; so `c C` is accurate to
    the unit round-off times the functionals' sizes, where the expanded square `c F X^-1 F^T c^T` cancels at its square root.
    (That a residual norm in orthonormal coordinates is stable: Buhr, Engwer, Ohlberger, Rave 2014, A numerically stable a
    posteriori error estimator for reduced basis approximations of elliptic equations, arXiv 1407.8005, section 3. They
    orthonormalize the Riesz representatives `X^-1 F`, often many more than rows of U, over all unknowns; U is made of parts, each
    over the unknowns that a single operator touches or over the shared ones.)

    Args:
        system: the affine system.
        supports: the rows of each operator that are not empty.
    """

    def __init__(self, system: AffineSystem, supports: list[np.ndarray]) -> None:
        self._loads, self._unknowns = system.loads, system.unknowns
        theta = system.operator_coefficients(system.reference[None])[0].numpy().copy()
        theta[[q for q in range(len(theta)) if q not in system.coercive]] = 0.0
        self._riesz = system.family.factor(theta)
        touched = np.zeros(system.unknowns, dtype=np.int64)
        free = np.zeros(system.unknowns, dtype=bool)
        free[system.free] = True
        for support in supports:
            touched[support] += 1
        shared = np.flatnonzero(free & (touched != 1))
        place = np.empty(system.unknowns, dtype=np.int64)
        self._parts: list[_Part] = []
        for q, support in enumerate(supports):
            alone = free[support] & (touched[support] == 1)
            self._parts.append(_Part(support[alone], {q: (np.flatnonzero(alone), np.arange(int(alone.sum())))}))
        place[shared] = np.arange(len(shared))
        met = {q: np.flatnonzero(free[s] & (touched[s] != 1)) for q, s in enumerate(supports)}
        self._parts.append(_Part(shared, {q: (at, place[supports[q][at]]) for q, at in met.items() if len(at)}))
        self._parts = [part for part in self._parts if len(part.rows)]
        self._factor = np.zeros((0, 0))
        # ||F||_{X^-1} <= softness ||F||_2. Lanczos finds the largest eigenvalue of X^-1 from below, here to 1e-3.
        inverse = LinearOperator((len(free), len(free)), self._riesz, dtype=np.float64)
        largest = eigsh(inverse, k=1, v0=free.astype(np.float64), tol=1e-3, return_eigenvectors=False)
        self._softness = 1.01 * float(largest[0]) ** 0.5
        # One array per extension: coordinates (operators, new vectors, width at that time); and (2, operators, new vectors): the
        # functionals' 2-norms and those of what the coordinates miss.
        self._coordinates: list[np.ndarray] = []
        self._norms: list[np.ndarray] = []
        self._remainders: list[np.ndarray] = []

    def extend(self, images: list[np.ndarray], remainders: Float[np.ndarray, " k"]) -> None:
        """Take in the functionals of new basis vectors.

        Args:
            images: `A_q v` for each operator, on its support, a row per new vector.
            remainders: of each vector, the share of the snapshot that it was scaled up from.
        """
        new_vectors, first = len(images[0]), not self._coordinates
        loads = self._loads if first else self._loads[:0]
        count = len(images) * new_vectors + len(loads)
        old = len(self._factor)
        width = old
        sizes = np.concatenate([*(np.linalg.norm(image, axis=1) for image in images), np.linalg.norm(loads, axis=1)])
        missed = np.zeros(count)
        scales = sizes / np.concatenate([np.tile(remainders, len(images)), np.ones(len(loads))])
        pieces = []
        for part in self._parts:
            members, functionals = part.functionals(images, loads)
            added, inside, outside = part.extend(functionals, scales[members])
            part.places = np.concatenate([part.places, np.arange(width, width + len(added))])
            width += len(added)
            missed[members] += outside**2
            pieces.append((part, members, inside, added))
        combination = np.zeros((count, width))
        directions = np.zeros((width - old, self._unknowns))
        for part, members, inside, added in pieces:
            combination[np.ix_(members, part.places)] = inside
            directions[np.ix_(part.places[len(part.places) - len(added) :] - old, part.rows)] = added
        self._enlarge(directions)
        coordinates, norms = dense_times(combination, self._factor), np.stack([sizes, np.sqrt(missed)])
        split = len(images) * new_vectors
        if first:
            self._load_coordinates, self._load_norms = coordinates[split:], norms[:, split:]
        self._coordinates.append(coordinates[:split].reshape(len(images), new_vectors, width))
        self._norms.append(norms[:, :split].reshape(2, len(images), new_vectors))
        self._remainders.append(remainders)

    def _enlarge(self, directions: Float[np.ndarray, "k n"]) -> None:
        """The Cholesky factor of `U X^-1 U^T` with new rows of U."""
        if not len(directions):
            return
        old = len(self._factor)
        width = old + len(directions)
        solved = np.ascontiguousarray(self._riesz(directions.T).T)
        gram = np.zeros((width, len(directions)))
        for part in self._parts:
            gram[part.places] = dense_times(part.basis.filled, np.ascontiguousarray(solved[:, part.rows].T))
        factor = np.zeros((width, width))
        factor[:old, :old] = self._factor
        square = gram[old:]
        if old:
            across = torch.linalg.solve_triangular(
                torch.from_numpy(self._factor), torch.from_numpy(gram[:old]), upper=False
            )
            factor[old:, :old] = across.T.numpy()
            square = square - dense_times(factor[old:, :old], factor[old:, :old].T)
        factor[old:, old:] = torch.linalg.cholesky(torch.from_numpy((square + square.T) / 2)).numpy()
        self._factor = factor

    def tensors(self, rank: int) -> dict[str, Tensor]:
        """What a `ReducedModel` on the first `rank` basis vectors keeps.

        Args:
            rank: number of basis vectors.

        Returns:
            `residual_operators`: a row per operator and vector, operator by operator; `residual_loads`: a row per load;
            `slack`: the dual norms of what round-off and negligible parts make of each functional; `scale`: of the vectors, which
            the rows are multiplied by; `tail`: 0.
        """
        parts = self._coordinates
        used = int(np.searchsorted(np.cumsum([part.shape[1] for part in parts]), rank)) + 1
        width = parts[used - 1].shape[2]
        rows = np.zeros((len(parts[0]), sum(part.shape[1] for part in parts[:used]), width))
        start = 0
        for part in parts[:used]:
            rows[:, start : start + part.shape[1], : part.shape[2]] = part
            start += part.shape[1]
        loads = np.zeros((len(self._load_coordinates), width))
        loads[:, : self._load_coordinates.shape[1]] = self._load_coordinates
        count = len(rows) * rank
        norms = np.concatenate(
            [np.concatenate(self._norms[:used], axis=2)[:, :, :rank].reshape(2, -1), self._load_norms], axis=1
        )
        # Every entry of the residual is a sum of so many products.
        rounding = norms.shape[1] ** 0.5 * np.finfo(np.float64).eps
        slack = self._softness * (rounding * norms[0] + norms[1])
        # A coefficient is about as small as what was new in its snapshot.
        scale = np.concatenate(self._remainders)[:rank]
        slack[:count] *= np.tile(scale, len(rows))
        return {
            "residual_operators": torch.from_numpy((rows[:, :rank] * scale[:, None]).reshape(count, width)),
            "residual_loads": torch.from_numpy(loads),
            "slack": torch.from_numpy(slack),
            "scale": torch.from_numpy(scale),
            "tail": torch.zeros((), dtype=torch.float64),
        }


def compress(
    tensors: dict[str, Tensor],
    theta: Float[Tensor, "m q"],
    phi: Float[Tensor, "m p"],
    solutions: Float[Tensor, "m rank"],
) -> dict[str, Tensor]:
    """Residual coordinates cut to the principal axes that matter to typical weights.

    Coordinates of basis vectors are scaled by the mean size of the solutions' coefficients; then the axes of the least singular
    values go, as long as they change none of the given residuals by more than a share.

    Args:
        tensors: as from `ResidualCoordinates.tensors`.
        theta: weights of the operators, for some parameters.
        phi: weights of the loads.
        solutions: the reduced solutions.

    Returns:
        The same with fewer columns, with the `scale`, and with `tail`: the most that unit weights make of what was cut.
    """
    scale = solutions.square().mean(dim=0).sqrt()
    scale = scale.clamp(min=float(scale.max()) * np.finfo(np.float64).eps)
    weights = torch.cat([-(theta[:, :, None] * (solutions / scale)[:, None, :]).flatten(1), phi], dim=1)
    stretch = (scale / tensors["scale"]).repeat(theta.shape[1])
    rows = torch.cat([tensors["residual_operators"] * stretch[:, None], tensors["residual_loads"]])
    accuracy = SHARE * float(((weights @ rows).norm(dim=1) / weights.norm(dim=1)).min())
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    kept = max(1, int((values > accuracy).sum()))
    cut = left[:, :kept] * values[:kept]
    return {
        "residual_operators": cut[: len(stretch)].contiguous(),
        "residual_loads": cut[len(stretch) :].contiguous(),
        "slack": torch.cat([tensors["slack"][: len(stretch)] * stretch, tensors["slack"][len(stretch) :]]),
        "scale": scale,
        "tail": values[kept].clone() if kept < len(values) else tensors["tail"],
    }


class _Part:
    """Some unknowns, and an orthonormal basis of the functionals' values there.

    Args:
        rows: the unknowns.
        members: for each operator that touches some of them, their places on its support and among the rows.
    """

    def __init__(self, rows: np.ndarray, members: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        self.rows, self.members = rows, members
        self.basis = Rows(len(rows))
        self.places = np.zeros(0, dtype=np.int64)

    def functionals(
        self, images: list[np.ndarray], loads: Float[np.ndarray, "p n"]
    ) -> tuple[np.ndarray, Float[np.ndarray, "m rows"]]:
        """The numbers (operator by operator, then the loads) of the functionals that meet these unknowns; their values there."""
        count = len(images[0])
        numbers = [np.arange(q * count, (q + 1) * count) for q in self.members]
        numbers.append(len(images) * count + np.arange(len(loads)))
        values = np.zeros((sum(map(len, numbers)), len(self.rows)))
        for index, (q, (taken, places)) in enumerate(self.members.items()):
            values[index * count : (index + 1) * count, places] = images[q][:, taken]
        values[len(values) - len(loads) :] = loads[:, self.rows]
        return np.concatenate(numbers), values

    def extend(self, functionals: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New orthonormal rows, the functionals' coordinates in all, and the norms of what is in none."""
        found = extend_orthonormal(
            self.basis.filled, functionals, functionals, None, sizes=sizes, negligible=NEGLIGIBLE
        )
        if len(found[0]):
            self.basis.append(found[0])
        return found
