"""Flow through a random porous medium: the standard test of learned operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import torch

from nearly.core.errors import BadInput
from nearly.core.nouns import Fidelity, Field
from nearly.core.validate import generator_from, require_int
from nearly.linalg.sparse import SparseFamily

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_COARSE = (2, 4, 8)
_CELLS_LEAST = 2


def darcy_flow(cells: int = 64, medium: str = "two-valued") -> Field:
    """Pressure in a random porous medium: a permeability field to the pressure field.

    Equation: `-div(a grad u) = 1` in the unit square, u = 0 on its boundary. The medium is made from a centered Gaussian
    field z with covariance `9 (-Laplace + 9)^-2` under Neumann conditions and no constant mode:

    - "two-valued": a = 12 where z >= 0, else 3;
    - "lognormal": a = exp(4 z), about 0.01 to 100.

    The two-valued medium is that of Li et al. (2020), Fourier Neural Operator (arXiv:2010.08895, section 5.2), whose published
    generator leaves the constant mode out too; they solve by finite differences on 421 x 421 nodes.

    Discretization: finite volumes on cells x cells squares, harmonic averages at their faces, values at their centers;
    second-order accurate for smooth a. All quantities are dimensionless; errors are in L2 with equal weights.

    Args:
        cells: squares per side, at least 2.
        medium: "two-valued" or "lognormal".

    Returns:
        The target: inputs and outputs (n, cells, cells), both float64, rows counted along y. Its cheaper solvers take the
        geometric mean of a over blocks of 2 x 2, 4 x 4 and 8 x 8 cells (where these divide `cells`), solve on the blocks,
        and interpolate bilinearly.

    Raises:
        BadInput: cells below 2 or no integer; an unknown medium.

    Example:
        >>> darcy_flow(8).solver(torch.full((8, 8), 2.0, dtype=torch.float64)).max().item()  # doctest: +ELLIPSIS
        0.03...
    """
    require_int("cells", cells, least=_CELLS_LEAST)
    if medium not in {"two-valued", "lognormal"}:
        raise BadInput("medium", "'two-valued' or 'lognormal'", repr(medium))
    fine = _solver(cells)
    coarse = [
        Fidelity(_coarse_solver(cells, factor), (cells // factor) ** 2)
        for factor in _COARSE
        if cells % factor == 0 and cells // factor >= _CELLS_LEAST
    ]

    def sample(n: int, generator: int | torch.Generator) -> Tensor:
        field = _gaussian_field(n, cells, generator_from(generator))
        return torch.where(field >= 0.0, 12.0, 3.0).to(torch.float64) if medium == "two-valued" else (4.0 * field).exp()

    return Field(
        fine,
        sample,
        product=torch.full((cells * cells,), 1.0 / (cells * cells), dtype=torch.float64),
        coarse=coarse,
        name=f"Darcy flow, {medium}",
    )


def _gaussian_field(n: int, cells: int, generator: torch.Generator) -> Tensor:
    """Cosine series with coefficients of variance `9 / (pi^2 |k|^2 + 9)^2`, k != 0, summed at the cell centers."""
    frequency = torch.arange(cells, dtype=torch.float64)
    scale = 3.0 / (math.pi**2 * (frequency[:, None] ** 2 + frequency**2) + 9.0)
    scale[0, 0] = 0.0
    noise = torch.randn(n, cells, cells, dtype=torch.float64, generator=generator)
    # The orthonormal inverse transform sums cosines of mean square 1 / cells^2 each.
    return torch.from_numpy(scipy.fft.idctn((cells * scale * noise).numpy(), axes=(1, 2), norm="ortho"))


def _solver(cells: int) -> Callable[[Tensor], Tensor]:
    """Two-point fluxes: face transmissibilities `2 a b / (a + b)` inside and `2 a` at the boundary; load 1 / cells^2."""
    index = np.arange(cells * cells).reshape(cells, cells)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    edge = np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]])
    face, outer = np.arange(len(first)), len(first) + np.arange(len(edge))
    family = SparseFamily.from_entries(
        np.concatenate([first, second, first, second, edge]),
        np.concatenate([first, second, second, first, edge]),
        np.concatenate([face, face, face, face, outer]),
        np.repeat([1.0, -1.0, 1.0], [2 * len(face), 2 * len(face), len(outer)]),
        count=len(face) + len(outer),
        size=cells * cells,
        free=np.arange(cells * cells),
    )
    load = np.full(cells * cells, 1.0 / (cells * cells))

    def solve(permeability: Tensor) -> Tensor:
        a = permeability.to("cpu", torch.float64).numpy().reshape(-1)
        if not (a.size == load.size and (a > 0.0).all()):
            raise BadInput("permeability", f"positive, of shape ({cells}, {cells})", tuple(permeability.shape))
        flux = np.concatenate([2.0 / (1.0 / a[first] + 1.0 / a[second]), 2.0 * a[edge]])
        return torch.from_numpy(family.factor(flux)(load)).reshape(cells, cells)

    return solve


def _coarse_solver(cells: int, factor: int) -> Callable[[Tensor], Tensor]:
    """Blocks of factor x factor cells, of their geometric mean: exact on average for media that look the same turned.

    In the plane, the effective permeability of such media is the geometric mean (Keller 1964, doi:10.1063/1.1704146).
    """
    count = cells // factor
    solver, up = _solver(count), _linear_interpolation(count, cells)

    def solve(permeability: Tensor) -> Tensor:
        log = permeability.to("cpu", torch.float64).log().reshape(count, factor, count, factor)
        return up @ solver(log.mean(dim=(1, 3)).exp()) @ up.T

    return solve


def _linear_interpolation(coarse: int, fine: int) -> Tensor:
    """The (fine, coarse) matrix from centers to centers on [0, 1], through zero at both ends."""
    knots = np.concatenate([[0.0], (np.arange(coarse) + 0.5) / coarse, [1.0]])
    values = np.concatenate([np.zeros((1, coarse)), np.eye(coarse), np.zeros((1, coarse))])
    centers = (np.arange(fine) + 0.5) / fine
    return torch.from_numpy(np.stack([np.interp(centers, knots, column) for column in values.T], axis=1))
