"""The cost beside a surrogate: counted figures by hand, measured ones positive, and a manifest that is checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import nearly
from nearly.core.cost import Cost, measure_cost
from nearly.core.errors import BadInput

BOX = nearly.Box([0.0, 0.0], [1.0, 1.0])


def targets() -> dict[str, tuple[Any, Any]]:
    grid = torch.linspace(0, 1, 30, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(200, 2, dtype=torch.float64, generator=generator)
    dense = torch.randn(30, 20, dtype=torch.float64, generator=generator)
    return {
        "function": (nearly.Function(lambda x: x.sum(dim=1).exp(), BOX), "functions.PolynomialLeastSquares"),
        "field": (nearly.Field(lambda mu: torch.exp(mu[0] * grid), BOX), "fields.PODRegression"),
        "data": (nearly.Field.from_data(rows, rows @ rows[:2].T), nearly.fields.NearestNeighbor(samples=64)),
        "matrix": (nearly.Matrix(dense), "matrices.TruncatedSVD"),
        "measure": (
            nearly.Measure(torch.randn(300, 2, dtype=torch.float64, generator=generator)),
            "measures.RandomSubsample",
        ),
    }


@pytest.mark.parametrize("noun", targets())
def test_costs_are_sane(noun: str) -> None:
    target, method = targets()[noun]
    surrogate = nearly.fit(target, method=method)
    cost = surrogate.cost
    assert isinstance(cost, Cost)
    assert cost.seconds_alone > 0
    assert cost.seconds_batched > 0
    assert cost.seconds_fit > 0
    assert 1 <= cost.batch <= 200
    assert cost.device == "cpu"
    assert cost.operations == surrogate.model.operations > 0
    state = surrogate.model.state_dict()
    assert cost.bytes == surrogate.bytes == sum(t.numel() * t.element_size() for t in state.values()) > 0
    assert cost.evaluations == {"function": 256, "field": 256}.get(noun, 0)
    if noun == "data":
        assert (cost.target_seconds_alone, cost.target_seconds_batched, cost.speedup) == (None, None, None)
    else:
        assert cost.target_seconds_alone is not None
        assert cost.target_seconds_alone > 0
        assert cost.target_seconds_batched is not None
        assert cost.speedup == cost.target_seconds_batched / cost.seconds_batched


def test_counted_operations_and_bytes_by_hand() -> None:
    """Rank 3 of a 30 x 20 matrix: two products with thin matrices, 2 x 3 (30 + 20); in float64 their entries and two numbers."""
    surrogate = nearly.fit(targets()["matrix"][0], method=nearly.matrices.TruncatedSVD(rank=3))
    assert surrogate.model.operations == 2 * 3 * (30 + 20)
    assert surrogate.bytes == 8 * (3 * (30 + 20) + 2)
    assert surrogate.to(torch.float32).bytes == 4 * (3 * (30 + 20) + 2)


def test_bytes_of_targets_by_hand() -> None:
    assert nearly.Matrix(torch.ones(30, 20)).bytes == 30 * 20 * 4
    sparse = scipy.sparse.csr_matrix(np.eye(10))
    assert nearly.Matrix(sparse).bytes == 10 * 8 + 10 * 4 + 11 * 4
    solve = nearly.Solve(sparse).bytes
    assert solve is not None
    assert solve >= 10 * 8
    assert nearly.Measure(torch.eye(4)).bytes == 4 * 4 * 4 + 4 * 4
    assert (
        nearly.Network(nn.Linear(3, 2), torch.randn(120, 3, generator=torch.Generator().manual_seed(0))).bytes == 8 * 4
    )
    assert nearly.Function(lambda x: x, BOX).bytes is None


def test_measuring_asks_the_target_a_few_of_the_given_inputs_and_counts_nothing() -> None:
    asked: list[torch.Tensor] = []

    def f(x: torch.Tensor) -> torch.Tensor:
        asked.append(x.clone())
        return x.sum(dim=1)

    target = nearly.Function(f, BOX, metric="absolute")
    surrogate = nearly.fit(target, method=nearly.fields.Mean())
    before = surrogate.certificate
    inputs = BOX.sample(50, 9)
    asked.clear()
    cost = measure_cost(surrogate, target, inputs, evaluations=5, seconds_fit=2.5)
    assert (cost.evaluations, cost.seconds_fit, cost.batch) == (5, 2.5, 50)
    known = {tuple(row) for row in inputs.tolist()}
    assert {tuple(row) for x in asked for row in x.tolist()} <= known
    assert surrogate.certificate is before


def test_manifest_round_trip_and_what_is_refused() -> None:
    surrogate = nearly.fit(targets()["data"][0], method=nearly.fields.Mean())
    assert surrogate.cost is not None
    manifest = json.loads(json.dumps(surrogate.cost.to_manifest(), allow_nan=False))
    assert Cost.from_manifest(manifest) == surrogate.cost
    for change in ({"batch": "many"}, {"seconds_alone": None}, {"device": 3}, {"operations": 1.5}, {"surprise": 1}):
        with pytest.raises(BadInput, match="cost"):
            Cost.from_manifest(manifest | change)
    with pytest.raises(BadInput, match="cost"):
        Cost.from_manifest({k: v for k, v in manifest.items() if k != "bytes"})
