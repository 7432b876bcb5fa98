"""Orthogonal factors for optimizers: schedules against their definitions, and inputs that optimizers meet."""

import pytest
import torch
from torch.optim._muon import _zeropower_via_newtonschulz

from nearly.core.errors import BadInput
from nearly.linalg.orthogonalize import orthogonality, orthogonalize
from nearly.linalg.orthogonalize._polynomials import multiplies_halves

MUON = (3.4445, -4.7750, 2.0315)
SCHEDULES = ("minimax", "muon", "newton_schulz", "svd")


def gaussian(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polar(a):
    u, _, vh = torch.linalg.svd(a.double(), full_matrices=False)
    return u @ vh


def published(a, steps=5):
    """The five steps from the left, as published, in the dtype of the matrix."""
    x = a.mT if a.shape[-2] > a.shape[-1] else a
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    for _ in range(steps):
        gram = x @ x.mT
        x = MUON[0] * x + (MUON[1] * gram + MUON[2] * gram @ gram) @ x
    return x.mT if a.shape[-2] > a.shape[-1] else x


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96), (256, 128), (300, 1)])
def test_muon_is_that_of_torch(shape):
    a = gaussian(*shape)
    if multiplies_halves(a):
        theirs = _zeropower_via_newtonschulz(a, MUON, 5, 1e-7)
        assert (orthogonalize(a, schedule="muon", half=True) - theirs.float()).abs().max() <= 1e-5
    assert (orthogonalize(a, schedule="muon") - published(a)).abs().max() <= 1e-5


def test_muon_in_a_batch():
    a = gaussian(2, 3, 48, 24, dtype=torch.float64)
    assert torch.allclose(orthogonalize(a, schedule="muon", steps=4), published(a, steps=4), atol=1e-12)


@pytest.mark.parametrize("shape", [(20, 20), (60, 20), (20, 60), (2, 3, 30, 10)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_exact_schedules_find_the_polar_factor(shape, dtype):
    a = gaussian(*shape, dtype=dtype)
    exact = torch.linalg.svd(a, full_matrices=False)
    exact = exact[0] @ exact[2]
    assert torch.allclose(orthogonalize(a, schedule="svd"), exact, atol=1e-12)
    assert torch.allclose(orthogonalize(a, schedule="newton_schulz", steps=25), exact, atol=1e-9)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(256, 256), (512, 128), (128, 512), (3, 96, 96)])
def test_three_minimax_steps_are_closer_than_five_of_muon(shape, half):
    a = gaussian(*shape)

    def error(q):
        return float(orthogonality(q if q.shape[-2] >= q.shape[-1] else q.mT).max())

    ours = orthogonalize(a, half=half)
    assert error(ours) < error(orthogonalize(a, schedule="muon", half=half))
    cosine = (ours.double() * polar(a)).sum() / (ours.double().norm() * polar(a).norm())
    assert cosine > 0.98


def test_singular_values_end_in_the_stated_interval():
    values = torch.logspace(0, -2.4, 40, dtype=torch.float64)
    left, right = (torch.linalg.qr(gaussian(m, 40, dtype=torch.float64, seed=m))[0] for m in (90, 40))
    a = (left * values) @ right.mT
    bound = float((values**8).sum() ** 0.125)
    ended = torch.linalg.svdvals(orthogonalize(a, least=0.003 / bound))
    assert float((ended - 1).abs().max()) < 0.31
    ended = torch.linalg.svdvals(orthogonalize(a, least=0.02))
    assert float(ended.min()) < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_stays_zero_beside_others_of_any_scale(schedule, dtype):
    a = gaussian(3, 12, 8).to(dtype)
    a[1] = 0.0
    a[2] = a[0] * (2.0**-10 if dtype == torch.float16 else 2.0**-100)
    found = orthogonalize(a, schedule=schedule)
    assert found.dtype == dtype
    assert bool((found[1] == 0).all())
    assert torch.allclose(found[0].float(), found[2].float(), atol=0.02)
    assert float(torch.linalg.svdvals(found[0].float()).min()) > 0.5


@pytest.mark.parametrize("schedule", ["minimax", "muon", "newton_schulz"])
def test_what_is_not_finite_spreads_and_gradients_end(schedule):
    a = gaussian(8, 6)
    a[2, 3] = torch.nan
    assert bool(orthogonalize(a, schedule=schedule).isnan().all())
    assert not orthogonalize(gaussian(8, 6).requires_grad_(), schedule=schedule).requires_grad


@pytest.mark.parametrize("half", [False, True])
def test_tall_matrices_of_any_condition_stay_bounded(half):
    """Also where pairs of steps on Gram matrices in bfloat16 would overshoot and diverge."""
    right = torch.linalg.qr(gaussian(100, 100, seed=1))[0]
    for decades in (2, 4, 6):
        a = torch.linalg.qr(gaussian(400, 100))[0] * torch.logspace(0, -decades, 100) @ right.mT
        for least in (0.02, 0.003, 1e-3, 1e-4):
            assert float(torch.linalg.matrix_norm(orthogonalize(a, half=half, least=least), 2)) < 1.3


def test_directions_without_singular_values_are_left_out():
    a = gaussian(7, 3) @ gaussian(3, 5, seed=1)
    values = torch.linalg.svdvals(orthogonalize(a, schedule="svd"))
    assert torch.allclose(values, torch.tensor([1.0, 1, 1, 0, 0]), atol=1e-5)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(BadInput, match="schedule"):
        orthogonalize(gaussian(3, 3), schedule="mion")
