"""Linear algebra against oracles computed another way."""

import pytest
import torch

from nearly.linalg.factorize import UpdatedSVD
from nearly.linalg.kernel_thinning import gaussian_kernel, laplace_kernel
from nearly.linalg.tucker import project, tucker

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def test_vectors_have_tucker_factors_too():
    vector = draw(7)
    core, factors = tucker(vector, 1e-12, 1)
    torch.testing.assert_close(project(core, [factors[0].T]), vector)


@pytest.mark.parametrize("kernel", [gaussian_kernel(0.7), laplace_kernel(0.7)])
def test_kernels_have_derivatives(kernel):
    assert torch.autograd.gradcheck(kernel, (draw(3, 2).requires_grad_(), draw(4, 2).requires_grad_()))


@pytest.mark.parametrize("ways", ["rows", "columns", "rows columns product"])
def test_updated_singular_values_are_within_their_error(ways):
    """And none above the true one, where what was cut off was cut off from one side alone."""
    matrix = draw(9, 8)
    svd = UpdatedSVD(matrix, 3)
    for way in 3 * ways.split():
        if way == "rows":
            matrix = torch.cat([matrix, new := draw(2, matrix.shape[1])])
            svd.add_rows(new)
        elif way == "columns":
            matrix = torch.cat([matrix, new := draw(len(matrix), 2)], 1)
            svd.add_columns(new)
        else:
            left, right = draw(len(matrix), 1), draw(matrix.shape[1], 1)
            matrix = matrix + left @ right.T
            svd.add_product(left, right)
        true = torch.linalg.svdvals(matrix)[:3]
        assert ((svd.values - true).abs() <= svd.error).all()
        assert ((svd.left * svd.values) @ svd.right - matrix).norm() <= svd.error
        assert " " in ways or (svd.values <= true * (1 + 1e-12)).all()
