"""Affinely parametrized linear systems: what a `Field` target may tell about itself to methods that project it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from nearly.core.errors import BadInput
from nearly.linalg.sparse import SparseFamily

if TYPE_CHECKING:
    import scipy.sparse
    from jaxtyping import Float
    from torch import Tensor


def monomials(
    parameters: Float[Tensor, "n d"], scale: Float[Tensor, " q"], exponents: Float[Tensor, "q d"]
) -> Float[Tensor, "n q"]:
    """`scale_q * prod_j parameters_j ** exponents_qj`; an exponent 0 gives 1 at every base, 0 and negative ones included."""
    return scale * parameters[:, None, :].pow(exponents).prod(dim=-1)


@dataclass(frozen=True, eq=False)
class Monomials:
    """Coefficients `theta_q(mu) = scale_q * prod_j mu_j ** exponents_qj`, as data, so that an artifact can hold them.

    Args:
        scale: shape (terms,).
        exponents: shape (terms, parameters); exponent 0 makes a term independent of a parameter.

    Example:
        >>> Monomials.coordinates(2)(torch.tensor([[3.0, 5.0]], dtype=torch.float64)).tolist()
        [[3.0, 5.0]]
    """

    scale: Tensor
    exponents: Tensor

    @classmethod
    def coordinates(cls, parameters: int) -> Monomials:
        """One term per parameter: `theta_q(mu) = mu_q`."""
        return cls(torch.ones(parameters, dtype=torch.float64), torch.eye(parameters, dtype=torch.float64))

    @classmethod
    def constant(cls, parameters: int, terms: int = 1) -> Monomials:
        """Terms that do not depend on the parameters: `theta_q = 1`."""
        return cls(torch.ones(terms, dtype=torch.float64), torch.zeros(terms, parameters, dtype=torch.float64))

    def __call__(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, "n q"]:
        """Evaluate all terms at each parameter vector."""
        return monomials(parameters, self.scale.to(parameters), self.exponents.to(parameters))


@dataclass(frozen=True, eq=False)
class AffineSystem:
    """`sum_q theta_q(mu) A_q u = sum_p phi_p(mu) f_p` on the free unknowns, with what an error bound needs to know.

    The inner product is `X = sum_{q in coercive} theta_q(reference) A_q`; the terms in `coercive` must be symmetric
    positive semidefinite with positive coefficients, every other term positive semidefinite or skew. Then the
    coercivity constant with respect to X is at least `min_{q in coercive} theta_q(mu) / theta_q(reference)`
    (the min-theta bound; Patera and Rozza 2007, section 4.2.2).

    Args:
        operators: sparse (n, n) matrices; rows and columns of Dirichlet unknowns are zero.
        operator_coefficients: theta.
        loads: shape (loads, n), zero at Dirichlet unknowns.
        load_coefficients: phi.
        coercive: indices of the terms that make the inner product.
        reference: the parameter vector at which they are summed.
        symmetric: whether every operator is symmetric.
        free: indices of the unknowns that are solved for; the others are zero.
    """

    operators: tuple[scipy.sparse.csr_matrix, ...]
    operator_coefficients: Monomials
    loads: np.ndarray
    load_coefficients: Monomials
    coercive: tuple[int, ...]
    reference: Tensor
    symmetric: bool
    free: np.ndarray

    def __post_init__(self) -> None:
        size = self.operators[0].shape[0] if self.operators else 0
        for index, operator in enumerate(self.operators):
            if operator.shape != (size, size):
                raise BadInput(f"operators[{index}]", f"of shape ({size}, {size})", operator.shape)
            if not np.isfinite(operator.data).all():
                raise BadInput(f"operators[{index}]", "finite", "NaN or infinite entries")
        if len(self.operators) != self.operator_coefficients.scale.numel():
            raise BadInput("operators", "as many as operator_coefficients has terms", len(self.operators))
        if self.loads.shape != (self.load_coefficients.scale.numel(), size):
            raise BadInput("loads", f"of shape ({self.load_coefficients.scale.numel()}, {size})", self.loads.shape)

    @property
    def unknowns(self) -> int:
        """Length of a solution vector, Dirichlet unknowns included."""
        return int(self.operators[0].shape[0])

    @cached_property
    def product(self) -> scipy.sparse.csr_matrix:
        """The inner product X; sparse (n, n), zero in rows of Dirichlet unknowns."""
        theta = self.operator_coefficients(self.reference[None])[0].tolist()
        return sum(theta[q] * self.operators[q] for q in self.coercive).tocsr()

    @cached_property
    def family(self) -> SparseFamily:
        """For solving at one parameter vector after another, and for Riesz representatives: the ordering is found once."""
        return SparseFamily(self.operators, self.free)

    def coercivity(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Lower bound of the coercivity constant with respect to `product` (min-theta)."""
        index = list(self.coercive)
        theta = self.operator_coefficients(parameters)[:, index]
        return (theta / self.operator_coefficients(self.reference.to(parameters)[None])[:, index]).amin(dim=1)
