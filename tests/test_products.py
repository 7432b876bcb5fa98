"""Symmetric products, made of blocks, against whole products."""

import pytest
import torch

from nearly.linalg.orthogonalize import orthogonalize
from nearly.linalg.products import BLOCKED, BLOCKED_HALF, BLOCKS, hermitian_product


def drawn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("n", [BLOCKED - 1, BLOCKED, BLOCKED + 1, BLOCKED + BLOCKS - 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_products_in_blocks_are_whole_products(dtype, n, batch):
    x = drawn(*batch, n, 9, dtype=dtype)
    gram = x @ x.mH
    assert torch.allclose(hermitian_product(x, x.mH), gram)
    assert torch.allclose(hermitian_product(x, x.mH, gram, beta=0.5, alpha=2.0), 2.5 * gram)
    mean = gram.clone()
    assert hermitian_product(x, x.mH, mean, beta=0.5, alpha=2.0, out=mean) is mean
    assert torch.allclose(mean, 2.5 * gram)


def test_products_in_half_precision():
    x = drawn(2, BLOCKED_HALF + 1, 40).bfloat16()
    whole = x.double() @ x.double().mT
    found = hermitian_product(x, x.mT)
    assert torch.equal(found, found.mT)
    assert float((found - whole).norm() / whole.norm()) < 4e-3  # of one rounding, 2^-9


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20)])
@pytest.mark.parametrize("schedule", ["minimax", "muon", "newton_schulz", "svd"])
def test_polar_factors_lie_in_memory_as_their_matrices_do(shape, schedule):
    """A transposed result costs the parameters' update as much as a product."""
    assert orthogonalize(drawn(*shape), schedule=schedule).is_contiguous()
    assert orthogonalize(drawn(2, *shape), schedule=schedule).is_contiguous()
