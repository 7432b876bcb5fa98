"""The thermal block: the standard test of affine model reduction."""

from __future__ import annotations

import math

import numpy as np
import torch

from nearly.core.affine import AffineSystem, Monomials
from nearly.core.domain import Box
from nearly.core.errors import BadInput
from nearly.core.nouns import Fidelity, Field
from nearly.core.validate import require_int
from nearly.problems._finite_elements import Crisscross, affine_solver, interpolated

# Squares per side of the coarse meshes, as shares of the fine one; best first.
_COARSE = (2, 4, 8, 16)


def thermal_block(blocks: tuple[int, int] = (3, 3), cells: int = 100) -> Field:
    """Stationary heat in the unit square made of blocks of unknown conductivity: parameters to temperatures.

    Equation: `-div(kappa grad u) = 1` in the unit square, u = 0 on its boundary, with `kappa = mu_q` on block
    `q = column + blocks[0] * row`, columns counted from the left and rows from the bottom, and mu uniform in [0.1, 1]^Q.
    All quantities are dimensionless.

    Discretization: linear finite elements on the crisscross triangulation, `(cells + 1)^2 + cells^2` unknowns, kappa taken
    at centroids; u is second-order accurate in L2 where blocks meet along edges of the mesh (`cells` a multiple of both
    block counts) and first-order in the norm of errors, the H1 seminorm `sqrt(integral |grad u|^2)`.
    With the defaults it is the problem that pyMOR calls `thermal_block_problem((3, 3))` at mesh width 1/100, in pyMOR's
    own parameter order.

    Known about it: affine in mu; coercivity constant with respect to the norm of errors at least `min(mu)`
    (Patera and Rozza 2007, Reduced Basis Approximation, section 4.2.2); compliant (the load is the output).

    Args:
        blocks: columns and rows of blocks.
        cells: squares per side of the mesh, at least 2.

    Returns:
        The target: inputs (n, Q) and outputs (n, unknowns), both float64. Its cheaper solvers are the same elements on
        meshes about 2, 4, 8 and 16 times as coarse, aligned with the blocks where they can be, interpolated linearly.

    Raises:
        BadInput: blocks that are not two positive integers, or cells below 2.
        MissingExtra: scikit-fem is not installed.

    Example:
        >>> thermal_block((2, 1), cells=8).solver(torch.ones(2, dtype=torch.float64)).max().item()  # doctest: +ELLIPSIS
        0.0741...
    """
    if not isinstance(blocks, tuple | list) or len(blocks) != 2:
        raise BadInput("blocks", "two positive integers", blocks)
    columns, rows = (require_int(f"blocks[{axis}]", count, least=1) for axis, count in enumerate(blocks))
    require_int("cells", cells, least=2)
    mesh, system = _assemble(columns, rows, cells)
    coarse = []
    for count in _coarse_cells(cells, math.lcm(columns, rows)):
        coarse_mesh, coarse_system = _assemble(columns, rows, count)
        solver = interpolated(affine_solver(coarse_system), coarse_mesh.interpolation(mesh.points))
        coarse.append(Fidelity(solver, coarse_mesh.unknowns))
    return Field(
        affine_solver(system),
        Box([0.1] * (columns * rows), [1.0] * (columns * rows)),
        product=system.product,
        system=system,
        coarse=coarse,
        points=mesh.points,
        triangles=mesh.triangles,
        name=f"thermal block {columns} x {rows}",
    )


def _coarse_cells(cells: int, step: int) -> list[int]:
    """Squares per side of the coarse meshes, rounded to multiples of `step` where they reach it.

    Edges along the blocks make a coarse mesh much better: against 100 squares, 51 leave an error of 1.9%, 50 of 3.5%.
    """
    counts = (
        max(step * round(cells / factor / step), step) if cells >= factor * step else cells // factor
        for factor in _COARSE
    )
    return sorted({count for count in counts if 2 <= count < cells}, reverse=True)


def _assemble(columns: int, rows: int, cells: int) -> tuple[Crisscross, AffineSystem]:
    mesh = Crisscross(cells)
    column, row = (mesh.centroids_times_six_cells * np.array([columns, rows]) // (6 * cells)).T
    count = columns * rows
    block = column + columns * row
    operators = tuple(mesh.matrix(mesh.diffusion, (block == index).astype(np.float64)) for index in range(count))
    system = AffineSystem(
        operators=operators,
        operator_coefficients=Monomials.coordinates(count),
        loads=mesh.load(np.ones(len(mesh.triangles)))[None],
        load_coefficients=Monomials.constant(count),
        coercive=tuple(range(count)),
        reference=torch.ones(count, dtype=torch.float64),
        symmetric=True,
        free=mesh.free,
    )
    return mesh, system
