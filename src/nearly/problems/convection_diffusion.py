"""Heat carried by a vortex past a moving hot inclusion: a problem whose parameters do not separate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nearly.core.affine import AffineSystem, Monomials
from nearly.core.domain import Box
from nearly.core.nonaffine import NonaffineSystem
from nearly.core.nouns import Fidelity, Field
from nearly.core.validate import require_int
from nearly.linalg.sparse import SparseFamily
from nearly.problems._finite_elements import Crisscross, interpolated

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from nearly.problems._finite_elements import Solver

_RADIUS, _CONDUCTIVITY, _HEAT = 0.1, 9.0, 20.0
_COARSE = (2, 4, 8)


def convection_diffusion(cells: int = 50) -> Field:
    """Temperature around a hot, well-conducting inclusion in a rotating flow: position and flow strength to temperatures.

    Equation: `-div((1 + 9 g) grad u) + p b . grad u = 1 + 20 g` in the unit square, u = 0 on its boundary, with

    - `g(x; m) = exp(-|x - m|^2 / (2 * 0.1^2))`, the inclusion at m, not affine in m;
    - `b = (sin(pi x) cos(pi y), -cos(pi x) sin(pi y))`, a vortex, divergence-free and tangential at the boundary;
    - parameters (m_1, m_2, p), uniform in [0.25, 0.75]^2 x [0, 50]; p is the Peclet number.

    All quantities are dimensionless. Discretization: linear finite elements on the crisscross triangulation,
    `(cells + 1)^2 + cells^2` unknowns, g taken at centroids, the convection skew-symmetrized. Second-order accurate in L2;
    errors are measured in the H1 seminorm `sqrt(integral |grad u|^2)`.

    Known about it: convection is skew and g nonnegative, so the coercivity constant with respect to the norm of errors is
    at least 1 for all parameters.

    Args:
        cells: squares per side of the mesh, at least 2; p / cells over about 2 makes the solution oscillate.

    Returns:
        The target: inputs (n, 3) and outputs (n, unknowns), both float64; its `nonaffine` is a `NonaffineSystem`. Its cheaper
        solvers are the same elements on meshes 2, 4 and 8 times as coarse, interpolated linearly.

    Raises:
        BadInput: cells below 2 or no integer.
        MissingExtra: scikit-fem is not installed.

    Example:
        >>> convection_diffusion(8).solver(torch.tensor([0.5, 0.5, 10.0], dtype=torch.float64)).shape
        torch.Size([145])
    """
    require_int("cells", cells, least=2)
    mesh, system = _assemble(cells)
    coarse = []
    for factor in _COARSE:
        if cells // factor >= 2:
            coarse_mesh, coarse_system = _assemble(cells // factor)
            solver = interpolated(_solver(coarse_mesh, coarse_system), coarse_mesh.interpolation(mesh.points))
            coarse.append(Fidelity(solver, coarse_mesh.unknowns))
    return Field(
        _solver(mesh, system),
        Box([0.25, 0.25, 0.0], [0.75, 0.75, 50.0]),
        product=system.product,
        nonaffine=system,
        coarse=coarse,
        points=mesh.points,
        triangles=mesh.triangles,
        name="convection-diffusion",
    )


def _convection(u: Any, v: Any, w: Any) -> Any:
    """Half of (b . grad u) v - u (b . grad v): skew at any quadrature, the same as (b . grad u) v for exact integrals."""
    x, y = np.pi * w.x
    wind = np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)
    return 0.5 * sum(wind[axis] * (u.grad[axis] * v - u * v.grad[axis]) for axis in range(2))


def _assemble(cells: int) -> tuple[Crisscross, NonaffineSystem]:
    mesh = Crisscross(cells)
    ones = np.ones(len(mesh.triangles))
    exponents = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    affine = AffineSystem(
        operators=(mesh.matrix(mesh.diffusion, ones), mesh.matrix(mesh.entries(_convection), ones)),
        operator_coefficients=Monomials(torch.ones(2, dtype=torch.float64), exponents),
        loads=mesh.load(ones)[None],
        load_coefficients=Monomials.constant(3),
        coercive=(0,),
        reference=torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
        symmetric=False,
        free=mesh.free,
    )
    centroids = torch.from_numpy(mesh.centroids)

    def coefficient_at(parameters: Tensor, index: Tensor) -> Tensor:
        distance = parameters[:, None, :2].to(torch.float64) - centroids[index.cpu()].to(parameters.device)
        return torch.exp(distance.square().sum(dim=-1) / (-2 * _RADIUS**2))

    def coefficient(parameters: Tensor) -> Tensor:
        return coefficient_at(parameters, torch.arange(len(centroids)))

    return mesh, NonaffineSystem(
        affine=affine,
        points=mesh.centroids,
        coefficient=coefficient,
        coefficient_at=coefficient_at,
        assemble_operator=lambda field: mesh.matrix(mesh.diffusion, _CONDUCTIVITY * field),
        assemble_load=lambda field: mesh.load(_HEAT * field),
    )


def _solver(mesh: Crisscross, system: NonaffineSystem) -> Solver:
    # One coefficient per triangle for the inclusion, then one per affine operator.
    affine = [operator.tocoo() for operator in system.affine.operators]
    terms = [mesh.diffusion.triangles, *(np.full(a.nnz, len(mesh.triangles) + q) for q, a in enumerate(affine))]
    family = SparseFamily.from_entries(
        np.concatenate([mesh.diffusion.rows, *(a.row for a in affine)]),
        np.concatenate([mesh.diffusion.columns, *(a.col for a in affine)]),
        np.concatenate(terms),
        np.concatenate([_CONDUCTIVITY * mesh.diffusion.weights, *(a.data for a in affine)]),
        count=len(mesh.triangles) + len(affine),
        size=mesh.unknowns,
        free=mesh.free,
    )

    def solve(parameters: Tensor) -> Tensor:
        row = parameters[None].to("cpu", torch.float64)
        field = system.coefficient(row)[0].numpy()
        load = system.affine.load_coefficients(row)[0].numpy() @ system.affine.loads + system.assemble_load(field)
        theta = system.affine.operator_coefficients(row)[0].numpy()
        return torch.from_numpy(family.factor(np.concatenate([field, theta]))(load))

    return solve
