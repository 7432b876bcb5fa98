"""Coarse fidelities: asked at once where they can be, and their failures named."""

from __future__ import annotations

import pytest
import torch

import nearly
from nearly.core.errors import SolverFailed
from nearly.core.nouns.field import Fidelity
from nearly.fields import CoarseSolve, CorrectedCoarseSolve

POINTS = torch.linspace(0, 1, 20, dtype=torch.float64)


def waves(coarse: Fidelity) -> nearly.Field:
    return nearly.Field(
        lambda x: torch.sin(x[:, :1] * POINTS), nearly.Box([1.0], [3.0]), coarse=[coarse], vectorized=True
    )


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_fidelity_is_asked_for_all_inputs_or_row_by_row(vectorized: bool) -> None:
    shapes = []

    def solver(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return torch.sin(x * POINTS) * 0.9

    target = waves(Fidelity(solver, 5, vectorized=vectorized))
    x = target.sample(6, 0)
    answers = CoarseSolve().fit(target)(x)
    assert torch.allclose(answers, 0.9 * torch.sin(x * POINTS))
    assert shapes == ([(6, 1)] if vectorized else [(1,)] * 6)


def test_coarse_answers_that_are_not_finite_are_left_out_of_the_correction() -> None:
    def solver(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x < 1.2, torch.nan, 0.9 * torch.sin(x * POINTS))

    target = waves(Fidelity(solver, 5, vectorized=True))
    surrogate = CorrectedCoarseSolve(samples=64).fit(target)
    x = torch.linspace(1.3, 2.9, 9, dtype=torch.float64)[:, None]
    assert bool((target.error(target(x), surrogate(x)) < 1e-2).all())


def test_a_coarse_solver_that_never_answers_is_named() -> None:
    target = waves(Fidelity(lambda x: torch.full((len(x), 20), torch.nan, dtype=x.dtype), 5, vectorized=True))
    with pytest.raises(SolverFailed, match="coarse solver of level 1 returned NaN or infinite entries at 32 of 32"):
        CorrectedCoarseSolve(samples=32).fit(target)
