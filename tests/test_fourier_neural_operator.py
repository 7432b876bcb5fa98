"""The Fourier neural operator: its layer against a naive transcription, other resolutions, layouts of data, symmetries, NaN."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

import nearly
from nearly.core.errors import BadInput
from nearly.core.nouns import Field
from nearly.fields import FourierNeuralOperator, _fourier_network, fourier_neural_operator
from nearly.fields._fourier_network import FourierLayer, FourierNetwork
from nearly.fields._symmetries import Symmetry, apply_random, apply_symmetry, find_symmetries
from nearly.problems import thermal_block

Map = Callable[[torch.Tensor], torch.Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def smooth(n: int, grid: tuple[int, ...], highest: int, seed: int = 0) -> torch.Tensor:
    """Random real trigonometric polynomials: the same functions on every grid that resolves them."""
    axes = torch.meshgrid(*(torch.arange(g, dtype=torch.float64) / g for g in grid), indexing="ij")
    fields = torch.zeros(n, *grid, dtype=torch.float64)
    weights = iter(normal((2 * highest + 1) ** len(grid), n, 2, seed=seed))
    for frequency in product(range(-highest, highest + 1), repeat=len(grid)):
        phase = 2 * math.pi * sum(k * x for k, x in zip(frequency, axes, strict=True))
        a, b = next(weights).T[:, :, *(None,) * len(grid)]
        fields += (a * torch.cos(phase) + b * torch.sin(phase)) / (1 + sum(k * k for k in frequency))
    return fields


def naive_layer(layer: FourierLayer, values: torch.Tensor) -> torch.Tensor:
    """As printed, by sums over grid points and kept frequencies; the kernel is that of a real function, R(-k) = conj R(k).

    Weights are numbered over k >= 0 along the last axis and over 0, 1, .., m, -m, .., -1 along the others. Where the last is zero,
    k and -k both have weights; the real part of the sum then holds the mean of R(k) and conj R(-k).
    """
    grid, modes = values.shape[1:-1], layer.modes
    signed = [*range(modes + 1), *range(-modes, 0)]
    numbered = product(*[signed] * (len(grid) - 1), range(modes + 1))
    weights = {k: torch.view_as_complex(layer.spectral[i]) for i, k in enumerate(numbered)}
    points = list(product(*(range(g) for g in grid)))
    smoothed = torch.zeros_like(values)
    for k in product(*([range(-modes, modes + 1)] * len(grid))):
        if any(2 * abs(kj) >= g for kj, g in zip(k, grid, strict=True)):
            continue
        minus = tuple(-kj for kj in k)
        both = [weights[k]] if k in weights else []
        both += [weights[minus].conj()] if minus in weights else []
        kernel = sum(both) / len(both)

        def wave(point: tuple[int, ...], sign: int, k: tuple[int, ...] = k) -> complex:
            turns = sum(kj * p / g for kj, p, g in zip(k, point, grid, strict=True))
            return cmath.exp(sign * 2j * math.pi * turns)

        coefficient = sum(wave(p, -1) * values[:, *p] for p in points) / len(points)
        for p in points:
            smoothed[:, *p] += (wave(p, 1) * (coefficient @ kernel)).real
    gelu = torch.nn.functional.gelu
    hidden = gelu(values @ layer.pointwise.weight.T + layer.pointwise.bias + smoothed)
    inner = gelu(hidden @ layer.first.weight.T + layer.first.bias)
    return values + inner @ layer.second.weight.T + layer.second.bias


@pytest.mark.parametrize("grid", [(9,), (8,), (3,), (7, 6), (6, 9), (5, 4, 6)])
def test_layer_equals_the_naive_transcription(grid: tuple[int, ...]) -> None:
    layer = FourierLayer(3, len(grid), 2, seeded()).double().requires_grad_(False)
    values = normal(2, *grid, 3, seed=1)
    torch.testing.assert_close(layer(values), naive_layer(layer, values), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("coarse", "fine"), [((32,), (64,)), ((16,), (48,)), ((32, 32), (64, 64)), ((9, 12), (18, 36))]
)
def test_linear_part_is_the_same_operator_on_all_grids(
    coarse: tuple[int, ...], fine: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fourier_network, "gelu", lambda values: values)
    layer = FourierLayer(2, len(coarse), 4, seeded()).double().requires_grad_(False)
    every = tuple(slice(None, None, f // c) for c, f in zip(coarse, fine, strict=True))
    values = [torch.stack([smooth(2, grid, 3, seed) for seed in (1, 2)], dim=-1) for grid in (coarse, fine)]
    torch.testing.assert_close(layer(values[1])[:, *every], layer(values[0]), rtol=1e-11, atol=1e-11)


def test_network_is_nearly_the_same_on_finer_grids() -> None:
    network = FourierNetwork((1, 1), 1, 16, 8, 4, seeded()).double().requires_grad_(False)
    answers = [network(smooth(8, (grid,), 4)[:, None])[:, 0, :: grid // 32] for grid in (32, 64, 128, 256)]
    steps = [float((a - b).norm() / b.norm()) for a, b in pairwise(answers)]
    # What is left: gelu and the coordinates, whose jump at the period's end is a sawtooth's, have frequencies beyond every grid.
    assert steps[0] < 0.01
    assert steps[2] < steps[1] < steps[0]


def quick(inputs: torch.Tensor, outputs: torch.Tensor, **parameters: int) -> nearly.Surrogate:
    target = Field.from_data(inputs, outputs, quantile=0.8, confidence=0.8)
    return FourierNeuralOperator(**{"samples": 10, "epochs": 1, "width": 4, "modes": 2, "layers": 1} | parameters).fit(
        target
    )


@pytest.mark.parametrize(
    ("taken", "given", "channels", "grid"),
    [
        ((16,), (16,), [1, 1], [16]),
        ((2, 12, 16), (12, 16), [2, 1], [12, 16]),
        ((16,), (17, 16), [1, 17], [16]),
        ((2, 3, 16), (5, 16), [6, 5], [16]),
        ((5,), (16,), [5, 1], [16]),
        ((5,), (8, 9), [5, 1], [8, 9]),
        ((4, 6, 5), (4, 6, 5), [1, 1], [4, 6, 5]),
    ],
)
def test_layouts(taken: tuple[int, ...], given: tuple[int, ...], channels: list[int], grid: list[int]) -> None:
    model = quick(normal(30, *taken), normal(30, *given, seed=1)).model
    assert (model.channels, model.grid) == (channels, grid)
    fresh = normal(3, *taken, seed=2)
    assert model(fresh).shape == (3, *given)
    assert model(fresh[:0]).shape == (0, *given)


def test_every_channel_is_scaled_on_its_own() -> None:
    x = normal(40, 2, 8) * torch.tensor([1e-3, 1e3])[:, None] + torch.tensor([5.0, -1e4])[:, None]
    model = quick(x, x[:, 0].cumsum(dim=-1)).model
    encoded = model.encode(model.cast(x))
    torch.testing.assert_close(encoded.mean(dim=(0, 2)), torch.zeros(2).double(), rtol=0, atol=0.5)
    torch.testing.assert_close(encoded.std(dim=(0, 2)), torch.ones(2).double(), rtol=0.3, atol=0)


def test_fields_of_another_resolution_are_answered_there() -> None:
    coarse, fine = smooth(40, (16,), 3), smooth(40, (32,), 3)
    model = quick(coarse, coarse.roll(3, dims=1), samples=30, epochs=40, width=8, modes=4).model
    answer = model(fine)
    assert answer.shape == fine.shape
    error = float((answer[:, ::2] - model(coarse)).norm() / model(coarse).norm())
    assert error < 0.05  # 0.013 was measured


def test_learns_a_field_from_two_channels() -> None:
    x = torch.stack([smooth(120, (16,), 3, seed) for seed in (0, 1)], dim=1)
    y = x[:, 0].roll(4, dims=1) * x[:, 1]
    surrogate = quick(x, y, samples=100, epochs=100, width=16, modes=6, layers=3)
    fresh = torch.stack([smooth(50, (16,), 3, seed) for seed in (7, 8)], dim=1)
    truth = fresh[:, 0].roll(4, dims=1) * fresh[:, 1]
    error = (surrogate.model(fresh) - truth).norm() / truth.norm()
    assert float(error) < 0.35  # 1 is the mean's


def bump(grid: tuple[int, ...], axis: int, center: float) -> torch.Tensor:
    """A weight along one axis, even about index `center` of its period."""
    line = 1.5 + torch.cos(2 * math.pi * (torch.arange(grid[axis], dtype=torch.float64) - center) / grid[axis])
    return line.reshape([-1 if i == axis else 1 for i in range(len(grid))])


def sheared(fields: torch.Tensor, axis: int) -> torch.Tensor:
    """A map with a direction."""
    return 0.5 * fields + fields.roll(2, dims=axis + 1)


def slope(fields: torch.Tensor) -> torch.Tensor:
    return fields.roll(-1, dims=1) - fields.roll(1, dims=1)


LINE, SQUARE, BOX = (20,), (12, 12), (12, 10)
NODES = {axis: bump(SQUARE, axis, 0) for axis in (0, 1)}
CELLS = {axis: bump(SQUARE, axis, -0.5) for axis in (0, 1)}


@pytest.mark.parametrize(
    ("answer", "grid", "expected"),
    [
        (lambda a: a.square() * bump(LINE, 0, 0), LINE, {("reflect", 0, 1)}),
        (lambda a: a.square() * bump(LINE, 0, -0.5), LINE, {("mirror", 0, 1)}),
        (lambda a: slope(a.square()) * bump(LINE, 0, 0), LINE, {("reflect", 0, -1)}),
        (lambda a: a.square() * bump(LINE, 0, 5), LINE, set()),
        (lambda a: sheared(a.square(), 0), LINE, set()),
        (lambda a: a * NODES[0] * NODES[1], SQUARE, {("reflect", 0, 1), ("reflect", 1, 1), ("swap", 0, 1)}),
        (lambda a: a * CELLS[0] * CELLS[1], SQUARE, {("mirror", 0, 1), ("mirror", 1, 1), ("swap", 0, 1)}),
        (lambda a: a * CELLS[0] * NODES[1], SQUARE, {("mirror", 0, 1), ("reflect", 1, 1)}),
        (lambda a: a * bump(BOX, 0, 0) * bump(BOX, 1, 0), BOX, {("reflect", 0, 1), ("reflect", 1, 1)}),
        (lambda a: sheared(a, 0) * NODES[1], SQUARE, {("reflect", 1, 1)}),
        (lambda a: sheared(sheared(a, 0), 1), SQUARE, {("swap", 0, 1)}),
    ],
)
def test_symmetries_are_those_of_the_map(answer: Map, grid: tuple[int, ...], expected: set[Symmetry]) -> None:
    fields = smooth(300, grid, 1)
    found = find_symmetries(fields[:, None], answer(fields)[:, None])
    # Of a linear map both signs are symmetries; which is found is chance.
    kinds = {(kind, axis, abs(other)) if kind != "swap" else (kind, axis, other) for kind, axis, other in found}
    odd = torch.equal(answer(-fields), -answer(fields))
    assert (kinds if odd else set(found)) == expected


def test_symmetries_of_the_inputs_distribution_count_too() -> None:
    fields = smooth(300, LINE, 1) + torch.sin(2 * math.pi * torch.arange(20) / 20)
    assert find_symmetries(fields[:, None], (fields.square() * bump(LINE, 0, 0))[:, None]) == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_fields_of_zero_are_no_evidence_of_symmetries(share: float) -> None:
    fields = smooth(300, LINE, 1) * (torch.rand(300, 1, generator=seeded(3)) < share)
    assert find_symmetries(fields[:, None], sheared(fields, 0)[:, None]) == []


def test_symmetries_act_on_inputs_and_outputs_alike_and_undo_themselves() -> None:
    symmetries: list[Symmetry] = [("reflect", 0, 1), ("mirror", 1, -1), ("swap", 0, 1)]
    fields = normal(3, 2, 6, 6)
    for symmetry in symmetries:
        assert not torch.equal(apply_symmetry(symmetry, fields), fields)
        assert torch.equal(apply_symmetry(symmetry, apply_symmetry(symmetry, fields)), fields)
    assert torch.equal(apply_symmetry(symmetries[0], fields)[:, :, 2], fields[:, :, 4])
    assert torch.equal(apply_symmetry(symmetries[1], fields)[..., 2], -fields[..., 3])
    generator = seeded()
    drawn = [apply_random(symmetries, (fields, 2 * fields), generator) for _ in range(64)]
    assert all(torch.equal(2 * a, u) for a, u in drawn)
    assert len({tuple(a.flatten().tolist()) for a, _ in drawn}) == 8


def test_training_sees_the_symmetries(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = smooth(60, SQUARE, 1)
    target = Field.from_data(fields, fields * NODES[0] * NODES[1], quantile=0.8, confidence=0.8)
    seen: list[list[Symmetry]] = []

    def noted(
        symmetries: list[Symmetry], pairs: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
    ) -> object:
        seen.append(symmetries)
        return apply_random(symmetries, pairs, generator)

    monkeypatch.setattr(fourier_neural_operator, "apply_random", noted)
    FourierNeuralOperator(samples=40, epochs=1, width=2, modes=1, layers=1).fit(target)
    assert len(seen) == 2
    assert {kind for kind, *_ in seen[0]} == {"reflect", "swap"}


def test_scattered_unknowns_are_refused() -> None:
    with pytest.raises(BadInput, match="no regular grid"):
        FourierNeuralOperator(samples=8).fit(thermal_block((2, 2), cells=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_artifact_of_a_grid_answers_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    x = normal(30, 2, 8, 6, dtype=dtype)
    surrogate = quick(x, x.cumsum(dim=2), epochs=2)
    surrogate.save(tmp_path / "operator.safetensors")
    loaded = nearly.load(tmp_path / "operator.safetensors")
    answers = surrogate(x[:4]), loaded(x[:4])
    assert torch.equal(*answers)
    assert answers[0].dtype == dtype
    assert {p.dtype for p in loaded.model.network.parameters()} == {dtype}
    assert not any(p.requires_grad for p in loaded.model.parameters())
    fine = normal(2, 2, 16, 12, dtype=dtype)
    assert torch.equal(surrogate.model(fine), loaded.model(fine))


def one_of_many_zero(x: torch.Tensor) -> torch.Tensor:
    return x * (torch.arange(len(x)) % 5 > 0)[:, None]


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (lambda x: x, one_of_many_zero),
        (one_of_many_zero, lambda x: x),
        (lambda x: x, lambda x: x * (torch.arange(len(x)) % 30 == 3)[:, None]),
        (lambda x: x, lambda x: torch.cat([torch.ones_like(x[:-1]), x[-1:]])),
        (lambda x: torch.ones_like(x), lambda x: x),
        (lambda x: x, lambda x: 1e-30 * x),
        (lambda x: x, lambda x: 1e30 * x),
        (lambda x: x, lambda x: 1 + 1e-7 * x),
    ],
    ids=[
        "zero outputs",
        "zero inputs",
        "few outputs but zero",
        "all but one the same",
        "constant inputs",
        "tiny",
        "huge",
        "flat",
    ],
)
def test_training_stays_finite(inputs: Map, outputs: Map) -> None:
    x = normal(60, 16)
    model = quick(inputs(x), outputs(x), samples=50, epochs=5).model
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert bool(model(inputs(x)).isfinite().all())


@pytest.mark.parametrize("factor", [0.0, 1e-6])
def test_fields_near_zero_do_not_rule_the_training(factor: float) -> None:
    x, fresh = smooth(200, (16,), 2), smooth(50, (16,), 2, seed=5)

    def error(rows: torch.Tensor) -> float:
        model = quick(rows, rows.roll(3, dims=1), samples=160, epochs=30, width=8).model
        return float((model(fresh) - fresh.roll(3, dims=1)).norm() / fresh.norm())

    small = torch.where(torch.arange(200) % 20 > 0, 1.0, factor)[:, None]
    assert error(x * small) < 2 * error(x)


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units_do_not_matter(unit: float) -> None:
    x = normal(60, 16)
    mine = quick(x, x.cumsum(dim=1), samples=50, epochs=5).model(x)
    scaled = quick(unit * x, unit * x.cumsum(dim=1), samples=50, epochs=5).model(unit * x)
    torch.testing.assert_close(scaled / unit, mine, rtol=1e-3, atol=1e-3)


def test_same_seed_same_bits_and_other_seed_other_weights() -> None:
    x = normal(30, 8)
    target = Field.from_data(x, x.cumsum(dim=1), quantile=0.8, confidence=0.8)
    method = FourierNeuralOperator(samples=16, epochs=1, width=2, layers=1)
    first, second, third = (method.fit(target, seed=seed).model(x) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
