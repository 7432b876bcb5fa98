"""Chebyshev interpolation on a tensor grid, its coefficients compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.domain import Box
from nearly.core.method import Method
from nearly.core.surrogate import Model, operations_of_maps
from nearly.functions._own_points import affordable, refuses_own_points
from nearly.functions._polynomial import scaling
from nearly.linalg.chebyshev import chebyshev, coefficient_map, extreme_points
from nearly.linalg.features import features_of
from nearly.linalg.tucker import tucker

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "ChebyshevTucker",
    "nouns": ["function"],
    "rows": [345],
    "replaces": "a smooth function of up to four variables, on a grid that need not be stored",
    "certificate": "Probable",
    "rate": "exponential in the degree for analytic functions",
    "cost": "(degree + 1)^d evaluations; one product with a core of the ranks' size to ask",
    "parameters": {"degree": ["integer", 1, 256], "tolerance": ["real", 0.0, 1.0]},
    "budget": {"parameter": "degree", "start": 4, "factor": 2, "most": 64},
    "skips": {},
}

MOST_VARIABLES = 4
BATCH = 4096  # points evaluated at once


class ChebyshevTuckerModel(Model):
    """`sum_a C[a] prod_j (T(x_j) U_j)[a_j]` on the box scaled to [-1, 1]^d."""

    def __init__(self, *, core: Tensor, **tensors: Tensor) -> None:
        super().__init__(core=core, **tensors)

    @property
    def factors(self) -> list[Tensor]:
        """Coefficients of the univariate polynomials, (degree + 1, rank) for each variable."""
        return [self.get_buffer(f"factor_{j}") for j in range(self.core.ndim - 1)]

    @property
    def operations(self) -> int:
        """Polynomials of each variable and their combinations, then the core."""
        univariate = sum(3 * len(f) for f in self.factors) + operations_of_maps(*(f.shape for f in self.factors))
        return univariate + 2 * sum(self.core[(0,) * j].numel() for j in range(self.core.ndim - 1))

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Values of the interpolant."""
        result = self.core[None]
        for x, factor in zip(features_of(self, inputs).unbind(dim=1), self.factors, strict=True):
            combined = chebyshev(x, len(factor)) @ factor
            result = (combined[:, None] @ result.flatten(2)).reshape(x.shape[0], *result.shape[2:])
        return result


@dataclass(frozen=True, kw_only=True)
class ChebyshevTucker(Method):
    """Interpolation at a tensor grid of Chebyshev points, then a Tucker decomposition of the coefficients.

        f(x) = sum_i c[i] T_{i_1}(x_1) ... T_{i_d}(x_d),   c = C x_1 U_1 ... x_d U_d

    The grid has (degree + 1)^d points, at which the function is asked; no larger array is made. Ranks come from the higher-order
    singular values of c, factors from alternating least squares; `tolerance` bounds the relative Frobenius error of c. Since
    Chebyshev polynomials are at most 1, the compression changes no value by more than the sum of the absolute values of what is
    left out of c. The ranks are close to those of the function's values on a fine grid, at the cost of a coarse one.

    Source: Benner, Khoromskij, Khoromskaia, Sun 2025, A mesh-free hybrid Chebyshev-Tucker tensor format, arXiv 2503.01696.
    Departures:

    1. Any number of variables from one to four, not three alone; several outputs share the factors.
    2. Log-uniform coordinates are interpolated in logarithms.

    Args:
        degree: of the polynomials in each variable.
        tolerance: of the decomposition.

    Example:
        >>> from nearly.core.nouns import Function
        >>> target = Function(lambda x: 1 / (2 + x.sum(dim=1)), Box([0.0] * 3, [1.0] * 3))
        >>> surrogate = ChebyshevTucker(degree=12, tolerance=1e-8).fit(target)
        >>> max(surrogate.model.core.shape) < 8
        True
    """

    model = ChebyshevTuckerModel
    degree: int = 16
    tolerance: float = 1e-10

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs a box of few variables, and a target that answers where it is asked."""
        reason = super().refuses(target) or refuses_own_points(target)
        if reason is None and isinstance(target.domain, Box) and target.domain.dimension > MOST_VARIABLES:
            return f"its evaluations grow as degree^d; at most {MOST_VARIABLES} variables"
        return reason

    def budgets(self, target: Target, available: int) -> list[int | None]:
        """Degrees from the card whose grids a race can afford."""
        assert isinstance(target.domain, Box)
        dimension = target.domain.dimension
        return affordable(super().budgets(target, available), lambda degree: (degree + 1) ** dimension, available)

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> ChebyshevTuckerModel:
        assert isinstance(target.domain, Box)
        size, dimension = self.degree + 1, target.domain.dimension
        values = []
        for index in torch.arange(size**dimension).split(BATCH):
            places = torch.stack(torch.unravel_index(index, (size,) * dimension), dim=1)
            values.append(supply.solve(target.domain.from_unit((1 + extreme_points(self.degree)[places]) / 2)))
        flat = torch.cat(values).flatten(1)
        coefficients = flat.reshape(*(size,) * dimension, flat.shape[1])
        transform = coefficient_map(self.degree).to(coefficients)
        for j in range(dimension):
            coefficients = torch.tensordot(coefficients, transform, dims=([j], [1])).movedim(-1, j)
        core, factors = tucker(coefficients, self.tolerance, dimension)
        named = {f"factor_{j}": factor for j, factor in enumerate(factors)}
        return ChebyshevTuckerModel(core=core, **named, **scaling(target, flat.new_zeros(1, dimension)))
