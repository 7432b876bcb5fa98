"""Sparse polynomial regression: few terms out of very many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.functions._polynomial import PolynomialModel, scaling
from nearly.linalg.features import apply_features
from nearly.linalg.sparse_polynomial import fit_sparse_polynomial

if TYPE_CHECKING:
    import torch

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "SparsePolynomial",
    "nouns": ["function"],
    "rows": [],
    "replaces": "a smooth function of several variables, few of which act together",
    "certificate": "Probable",
    "rate": "exponential in the degree for analytic functions; exact for polynomials of few terms",
    "cost": "one product per term",
    "parameters": {"samples": ["integer", 4, None], "degree": ["integer", 0, 60]},
    "budget": {"parameter": "samples", "start": 32, "factor": 2, "most": 1024},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class SparsePolynomial(Method):
    """Least squares on random points in a few tensor Legendre polynomials, taken one by one out of up to 2,048 candidates.

        f(x) = sum_(a in A) c_a P_a(x),  A inside { a : sum_j a_j^q <= p^q },  q in {1/2, 3/4, 1}

    Degree p, norm q, terms A and their number have the least error under ten-fold cross-validation, in which every fold takes
    its own terms. On a box the polynomials are orthogonal under the drawing measure, log-uniform coordinates taken in
    logarithms; for data the box is the range of the rows. A sparse polynomial is found to round-off from a few times as many
    samples as it has terms.

    Source: Blatman, Sudret 2011, Adaptive sparse polynomial chaos expansion based on least angle regression,
    doi:10.1016/j.jcp.2010.12.021 (candidate sets, degree and terms from the data). Departures:

    1. Terms are taken by orthogonal least squares (`nearly.linalg.matching_pursuit`), not by least angle regression.
    2. Cross-validation around the choice of terms takes the place of the corrected leave-one-out error after it, which was
       measured to be 200 times too small.
    3. The norm q is chosen from the data too.

    Args:
        samples: points to fit.
        degree: the most degree tried.

    Example:
        >>> from nearly.problems import rosenbrock
        >>> surrogate = SparsePolynomial(samples=200).fit(rosenbrock(6))
        >>> len(surrogate.model.exponents)
        23
    """

    model = PolynomialModel
    samples: int = 256
    degree: int = 20

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> PolynomialModel:
        pairs = supply.fitting(self.samples)
        features = scaling(target, pairs.inputs)
        scaled = apply_features(pairs.inputs, **features)
        outputs = pairs.outputs.reshape(len(pairs), -1)
        exponents, coefficients = fit_sparse_polynomial(scaled, outputs, self.degree)
        return PolynomialModel(exponents=exponents, coefficients=coefficients, **features)
