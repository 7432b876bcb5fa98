"""Row 345: Chebyshev-Tucker format (Benner, Khoromskij, Khoromskaia, Sun, arXiv 2503.01696).

Works when, for the long-range part of the range-separated Newton potential of 100 random particles, tolerance 1e-6: Tucker
ranks within 2 of Tucker-ALS on a 256^3 grid, error <= 1e-5 at 10^4 random points, no array beyond degree^3 stored.

The potential: 1/r = (2 / sqrt(pi)) int exp(-r^2 e^(2u)) e^u du, by the trapezoidal (sinc) rule of step 0.35 in u; terms whose
Gaussian is wider than 1 / 5, half the mean distance of neighbors, are its long-range part (Benner, Khoromskaia, Khoromskij,
arXiv 1606.09218, section 3). Particles of charge 1 lie uniformly in [-1, 1]^3. The error is relative to the potential's largest
value. "Degree^3" is the number of values on the Chebyshev grid, (degree + 1)^3; every tensor that torch makes while fitting is
looked at, those inside the potential itself apart.

Baseline: Tucker-ALS of the values on the 256^3 grid at the same tolerance. It is computed exactly, without that grid: the values
have canonical factors (256 points x particles and Gaussians), whose orthonormal bases turn the large tensor into a small one
with the same singular values. The grid costs 16.8 million evaluations.
Rejected broken variants, run below: the interpolant mirrored in one variable (nodes in the wrong order), and ranks three less
than the grid's, which miss the tolerance.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nearly.core.domain import Box
from nearly.core.nouns import Function
from nearly.functions import ChebyshevTucker
from nearly.linalg.tucker import project, tucker

DEGREE, TOLERANCE, GRID = 50, 1e-6, 256
STEP, WIDEST, NARROWEST = 0.35, 1 / 40, 5.0  # of exp(-(t r)^2), in t
PARTICLES = 2 * torch.rand(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(345)) - 1
SCALES = torch.exp(torch.arange(math.log(WIDEST), math.log(NARROWEST), STEP, dtype=torch.float64))
WEIGHTS = 2 / math.pi**0.5 * STEP * SCALES


class LargestArray(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.watching = 0, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor) and self.watching:
                self.largest = max(self.largest, made.numel())
        return result


def potential(x: torch.Tensor) -> torch.Tensor:
    squares = torch.cdist(x, PARTICLES, compute_mode="donot_use_mm_for_euclid_dist").square()
    total = torch.zeros(len(x), dtype=x.dtype)
    for scale, weight in zip(SCALES.tolist(), WEIGHTS.tolist(), strict=True):
        total += weight * torch.exp(-(scale**2) * squares).sum(dim=1)
    return total


def tucker_of_the_grid() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The 256^3 values in orthonormal bases of their own, and the factors of their Tucker decomposition in these."""
    line = (torch.arange(GRID, dtype=torch.float64) + 0.5) * (2 / GRID) - 1
    small = []
    for j in range(3):
        columns = torch.exp(-((SCALES * (line[:, None, None] - PARTICLES[:, j, None])) ** 2)).flatten(1)
        _, singular, right = torch.linalg.svd(columns, full_matrices=False)
        kept = int((singular > 1e-13 * singular[0]).sum())
        small.append(singular[:kept, None] * right[:kept])
    every = WEIGHTS.repeat(len(PARTICLES))
    tensor = torch.einsum("ap,bp,cp->abc", small[0] * every, small[1], small[2])
    return tensor, tucker(tensor, TOLERANCE, directions=3)[1]


def test_ranks_are_those_of_a_fine_grid_at_the_cost_of_a_coarse_one(record: Any) -> None:
    watch = LargestArray()

    def unwatched(x: torch.Tensor) -> torch.Tensor:
        watch.watching = False
        values = potential(x)
        watch.watching = True
        return values

    target = Function(unwatched, Box([-1.0] * 3, [1.0] * 3), name="long-range potential")
    with watch:
        surrogate = ChebyshevTucker(degree=DEGREE, tolerance=TOLERANCE).fit(target)
    fresh = target.sample(10_000, 1)
    truth = potential(fresh)
    error = float((surrogate(fresh)[:, 0] - truth).abs().max() / truth.max())
    ranks = list(surrogate.model.core.shape[:3])
    tensor, factors = tucker_of_the_grid()
    grid = [factor.shape[1] for factor in factors]
    apart = max(abs(a - b) for a, b in zip(ranks, grid, strict=True))
    record(
        claim="345: Tucker ranks, tolerance 1e-6 (256^3 grid's as baseline)",
        measured=str(ranks),
        baseline=str(grid),
    )
    record(
        claim="345: largest error at 10^4 random points, of the largest value (evaluations in brackets)",
        measured=f"{error:.2g} ({(DEGREE + 1) ** 3})",
        baseline=f"{TOLERANCE:.0g} in the Frobenius norm ({GRID**3})",
    )
    record(
        claim="345: largest array while fitting, in numbers ((degree + 1)^3 as baseline)",
        measured=watch.largest,
        baseline=(DEGREE + 1) ** 3,
    )
    assert apart <= 2
    assert error <= 1e-5
    assert watch.largest <= (DEGREE + 1) ** 3

    mirrored = surrogate(fresh * torch.tensor([-1.0, 1.0, 1.0]))[:, 0]
    assert float((mirrored - truth).abs().max() / truth.max()) > 1e-3
    fewer = [factor[:, : factor.shape[1] - 3] for factor in factors]
    lost = tensor.square().sum() - project(tensor, fewer).square().sum()
    assert float((lost / tensor.square().sum()).sqrt()) > 2 * TOLERANCE
