"""The interpolated residual norm: against a naive transcription, exactness, round-off, and bad inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from nearly.core.errors import BadInput
from nearly.fields.interpolated_residual import InterpolatedResidual, direct_squared_norm, expanded_squared_norm


def problem(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients along a curve, and representatives that nearly cancel in the middle of it."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.linspace(1, 3, count, dtype=torch.float64)[:, None]
    coefficients = torch.cat([torch.ones_like(mu), -mu, mu.square(), -1 / mu], dim=1)
    representatives = torch.randn(4, 30, dtype=torch.float64, generator=generator)
    middle = torch.tensor([-2.0, 4.0, -0.5], dtype=torch.float64)
    representatives[0] = -middle @ representatives[1:] + 1e-2 * representatives[0]
    return coefficients, representatives


def naive(training: torch.Tensor, norms: torch.Tensor, fresh: torch.Tensor, rank: int) -> list[float]:
    """As printed: all products, classical empirical interpolation over parameters, weights, combination of squares."""
    size = training.shape[1]
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    table = torch.tensor([[float(c[i] * c[j]) for c in training] for i, j in pairs], dtype=torch.float64)
    rows: list[int] = []
    columns: list[int] = []
    for _ in range(rank):
        if rows:
            error = table - table[:, columns] @ torch.linalg.solve(table[rows][:, columns], table[rows])
        else:
            error = table.clone()
        column = int(error.abs().amax(dim=0).argmax())
        rows.append(int(error[:, column].abs().argmax()))
        columns.append(column)
    result = []
    for c in fresh:
        wanted = torch.stack([c[pairs[r][0]] * c[pairs[r][1]] for r in rows])
        weights = torch.linalg.solve(table[rows][:, columns], wanted)
        result.append(float(sum(w * norms[s] for w, s in zip(weights, columns, strict=True))))
    return result


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_equals_the_naive_transcription(rank: int) -> None:
    coefficients, representatives = problem(40)
    fresh = problem(17)[0]
    squares = partial(direct_squared_norm, representatives=representatives)
    estimate = InterpolatedResidual.prepare(coefficients, squares, rank=rank, stabilized=False)
    expected = torch.tensor(naive(coefficients, squares(coefficients), fresh, rank), dtype=torch.float64)
    assert torch.allclose(estimate.squared_norm(fresh), expected, rtol=1e-7, atol=1e-9)
    assert float((expected - squares(fresh)).abs().max()) > 1e-4 or rank == 6


def test_evaluates_directly_at_the_chosen_parameters_only() -> None:
    coefficients, representatives = problem(40)
    seen: list[torch.Tensor] = []

    def squares(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows)
        return direct_squared_norm(rows, representatives)

    estimate = InterpolatedResidual.prepare(coefficients, squares)
    assert len(seen) == 1
    assert torch.equal(seen[0], coefficients[estimate.chosen])
    assert torch.allclose(estimate.squared_norm(seen[0]), direct_squared_norm(seen[0], representatives), rtol=1e-9)


@pytest.mark.parametrize("stabilized", [True, False])
def test_is_exact_once_all_products_are_spanned(stabilized: bool) -> None:
    coefficients, representatives = problem(40)
    squares = partial(direct_squared_norm, representatives=representatives)
    estimate = InterpolatedResidual.prepare(coefficients, squares, stabilized=stabilized)
    # Products of 1, mu, mu^2, 1/mu are the powers -2 to 4.
    assert len(estimate.chosen) == 7
    assert estimate.error < 1e-12
    fresh = problem(333)[0]
    assert torch.allclose(estimate.squared_norm(fresh), squares(fresh), rtol=1e-8)
    assert torch.allclose(estimate.norm(fresh), squares(fresh).sqrt(), rtol=1e-8)


def test_small_coefficients_count_while_they_carry_digits() -> None:
    mu = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    coefficients = torch.cat([torch.ones_like(mu), 1e-9 * mu], dim=1)
    # Only the small coefficient is seen by the norm: its square is 1e-18, below the round-off of the largest product.
    representatives = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    squares = partial(direct_squared_norm, representatives=representatives)
    fresh = coefficients[::7]
    assert torch.allclose(
        InterpolatedResidual.prepare(coefficients, squares).norm(fresh), 1e-9 * mu[::7, 0], rtol=1e-3, atol=1e-14
    )
    plain = InterpolatedResidual.prepare(coefficients, squares, stabilized=False).norm(fresh)
    assert not torch.allclose(plain, 1e-9 * mu[::7, 0], rtol=1e-1, atol=1e-14)


def test_direct_and_expanded_norms_agree_and_know_the_product() -> None:
    coefficients, representatives = problem(9)
    root = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    product = root @ root.T
    gram = representatives @ product @ representatives.T
    loop = torch.stack([((c[:, None] * representatives).sum(dim=0) @ root).square().sum() for c in coefficients])
    assert torch.allclose(direct_squared_norm(coefficients, representatives, product), loop)
    assert torch.allclose(expanded_squared_norm(coefficients, gram), loop)
    assert torch.allclose(direct_squared_norm(coefficients, representatives @ root), loop)


def test_norm_of_a_negative_estimate_is_zero() -> None:
    coefficients, representatives = problem(40)
    estimate = InterpolatedResidual.prepare(coefficients, partial(direct_squared_norm, representatives=representatives))
    negative = replace(estimate, weights=-estimate.weights)
    assert bool((negative.squared_norm(coefficients) < 0).all())
    assert not negative.norm(coefficients).any()


def ones(rows: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(rows), dtype=rows.dtype)


@pytest.mark.parametrize(
    ("coefficients", "function", "rank", "name"),
    [
        (torch.ones(4), ones, None, "coefficients"),
        (torch.ones(0, 3, dtype=torch.float64), ones, None, "coefficients"),
        (torch.ones(4, 3), ones, None, "coefficients"),
        (torch.zeros(4, 3, dtype=torch.float64), ones, None, "coefficients"),
        (torch.full((4, 3), float("nan"), dtype=torch.float64), ones, None, "coefficients"),
        (torch.ones(4, 3, dtype=torch.float64), ones, 0, "rank"),
        (torch.ones(4, 3, dtype=torch.float64), lambda c: -ones(c), None, "squared_norm"),
        (torch.ones(4, 3, dtype=torch.float64), lambda c: ones(c) * float("nan"), None, "squared_norm"),
        (torch.ones(4, 3, dtype=torch.float64), lambda c: c, None, "squared_norm"),
    ],
)
def test_bad_inputs(coefficients: torch.Tensor, function: object, rank: int | None, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        InterpolatedResidual.prepare(coefficients, function, rank=rank)  # type: ignore[arg-type]
    assert caught.value.argument == name


def test_bad_use() -> None:
    estimate = InterpolatedResidual.prepare(torch.ones(4, 3, dtype=torch.float64), ones)
    for bad in [torch.ones(3).double(), torch.ones(2, 4).double(), torch.ones(2, 3)]:
        with pytest.raises(BadInput, match="coefficients"):
            estimate.squared_norm(bad)
