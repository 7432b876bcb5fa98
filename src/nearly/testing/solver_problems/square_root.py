"""Positive definite matrices whose square roots are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem


def problems() -> list[SolverProblem]:
    """Roots by each iteration and by the route that is chosen, and inverse roots; real and complex."""
    return [*_of(torch.float64), *_of(torch.complex128)]


def _of(dtype: torch.dtype) -> list[SolverProblem]:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 6, 6, dtype=dtype, generator=generator))[0]
    matrix = (basis * torch.linspace(1, 30, 6, dtype=torch.float64)) @ basis.mH
    matrix = (matrix + matrix.mH) / 2
    kind = "complex " if dtype.is_complex else ""
    indefinite = matrix - 5 * torch.eye(6, dtype=torch.float64)
    return [
        SolverProblem(
            f"three {kind}6x6 matrices by {route}{', inverted' if inverse else ''}",
            {"matrix": matrix, "route": route, "inverse": inverse},
            _residual,
            tolerance=1e-5 if route == "newton_schulz" else 1e-9,
            batched=("matrix",),
            impossible={"an indefinite matrix": {"matrix": indefinite}},
            degrees={"matrix": -0.5 if inverse else 0.5},
            structure={"matrix": lambda change: change + change.mH},
        )
        for route, inverse in (
            ("auto", False),
            ("minimax", True),
            ("newton_schulz", False),
            ("pade", False),
            ("taylor", False),
            ("eigh", True),
        )
    ]


def _residual(value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    matrix = arguments["matrix"]
    value = value.to(matrix)
    if arguments["inverse"]:
        gap = value @ matrix @ value - torch.eye(value.shape[-1], dtype=value.dtype)
        return gap.flatten(-2).norm(dim=-1) / value.shape[-1] ** 0.5
    return (value @ value - matrix).flatten(-2).norm(dim=-1) / matrix.flatten(-2).norm(dim=-1)
