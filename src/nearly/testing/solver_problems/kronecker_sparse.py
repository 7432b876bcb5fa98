"""Sparse matrices seen through two small dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem


def problems() -> list[SolverProblem]:
    """Three 5x6 matrices of four nonzero entries in two rows and columns, by both updates, the noise known; real and complex."""
    return [*_of(torch.float64), *_of(torch.complex128)]


def _of(dtype: torch.dtype) -> list[SolverProblem]:
    generator = torch.Generator().manual_seed(0)

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    one, two, noise = gaussian(4, 5), gaussian(4, 6), 0.05 * gaussian(3, 4, 4)
    x = torch.zeros(3, 5, 6, dtype=dtype)
    x[:, ::3, 1::3] = gaussian(3, 2, 2)
    y = one @ x @ two.mT + noise
    return [
        SolverProblem(
            f"three {'complex ' if dtype.is_complex else ''}5x6 matrices, {update} update",
            {"factors": [one, two], "values": y, "update": update, "noise": 0.0025},
            _residual,
            tolerance=1e-3,
            batched=("values",),
            meaning=lambda value: value.mean,
        )
        for update in ("svd", "alternating")
    ]


def _residual(value: Any, arguments: Mapping[str, Any]) -> Tensor:
    """One step by dense algebra; the change of variances that it makes."""
    one, two = arguments["factors"]
    values = arguments["values"]
    many = values if values.ndim == 3 else values[None]
    gains = [gain.double() if values.ndim == 3 else gain.double()[None] for gain in value.variances]
    h = torch.kron(one, two)
    found = []
    for y, first, second in zip(many, *gains, strict=True):
        g = torch.outer(first, second)
        prior = torch.diag(g.flatten()).to(h)
        covariance = arguments["noise"] * torch.eye(len(h), dtype=h.dtype) + h @ prior @ h.mH
        gain = prior @ h.mH @ torch.linalg.inv(covariance)
        mean = gain @ y.flatten()
        moments = (mean.abs().square() + (prior - gain @ h @ prior).diagonal().real).reshape(g.shape)
        if arguments["update"] == "svd":
            left, sizes, right = torch.linalg.svd(moments)
            moved = sizes[0] * torch.outer(left[:, 0], right[0])
        else:
            a, b = first, second
            for _ in range(5000):
                a = (moments / b).mean(1)
                b = (moments / a[:, None]).mean(0)
            moved = torch.outer(a, b)
        found.append((moved - g).norm() / g.norm())
    result = torch.stack(found)
    return result if values.ndim == 3 else result[0]
