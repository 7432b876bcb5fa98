"""Matrices whose polar factors are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem


def problems() -> list[SolverProblem]:
    """Tall matrices by polynomials, and square ones by the route that is chosen; real and complex."""
    return [*_of(torch.float64), *_of(torch.complex128)]


def _of(dtype: torch.dtype) -> list[SolverProblem]:
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(3, 8, 5, dtype=dtype, generator=generator)
    square = torch.randn(2, 6, 6, dtype=dtype, generator=generator)
    kind = "complex " if dtype.is_complex else ""
    deficient = tall.clone()
    deficient[..., 0] = 0.0
    return [
        SolverProblem(
            f"three {kind}8x5 matrices by {route}",
            {"matrix": tall, "route": route},
            _residual,
            tolerance=1e-10,
            batched=("matrix",),
            impossible={"a matrix of lower rank": {"matrix": deficient}},
            degrees={"matrix": 0},
        )
        for route in ("minimax", "newton_schulz")
    ] + [
        SolverProblem(
            f"two {kind}6x6 matrices", {"matrix": square}, _residual, batched=("matrix",), degrees={"matrix": 0}
        )
    ]


def _residual(value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    value = value.to(arguments["matrix"])
    n = value.shape[-1]
    gap = (value.mH @ value - torch.eye(n, dtype=value.dtype)).flatten(-2).norm(dim=-1) / n**0.5
    hermitian = value.mH @ arguments["matrix"]
    size = hermitian.flatten(-2).norm(dim=-1)
    # Any orthonormal matrix passes the first; a polar factor makes this Hermitian and positive semidefinite.
    slant = (hermitian - hermitian.mH).flatten(-2).norm(dim=-1) / size
    positive = torch.linalg.eigvalsh((hermitian + hermitian.mH) / 2)[..., 0] >= -1e-6 * size
    return torch.where((slant < 1e-3) & positive, gap, torch.inf)
