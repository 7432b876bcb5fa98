"""Symmetries of a grid that a set of field pairs seems to have, found by trying them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from nearly.fields.kernel_regression import KernelModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

Symmetry = tuple[str, int, int]  # kind, first axis, sign or second axis
MOST = 400  # rows that the regression is fitted to
ALIKE = 1.2  # errors on transformed pairs may exceed those on plain ones by this factor; wrong candidates go far beyond


def apply_symmetry(symmetry: Symmetry, fields: Float[Tensor, "n c *grid"]) -> Float[Tensor, "n c *grid"]:
    """Transform fields; every symmetry is its own inverse.

    `reflect` maps index i to -i modulo the grid's size (nodes from one boundary on, the other left out, or a period), `mirror` to
    size - 1 - i (nodes on both boundaries, or cells), each times a sign; `swap` exchanges two axes.
    """
    kind, axis, other = symmetry
    if kind == "swap":
        return fields.transpose(axis + 2, other + 2)
    flipped = fields.flip(axis + 2)
    return other * (flipped.roll(1, axis + 2) if kind == "reflect" else flipped)


def find_symmetries(inputs: Float[Tensor, "n c *grid"], outputs: Float[Tensor, "n k *grid"]) -> list[Symmetry]:
    """Transformations g of the grid for which the pairs (g a, g u) look like the pairs (a, u).

    Kernel regression is fitted to half of the pairs. On the other half its median error on (g a, g u) is that on (a, u), if g is a
    symmetry of the map and of the distribution of inputs; otherwise it is larger. What the regression cannot resolve, this does
    not see.

    Args:
        inputs: channels on a grid.
        outputs: channels on the same grid.

    Returns:
        The symmetries found, at most one reflection per axis.
    """
    half = min(MOST, len(inputs) // 2)
    model = KernelModel.from_pairs(inputs[:half], outputs[:half], None)
    rest = slice(half, 2 * half)
    sizes = outputs[rest].double().flatten(1).norm(dim=1)

    def error(symmetry: Symmetry | None) -> float:
        a, u = inputs[rest], outputs[rest]
        if symmetry is not None:
            a, u = apply_symmetry(symmetry, a), apply_symmetry(symmetry, u)
        misses = (model(a.double()) - u).flatten(1).norm(dim=1)
        return float((misses / sizes)[sizes > 0].median())  # a mean would be that of the few largest

    most = ALIKE * error(None)
    grid = inputs.shape[2:]
    found: list[Symmetry] = []
    for axis in range(len(grid)):
        candidates: list[Symmetry] = [(kind, axis, sign) for kind in ("reflect", "mirror") for sign in (1, -1)]
        errors = [error(candidate) for candidate in candidates]
        if min(errors) <= most:
            found.append(candidates[errors.index(min(errors))])
    swaps = [("swap", i, j) for i, j in combinations(range(len(grid)), 2) if grid[i] == grid[j]]
    return found + [swap for swap in swaps if error(swap) <= most]


def apply_random(
    symmetries: Sequence[Symmetry], fields: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The same random product of symmetries applied to inputs and outputs, each taking part with probability 1/2."""
    for symmetry, coin in zip(symmetries, torch.rand(len(symmetries), generator=generator).tolist(), strict=True):
        if coin < 0.5:
            fields = apply_symmetry(symmetry, fields[0]), apply_symmetry(symmetry, fields[1])
    return fields
