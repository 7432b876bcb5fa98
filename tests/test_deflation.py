"""Deflation: exact modes, the Chebyshev bound on the others, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import torch

from nearly import Solve
from nearly.core.errors import BadInput
from nearly.matrices import Deflation


def laplacian(cells: int) -> scipy.sparse.csr_matrix:
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(cells, cells))
    eye = scipy.sparse.identity(cells)
    weights = scipy.sparse.diags(np.linspace(1, 3, cells * cells))
    return scipy.sparse.csr_matrix(weights @ (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)) @ weights)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_low_modes_are_exact_and_others_within_the_bound(dense, steps):
    matrix = laplacian(20).toarray() if dense else laplacian(20)
    target = Solve(matrix)
    whole = torch.from_numpy(laplacian(20).toarray())
    scale = whole.diagonal().rsqrt()
    values, modes = torch.linalg.eigh(scale[:, None] * whole * scale)
    surrogate = Deflation(rank=10, steps=steps).fit(target)
    # The right-hand side of mode i is modes_i / scale; its solution is scale * modes_i / values_i.
    answers = surrogate((modes / scale[:, None]).T)
    relative = (answers / scale * values[:, None] - modes.T).norm(dim=1)
    assert float(relative[:10].max()) < 1e-9
    root = (1.01**2 * values[-1] / values[10]).sqrt()
    assert float(relative[10:].max()) <= float(2 * ((root - 1) / (root + 1)) ** steps)
    assert float(relative[10:].max()) > 1e-9


def test_it_beats_the_iteration_alone_and_falls_with_rank():
    target = Solve(laplacian(40))
    inputs = target.sample(50, 0)
    errors = [
        float(target.error(target(inputs), Deflation(rank=r, steps=8).fit(target)(inputs)).mean())
        for r in (1, 8, 64, 256)
    ]
    assert all(later < 0.5 * before for before, later in pairwise(errors))
    assert errors[-1] < 0.02


@pytest.mark.parametrize("rank", [1, 2, 3, 50])
def test_few_unknowns(rank):
    for size in (2, 3, 4):
        target = Solve(scipy.sparse.csr_matrix(laplacian(2).toarray()[:size, :size]))
        inputs = target.sample(5, 0)
        surrogate = Deflation(rank=rank, steps=30).fit(target)
        assert float(target.error(target(inputs), surrogate(inputs)).max()) < 1e-6
    single = Solve(torch.tensor([[4.0]]))
    assert abs(float(Deflation(rank=rank, steps=30).fit(single)(torch.ones(1, 1))) - 0.25) < 1e-6


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        ([[2.0, 1.0], [0.5, 2.0]], "not symmetric"),
        ([[2.0, 0.0], [0.0, -2.0]], "not positive definite"),
        ([[1.0, 2.0], [2.0, 1.0]], "positive definite"),
    ],
)
@pytest.mark.parametrize("build", [torch.tensor, scipy.sparse.csr_matrix])
def test_other_matrices_are_refused(matrix, why, build):
    with pytest.raises(BadInput, match=why):
        Deflation(rank=1).fit(Solve(build(matrix)))


def test_a_large_indefinite_sparse_matrix_is_refused():
    shifted = laplacian(20) - 0.47 * scipy.sparse.diags(laplacian(20).diagonal())
    with pytest.raises(BadInput, match="positive definite"):
        Deflation(rank=4).fit(Solve(scipy.sparse.csr_matrix(shifted)))
