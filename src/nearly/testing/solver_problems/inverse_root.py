"""Positive definite matrices whose inverse p-th roots are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearly.testing.solver_problems import SolverProblem


def problems() -> list[SolverProblem]:
    """Roots of several powers by both routes, and a singular matrix with a ridge; real and complex."""
    return [*_of(torch.float64), *_of(torch.complex128)]


def _of(dtype: torch.dtype) -> list[SolverProblem]:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 6, 6, dtype=dtype, generator=generator))[0]
    values = torch.linspace(1, 30, 6, dtype=torch.float64)
    matrix, singular = (_hermitian((basis * v) @ basis.mH) for v in (values, values - 1))
    kind = "complex " if dtype.is_complex else ""
    indefinite = matrix - 5 * torch.eye(6, dtype=torch.float64)
    return [
        SolverProblem(
            f"three {'singular ' if ridge else ''}{kind}6x6 matrices, power {power}, by {route}",
            {"matrix": singular if ridge else matrix, "power": power, "route": route, "ridge": ridge},
            _residual,
            tolerance=1e-9,
            batched=("matrix",),
            impossible={"an indefinite matrix": {"matrix": indefinite}},
            degrees={"matrix": -1 / power},
            structure={"matrix": _hermitian},
        )
        for power, route, ridge in (
            (4, "auto", None),
            (4, "newton", None),
            (1, "newton", None),
            (3, "eigh", None),
            (2, "newton", 0.01),
        )
    ]


def _hermitian(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mH) / 2


def _residual(value: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    matrix, power = arguments["matrix"], arguments["power"]
    value = value.to(matrix)
    eye = torch.eye(value.shape[-1], dtype=value.dtype)
    gap = matrix + (arguments["ridge"] or 0.0) * matrix.flatten(-2).norm(dim=-1)[..., None, None] * eye
    for k in range(power):
        gap = value @ gap if k % 2 == 0 else gap @ value
    return (gap - eye).flatten(-2).norm(dim=-1) / value.shape[-1] ** 0.5
