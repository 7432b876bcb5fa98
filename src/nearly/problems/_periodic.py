"""Equations `u_t = L u + N(u)` on a period of the line: Fourier series in space, exponential Runge-Kutta steps in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.errors import BadInput
from nearly.core.nouns import Fidelity, Field
from nearly.core.validate import describe, generator_from, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    Real = Float[Tensor, "... points"]
    Modes = Complex[Tensor, "... modes"]

# Quadrature nodes of a circle around each eigenvalue, on which the differences of exponentials do not cancel (Kassam and
# Trefethen 2005, section 3, take 32 to 64 and radius 1); of a real eigenvalue the upper half will do.
_NODES = 32
COARSE = (2, 4, 8)
_POINTS_LEAST = 8


@dataclass(frozen=True)
class Equation:
    """`u_t = L u + N(u)`, u periodic.

    Attributes:
        period: its length.
        linear: eigenvalues of L by wave number, real: modes (k,) to (k,).
        nonlinear: N from values on a grid, by wave number: `(values, to_modes, wave numbers) -> modes`.
        degree: of the polynomial N.
    """

    period: float
    linear: Callable[[Float[Tensor, " modes"]], Float[Tensor, " modes"]]
    nonlinear: Callable[[Real, Callable[[Real], Modes], Float[Tensor, " modes"]], Modes]
    degree: int


class Stepper:
    """ETDRK4, fourth order: L is integrated exactly, N by a Runge-Kutta rule (Cox and Matthews 2002, doi:10.1006/jcph.2002.6995).

    The modes |k| < points / 2 are carried; N is evaluated on (degree + 1) / 2 times as many points, so that its products fold
    onto no mode that is carried (Orszag 1971). Coefficients are contour integrals (Kassam and Trefethen 2005, Fourth-order
    time-stepping for stiff PDEs, doi:10.1137/S1064827502410633, equations 2.5 and 3.1).

    Args:
        equation: to integrate.
        points: of the grid whose modes are carried, even.
        step: of time.
    """

    def __init__(self, equation: Equation, points: int, step: float) -> None:
        self.equation, self.modes = equation, points // 2
        self.grid = (equation.degree + 1) * self.modes
        self.waves = 2 * math.pi / equation.period * torch.arange(self.modes, dtype=torch.float64)
        z = step * equation.linear(self.waves)
        angles = math.pi * (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
        r = z[:, None] + torch.polar(torch.ones_like(angles), angles)

        def mean(values: Tensor) -> Tensor:
            return step * values.real.mean(dim=1)

        self.whole, self.half = z.exp(), (z / 2).exp()
        self.inner = mean(((r / 2).exp() - 1) / r)
        self.weights = (
            mean((-4 - r + r.exp() * (4 - 3 * r + r**2)) / r**3),
            mean((2 + r + r.exp() * (r - 2)) / r**3),
            mean((-4 - 3 * r - r**2 + r.exp() * (4 - r)) / r**3),
        )

    def to_modes(self, values: Real) -> Modes:
        """The modes carried, of values on any grid that has them; scaled so as to be the same on all grids."""
        return torch.fft.rfft(values, norm="forward")[..., : self.modes]

    def to_values(self, modes: Modes, points: int) -> Real:
        """The sum of the modes on a grid."""
        return torch.fft.irfft(modes, n=points, norm="forward")

    def change(self, modes: Modes) -> Modes:
        """N by wave number."""
        return self.equation.nonlinear(self.to_values(modes, self.grid), self.to_modes, self.waves)

    def advance(self, modes: Modes, steps: int) -> Modes:
        """The modes a number of steps later."""
        first, middle, last = self.weights
        for _ in range(steps):
            n_start = self.change(modes)
            a = self.half * modes + self.inner * n_start
            n_a = self.change(a)
            n_b = self.change(self.half * modes + self.inner * n_a)
            n_c = self.change(self.half * a + self.inner * (2 * n_b - n_start))
            modes = self.whole * modes + first * n_start + 2 * middle * (n_a + n_b) + last * n_c
        return modes


def flow(equation: Equation, points: int, kept: int, time: float, times: int, steps: int) -> Callable[[Real], Tensor]:
    """The map from an initial condition to later solutions.

    Args:
        equation: to integrate.
        points: of the grid of the initial condition and of the answer.
        kept: of the grid whose modes are carried; fewer than `points` for a coarse solve.
        time: the last time.
        times: how many equally spaced times up to it are answered.
        steps: in all, a multiple of `times`.

    Returns:
        From (..., points) to (..., points), or (..., times, points) where there are several; computed on the CPU in float64.
    """
    stepper = Stepper(equation, kept, time / steps)

    def solve(initial: Real) -> Tensor:
        if initial.shape[-1:] != (points,):
            raise BadInput("initial condition", f"of shape (..., {points})", describe(initial))
        modes, answers = stepper.to_modes(initial.to("cpu", torch.float64)), []
        for _ in range(times):
            modes = stepper.advance(modes, steps // times)
            answers.append(stepper.to_values(modes, points))
        return answers[0] if times == 1 else torch.stack(answers, dim=-2)

    return solve


def initial_value_problem(
    equation: Equation, *, points: int, time: float, times: int, steps: int, deviation: float, name: str
) -> Field:
    """A field target: a random initial condition to the solution at later times, with coarser fidelities.

    Args:
        equation: to integrate.
        points: of the grid, a multiple of 2.
        time: the last time.
        times: how many are answered.
        steps: of time in all.
        deviation: factor on the initial conditions of `gaussian_field`.
        name: for reports.

    Returns:
        The target.

    Raises:
        BadInput: for numbers that are out of range.
    """
    require_int("points", points, least=_POINTS_LEAST)
    require_float("time", time, above=0.0)
    require_int("times", times, least=1)
    require_int("steps", steps, least=1)
    if points % 2:
        raise BadInput("points", "even", points)
    if steps % times:
        raise BadInput("steps", f"a multiple of times ({times})", steps)
    coarse = []
    for factor in COARSE:
        kept, fewer = points // factor, max(1, 2 * steps // (factor * times)) * times
        if kept % 2 == 0 and kept >= _POINTS_LEAST:
            coarse.append(Fidelity(flow(equation, points, kept, time, times, fewer), kept, vectorized=True))

    def sample(n: int, generator: int | torch.Generator) -> Tensor:
        return deviation * gaussian_field(n, points, generator_from(generator))

    return Field(
        flow(equation, points, points, time, times, steps),
        sample,
        product=torch.full((times * points,), 1.0 / (times * points), dtype=torch.float64),
        coarse=coarse,
        vectorized=True,
        name=name,
    )


def gaussian_field(n: int, points: int, generator: torch.Generator) -> Float[Tensor, "n points"]:
    """Centered Gaussian fields on a period of length 1, of covariance `625 (-Laplace + 25)^-2` and without a mean.

    The series of sines and cosines, each of variance `2 (25 / ((2 pi k)^2 + 25))^2`, 0 < k < points / 2. It is that of the Burgers
    problem of Li et al. (2020), Fourier Neural Operator (arXiv:2010.08895, section 5.1); their generator leaves the mean out too.
    """
    k = torch.arange(points // 2, dtype=torch.float64)
    scale = 25.0 / ((2 * math.pi * k) ** 2 + 25.0)
    scale[0] = 0.0
    noise = torch.randn(n, len(k), 2, dtype=torch.float64, generator=generator)
    # A mode c stands for 2 Re(c e^{ikx}); of sqrt(2) s (a cos kx + b sin kx) it is s (a - ib) / sqrt(2).
    modes = torch.view_as_complex(noise) * scale / math.sqrt(2)
    return torch.fft.irfft(modes, n=points, norm="forward")
