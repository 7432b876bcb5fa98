"""Weighted least squares at points that repel each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.domain import Box
from nearly.core.method import Method
from nearly.functions._own_points import MOST_IN_A_RACE, affordable, refuses_own_points
from nearly.functions._polynomial import PolynomialModel, scaling
from nearly.linalg.legendre import least_terms, total_degree
from nearly.linalg.optimal_sampling import christoffel, projection_dpp, weighted_fit

if TYPE_CHECKING:
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "WeightedLeastSquares",
    "nouns": ["function"],
    "rows": [88],
    "replaces": "a smooth function of a few variables that answers at any point of a box",
    "certificate": "Probable",
    "rate": "that of best polynomial approximation of the degree, times a small constant",
    "cost": "one product per term",
    "parameters": {
        "degree": ["integer", 0, 200],
        "norm": ["real", 0.0, 1.0001],
        "repetitions": ["integer", 1, None],
        "sampling": ["choice", "repeated", "volume", "independent"],
    },
    "budget": {"parameter": "degree", "start": 2, "factor": 2, "most": 64},
    "skips": {},
}

MOST_TERMS = 1024  # in a race: drawing the points takes seconds there, and two minutes at twice as many


@dataclass(frozen=True, kw_only=True)
class WeightedLeastSquares(Method):
    """Weighted least squares in m Legendre polynomials at `repetitions * m` points drawn for this space.

    The points minimize `sum_i w(x_i) |f(x_i) - p(x_i)^T c|^2` over c, with `w = m / K(x, x)`, K(x, x) the sum of the squares of the
    orthonormal polynomials p. They are drawn as

    - "repeated": independent repetitions of the projection determinantal point process of the space, m points each;
    - "volume": volume-rescaled sampling, one such draw and independent points of Christoffel density `K(x, x) / m` for the rest;
    - "independent": independent points of Christoffel density (Cohen, Migliorati 2017, doi:10.5802/smai-jcm.24).

    The expected square error in L2 of the box is a constant times that of the best approximation in the space; points that repel
    each other need fewer repetitions for it, about two instead of log(m).

    Source: Nouy, Michel 2023, Weighted least-squares approximation with determinantal point processes and generalized volume
    sampling, arXiv 2312.14057. Departure: draws are not conditioned on a well-conditioned design.

    Args:
        degree: of the space.
        norm: of the set of exponents a, `sum_j a_j^norm <= degree^norm`; 1 for total degree, less for sparser sets.
        repetitions: points for each polynomial.
        sampling: as above.

    Example:
        >>> from nearly.core.nouns import Function
        >>> target = Function(lambda x: torch.exp(x.sum(dim=1)), Box([0.0, 0.0], [1.0, 1.0]))
        >>> surrogate = WeightedLeastSquares(degree=6).fit(target)
        >>> abs(float(surrogate(torch.zeros(1, 2, dtype=torch.float64))) - 1) < 1e-4
        True
    """

    model = PolynomialModel
    degree: int = 8
    norm: float = 1.0
    repetitions: int = 2
    sampling: str = "repeated"

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs a box, and a target that answers where it is asked."""
        return super().refuses(target) or refuses_own_points(target)

    def budgets(self, target: Target, available: int) -> list[int | None]:
        """Degrees from the card whose points a race can afford."""
        assert isinstance(target.domain, Box)
        dimension = target.domain.dimension

        def points(degree: int) -> int:
            terms = least_terms(dimension, degree, self.norm)
            if terms <= MOST_TERMS:
                terms = len(total_degree(dimension, degree, self.norm))
            return self.repetitions * terms if terms <= MOST_TERMS else MOST_IN_A_RACE + 1

        return affordable(super().budgets(target, available), points, available)

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        assert isinstance(target.domain, Box)
        exponents = total_degree(target.domain.dimension, self.degree, self.norm)
        x = draw_points(exponents, self.repetitions, 1, self.sampling, generator)[0]
        outputs = supply.solve(target.domain.from_unit((1 + x) / 2)).flatten(1)
        exponents, x = exponents.to(outputs.device), x.to(outputs)
        coefficients = weighted_fit(x, outputs, exponents)
        return PolynomialModel(exponents=exponents, coefficients=coefficients, **scaling(target, x))


def draw_points(
    exponents: torch.Tensor, repetitions: int, draws: int, sampling: str, generator: torch.Generator
) -> torch.Tensor:
    """Independent draws of the points of one fit, in [-1, 1]^d.

    Args:
        exponents: of the m polynomials, shape (m, d).
        repetitions: points for each polynomial.
        draws: how many.
        sampling: as for the method.
        generator: source of randomness.

    Returns:
        Shape (draws, repetitions m, d).
    """
    m, d = exponents.shape
    processes = {"repeated": repetitions, "volume": 1, "independent": 0}[sampling]
    repelling = projection_dpp(exponents, draws * processes, generator).reshape(draws, processes * m, d)
    single = christoffel(exponents, draws * (repetitions - processes) * m, generator)
    return torch.cat([repelling, single.reshape(draws, -1, d)], dim=1)
