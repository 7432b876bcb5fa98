"""Manifolds, and points and tangent vectors of each, that tests share."""

import math

import pytest
import torch

from nearly.linalg.manifolds import PoincareBall, PositiveDefinite, Stiefel

POLAR, QR, CAYLEY = Stiefel(), Stiefel("qr"), Stiefel("cayley")
CONES, BALL, FLAT_BALL = PositiveDefinite(), PoincareBall(), PoincareBall(0.1)
ALL = pytest.mark.parametrize("space", [POLAR, QR, CAYLEY, CONES, BALL, FLAT_BALL], ids=str)
STIEFEL = pytest.mark.parametrize("space", [POLAR, QR, CAYLEY], ids=str)
GEODESIC = pytest.mark.parametrize("space", [CONES, BALL, FLAT_BALL], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def points(space, count, generator, dtype=torch.float64):
    if isinstance(space, Stiefel):
        # signs that no Householder factorization gives by itself
        return torch.linalg.qr(torch.randn(count, 6, 3, generator=generator, dtype=dtype))[0] * torch.tensor([1, -1, 1])
    if isinstance(space, PositiveDefinite):
        root = torch.randn(count, 4, 4, generator=generator, dtype=dtype)
        return root @ root.mT + 0.3 * torch.eye(4, dtype=dtype)
    x = torch.randn(count, 5, generator=generator, dtype=dtype)
    radius = 0.98 * torch.rand(count, 1, generator=generator, dtype=dtype) / math.sqrt(space.curvature)
    return x / x.norm(dim=-1, keepdim=True) * radius


def unit(space, x, generator):
    """Tangent vectors of length one at x."""
    v = space.gradient(x, torch.randn(x.shape, generator=generator, dtype=x.dtype))
    size = space.inner(x, v, v).sqrt()
    return v / size.reshape(-1, *[1] * space.dimensions)
