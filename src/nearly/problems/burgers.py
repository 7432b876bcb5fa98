"""Burgers' equation: waves that steepen, and viscosity that holds them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.core.validate import require_float
from nearly.problems._periodic import Equation, initial_value_problem

if TYPE_CHECKING:
    from nearly.core.nouns import Field


def burgers(points: int = 256, viscosity: float = 0.1, time: float = 1.0, times: int = 1, steps: int = 200) -> Field:
    """A random initial velocity to the velocity later.

    Equation: `u_t + u u_x = viscosity u_xx` on the unit interval, periodic; the mean of u is conserved. Initial conditions are
    centered Gaussian fields of covariance `625 (-Laplace + 25)^-2` without a mean, of size about 0.6: with the defaults, the
    standard test of Li et al. (2020), Fourier Neural Operator (arXiv:2010.08895, section 5.1).

    Discretization: Fourier series without aliasing, in conservation form, and ETDRK4 in time (`Stepper`). Beside the Cole-Hopf
    formula, the answers of the defaults were off by at most 1e-6 (median 2e-7). A front is about 4 viscosity / |u| wide: take two
    points and two steps or more for it to pass; where a step is so long that the solver blows up, the target says that it failed.

    Args:
        points: of the grid x_j = j / points; even, at least 8.
        viscosity: positive.
        time: of the answer.
        times: how many equally spaced times up to it are answered.
        steps: of time, a multiple of `times`.

    Returns:
        The target: inputs (n, points), outputs (n, points), or (n, times, points) where times > 1, in float64; all quantities are
        dimensionless; errors are in L2. Its cheaper solvers carry a half, a quarter and an eighth of the modes, and take all, half
        and a quarter of the steps.

    Raises:
        BadInput: for numbers that are out of range.

    Example:
        >>> import torch
        >>> burgers(64).solver(torch.full((64,), 2.0)).sub(2).abs().max().item() < 1e-12
        True
    """
    require_float("viscosity", viscosity, above=0.0)
    equation = Equation(
        period=1.0,
        linear=lambda k: -viscosity * k**2,
        nonlinear=lambda u, to_modes, k: -0.5j * k * to_modes(u * u),
        degree=2,
    )
    return initial_value_problem(
        equation, points=points, time=time, times=times, steps=steps, deviation=1.0, name=f"Burgers, {viscosity:g}"
    )
