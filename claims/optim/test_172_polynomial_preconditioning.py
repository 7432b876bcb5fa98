"""Row 172: polynomial preconditioning (Doikov, Rodomanov, arXiv 2301.13194).

Works when, on quadratics with 1-3 outlier eigenvalues 1000 times the bulk: degree-tau preconditioned gradient iterations follow
the predicted condition number within 2 times; the Krylov-adaptive version needs fewer matrix products than plain gradient
descent.

60 unknowns, bulk eigenvalues from 1 to 2, outliers from 1,000 to 1,200, in a random basis; the loss to 1e-10 of its start.
Degrees 0 to 4. The prediction is that of exact steps along preconditioned gradients, ln(1e10) / (2 ln((kappa + 1) / (kappa -
1))) steps, with kappa the formula's condition number. It is a worst case: counts are within 2 times of it from the start that
is worst by Kantorovich's inequality, and no larger from a random start, where they may be far smaller. Krylov: degree 3, from
the random start; a gradient counts as one product. Plain descent has the exact length at each step, free of charge. Rejected
broken variant, run below: sums of one degree higher.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nearly.optim import PolynomialPreconditioning
from nearly.optim.newton import polynomial_preconditioning as module

UNKNOWNS, LIMIT = 60, 8_000


def problem(outliers: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors."""
    draw = torch.Generator().manual_seed(172)
    basis = torch.linalg.qr(torch.randn(UNKNOWNS, UNKNOWNS, dtype=torch.float64, generator=draw)).Q
    values = torch.cat([torch.linspace(1, 2, UNKNOWNS - outliers), torch.linspace(1000, 1200, outliers)]).double()
    return values, basis


def left_out(values: Tensor, degree: int) -> Tensor:
    """The symmetric sum of a degree of all values but one, for each one, by the recurrence over values."""
    found = []
    for without in range(len(values)):
        sums = [1.0] + [0.0] * degree
        for i, value in enumerate(values.tolist()):
            if i != without:
                sums = [1.0] + [sums[k] + value * sums[k - 1] for k in range(1, degree + 1)]
        found.append(sums[degree])
    return torch.tensor(found, dtype=torch.float64)


def iterations(values: Tensor, basis: Tensor, degree: int, polynomial: str, worst: bool) -> int:
    x = torch.nn.Parameter(torch.randn(UNKNOWNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    if worst:
        weights = left_out(values, degree)
        parts = torch.zeros_like(values)
        parts[[0, -1]] = (weights.sqrt() / (values * weights))[[0, -1]]
        x = torch.nn.Parameter(basis @ (parts / parts.norm()))
    matrix = basis @ (values[:, None] * basis.T)
    optimizer = PolynomialPreconditioning([x], degree=degree, polynomial=polynomial, every=LIMIT)
    start = float(x.detach() @ matrix @ x.detach())
    for count in range(LIMIT):
        now = float(x.detach() @ matrix @ x.detach())
        if now <= 1e-10 * start:
            return count
        if not now <= 1e3 * start:
            break
        optimizer.step(lambda: x @ matrix @ x / 2)
    return LIMIT


@pytest.mark.parametrize("outliers", [1, 2, 3])
def test_conditions(outliers: int, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values, basis = problem(outliers)
    kappas = [float((values * w)[-1] / (values * w)[0]) for w in (left_out(values, k) for k in range(5))]
    predicted = [math.log(1e10) / (2 * math.log((kappa + 1) / (kappa - 1))) for kappa in kappas]
    counts, usual = ([iterations(values, basis, k, "symmetric", worst) for k in range(5)] for worst in (True, False))

    def bar(found: list[int]) -> bool:
        return all(b / 2 <= a <= 2 * b for a, b in zip(found, predicted, strict=True))

    shown = ", ".join(f"{count:.0f}" for count in predicted)
    for start, found in (("worst", counts), ("random", usual)):
        record(
            claim=f"172: iterations at degrees 0 to 4, {outliers} outliers, {start} start (predicted)",
            measured=", ".join(map(str, found)),
            baseline=shown,
        )
    assert bar(counts)
    assert all(a <= b for a, b in zip(usual, predicted, strict=True))
    products = 5 * iterations(values, basis, 3, "krylov", False)
    record(
        claim=f"172: products of the Krylov version, {outliers} outliers (gradient descent)",
        measured=products,
        baseline=usual[0],
    )
    assert products < usual[0]

    sums = module.symmetric_sums
    monkeypatch.setattr(module, "symmetric_sums", lambda v, degree: sums(v, degree + 1)[1:])
    broken = [*counts[:2], iterations(values, basis, 2, "symmetric", True), *counts[3:]]
    record(
        claim=f"172: iterations with the sums of one degree higher at degree 2, {outliers} outliers (predicted)",
        measured=", ".join(map(str, broken)),
        baseline=shown,
    )
    assert not bar(broken)
