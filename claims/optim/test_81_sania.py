"""Row 81: SANIA (Abdukhakimov, Xiang, Kamzolov, Gower, Takáč, arXiv 2312.17369).

Works when, for logistic regression with columns rescaled by 10^U(-3, 3): the loss curves on raw and rescaled data coincide to
1e-6, those of Adam and of SPS differ; the final loss is at most that of Adam at its best rate, without tuning.

1,000 points with 20 features, labels a hyperplane's (so that the least loss is 0), batches of 16, 20 epochs, three seeds;
preconditioner "adam" with eps 0. Differences are relative, the largest over the epochs. Adam's rates are 0.01 to 10 by tens,
its best chosen for raw and rescaled data each. SPS is Polyak's plain step (`MomentumPolyak` without momentum). Rejected broken
variant, run below: the root of the squares, as in AdaGrad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nearly.optim import MomentumPolyak, Sania
from nearly.optim.first_order import sania

EPOCHS = 20


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(1000, 20, dtype=torch.float64, generator=draw)
    signs = (rows @ torch.randn(20, dtype=torch.float64, generator=draw)).sign()
    return rows, signs, 10 ** (6 * torch.rand(20, dtype=torch.float64, generator=draw) - 3)


def curve(make: Callable[[list[Tensor]], torch.optim.Optimizer], rows: Tensor, signs: Tensor) -> list[float]:
    """Losses on all data after each epoch."""

    def loss(chosen: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-signs[chosen] * (rows[chosen] @ weights)).mean()

    weights = torch.nn.Parameter(torch.zeros(rows.shape[1], dtype=torch.float64))
    optimizer = make([weights])
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows), generator=draw).split(16):

            def closure() -> Tensor:
                optimizer.zero_grad()
                found = loss(chosen)  # noqa: B023
                found.backward()
                return found

            optimizer.step(closure)  # type: ignore[arg-type]
        losses.append(float(loss(torch.arange(len(rows))).detach()))
    return losses


def gap(first: list[float], second: list[float]) -> float:
    return max(abs(a - b) / a for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scales(seed: int, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, signs, scales = problem(seed)

    def both(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> tuple[list[float], list[float]]:
        return curve(make, rows, signs), curve(make, rows * scales, signs)

    ours = both(lambda p: Sania(p, eps=0.0))
    adams = [both(lambda p: torch.optim.Adam(p, lr=10.0**k)) for k in range(-2, 2)]  # noqa: B023
    sps = both(lambda p: MomentumPolyak(p, momentum=0.0))
    moved = min(gap(*pair) for pair in adams)
    record(
        claim=f"81: seed {seed}, change of the loss curve by rescaling (Adam, SPS)",
        measured=gap(*ours),
        baseline=f"{moved:.3g}, {gap(*sps):.3g}",
    )
    for i, name in enumerate(("raw", "rescaled")):
        best = min(pair[i][-1] for pair in adams)
        record(
            claim=f"81: seed {seed}, final loss, {name} (Adam, best of 4 rates)", measured=ours[i][-1], baseline=best
        )
        assert ours[i][-1] <= best
    assert gap(*ours) <= 1e-6
    assert min(moved, gap(*sps)) > 1e-2

    divided = sania._divided
    monkeypatch.setattr(sania, "_divided", lambda g, d, eps: divided(g, list(torch._foreach_sqrt(d)), eps))
    broken = both(lambda p: Sania(p, eps=0.0))
    record(
        claim=f"81: seed {seed}, change of the loss curve, with the root (bar)", measured=gap(*broken), baseline=1e-6
    )
    assert gap(*broken) > 1e-6
