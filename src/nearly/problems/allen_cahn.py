"""The Allen-Cahn equation: a mixture that separates into two phases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearly.core.validate import require_float
from nearly.problems._periodic import Equation, initial_value_problem

if TYPE_CHECKING:
    from nearly.core.nouns import Field


def allen_cahn(
    points: int = 512,
    diffusion: float = 1e-4,
    reaction: float = 5.0,
    time: float = 1.0,
    times: int = 1,
    steps: int = 200,
) -> Field:
    """A random initial mixture to the separated phases.

    Equation: `u_t = diffusion u_xx + reaction (u - u^3)` on [-1, 1], periodic; u tends to 1 and -1 with walls between of the form
    `tanh(x sqrt(reaction / (2 diffusion)))`. The defaults are those of Raissi, Perdikaris and Karniadakis (2019),
    Physics-informed neural networks (doi:10.1016/j.jcp.2018.10.045, section 3.1.1, equation 12), on as many points as they
    publish. Initial conditions are the Gaussian fields of `burgers`, stretched to this period.

    Discretization: Fourier series without aliasing and ETDRK4 in time (`Stepper`). With the defaults the answers were off by
    at most 6e-5 beside those on 2,048 points, in relative L2, which the points limit and not the steps.

    Args:
        points: of the grid x_j = -1 + 2 j / points; even, at least 8.
        diffusion: positive.
        reaction: positive.
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
        >>> allen_cahn(64).solver(torch.full((64,), 1.0)).sub(1).abs().max().item() < 1e-12
        True
    """
    require_float("diffusion", diffusion, above=0.0)
    require_float("reaction", reaction, above=0.0)
    equation = Equation(
        period=2.0,
        linear=lambda k: reaction - diffusion * k**2,
        nonlinear=lambda u, to_modes, k: -reaction * to_modes(u**3),
        degree=3,
    )
    return initial_value_problem(
        equation, points=points, time=time, times=times, steps=steps, deviation=1.0, name=f"Allen-Cahn, {diffusion:g}"
    )
