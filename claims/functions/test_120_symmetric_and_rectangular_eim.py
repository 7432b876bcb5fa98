"""Row 120: symmetric and rectangular empirical interpolation (Casenave, Ern and Lelievre, arXiv 1508.05330).

Works when, for f(x, mu) = 1 / (1 + 4 (x - 3 mu)^2): the symmetric form equals classical empirical interpolation to
1e-9 for ranks 1 to 10; and, with each of 10 sensors removed in turn, the 9 x 10 rectangular form's largest error on
held-out parameters is below that of deleting that sensor's field too, all 10 times.

Domain: x and mu in [0, 1], 301 points, 201 training parameters, 1000 held-out ones drawn from a seed. Not tuned: the
rectangular form also won 10 times on [0, 3] x [0, 1], [-1, 1]^2, [-3, 3] x [-1, 1] and [-1, 1] x [-1/3, 1/3] with the
max norm in the greedy choice. With the 2-norm on domains where rank 10 is far from resolving f (errors of 0.1 to 0.5)
it won 7 to 9 times: the statement is one about resolved fields, no theorem.

Baselines: the classical algorithm with q functions and matrix B, written out here; the square form without the sensor
and without the field chosen with it.
Rejected broken variants, run below: the symmetric form with the core transposed, and a broken sensor that reads zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nearly.linalg.factorize import empirical_interpolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

POINTS = torch.linspace(0, 1, 301, dtype=torch.float64)
TRAINING = torch.linspace(0, 1, 201, dtype=torch.float64)
HELD_OUT = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(120))


def f(x: Tensor, mu: Tensor) -> Tensor:
    return 1 / (1 + 4 * (x[:, None] - 3 * mu) ** 2)


def classical(values: Tensor, fresh: Tensor, rank: int) -> Tensor:
    """Greedy choice, q functions and B as printed; returns the interpolated fresh fields."""
    basis = torch.zeros(len(values), 0, dtype=values.dtype)
    rows: list[int] = []
    for _ in range(rank):
        error = values - basis @ torch.linalg.solve(basis[rows], values[rows])
        column = int(error.abs().amax(dim=0).argmax())
        row = int(error[:, column].abs().argmax())
        basis = torch.cat([basis, (error[:, column] / error[row, column])[:, None]], dim=1)
        rows.append(row)
    return basis @ torch.linalg.solve(basis[rows], fresh[rows])


def largest_difference(symmetric: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
    """Between the symmetric form `f(x, Y) F^-1 f(X, y)` and the classical one, over ranks 1 to 10."""
    values, fresh = f(POINTS, TRAINING), f(POINTS, HELD_OUT)
    worst = 0.0
    for rank in range(1, 11):
        eim = empirical_interpolation(values, rank=rank)
        ours = symmetric(values[:, eim.columns], eim.core, fresh[eim.rows])
        cross = eim.cross(values[:, eim.columns], fresh[eim.rows])
        theirs = classical(values, fresh, rank)
        worst = max(worst, float((ours - theirs).abs().max()), float((cross - theirs).abs().max()))
    return worst


def test_symmetric_form_is_the_classical_one(record: Any) -> None:
    worst = largest_difference(lambda left, core, right: left @ torch.linalg.solve(core, right))
    broken = largest_difference(lambda left, core, right: left @ torch.linalg.solve(core.T, right))
    record(
        claim="120: symmetric form equals classical EIM, ranks 1-10 (largest difference; core transposed as baseline)",
        measured=worst,
        baseline=broken,
    )
    assert worst <= 1e-9
    assert broken > 1e-3


def test_a_broken_sensor_leaves_its_field_useful(record: Any) -> None:
    values, fresh = f(POINTS, TRAINING), f(POINTS, HELD_OUT)
    whole = empirical_interpolation(values, rank=10)
    rectangular, deleted, silent = [], [], []
    for row, column in zip(whole.rows.tolist(), whole.columns.tolist(), strict=True):
        kept = whole.discard(rows=[row])
        rectangular.append(float((kept.interpolate(fresh[kept.rows]) - fresh).abs().max()))
        square = kept.discard(columns=[column])
        deleted.append(float((square.interpolate(fresh[square.rows]) - fresh).abs().max()))
        reading = torch.where(whole.rows[:, None] == row, 0.0, fresh[whole.rows])
        silent.append(float((whole.interpolate(reading) - fresh).abs().max()))
    wins = sum(a < b for a, b in zip(rectangular, deleted, strict=True))
    record(
        claim=f"120: 9 x 10 form, one sensor lost: largest held-out error of the 10 cases, {wins}/10 below deletion",
        measured=max(rectangular),
        baseline=max(deleted),
    )
    assert wins == 10
    assert sum(a < b for a, b in zip(silent, deleted, strict=True)) < 10
