"""Systems whose operators depend on the parameters through a coefficient field that does not separate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import scipy.sparse
    from jaxtyping import Float, Int
    from torch import Tensor

    from nearly.core.affine import AffineSystem


@dataclass(frozen=True, eq=False)
class NonaffineSystem:
    """`(sum_q theta_q(mu) A_q + A[g(mu)]) u = sum_p phi_p(mu) f_p + f[g(mu)]`: an affine part and one non-affine field.

    A[.] and f[.] are linear in the field g, a vector of values at the points of the quadrature, so that empirical
    interpolation `g(mu) = sum_m beta_m(mu) g_m` (Barrault et al. 2004, doi:10.1016/j.crma.2004.08.006) gives an affine
    system with operators A[g_m] and loads f[g_m]; beta(mu) needs g at as few points as there are g_m.

    Where g is nonnegative, A[g] is positive semidefinite, and the coercivity constant of the affine part with respect to
    `affine.product` holds for the whole.

    Args:
        affine: the affine part, its coercivity bound and its inner product; `free` and `unknowns` are shared.
        points: coordinates of the quadrature points, shape (points, dimensions).
        coefficient: g: parameters (n, d) to values (n, points), float64.
        coefficient_at: g at a few points only: parameters (n, d) and indices (k,) to (n, k); asked on any device.
        assemble_operator: A[.]: a field (points,) to a sparse (unknowns, unknowns) matrix, zero at Dirichlet unknowns.
        assemble_load: f[.]: a field (points,) to a vector (unknowns,), zero at Dirichlet unknowns.

    Raises:
        BadInput: points that are not a matrix.
    """

    affine: AffineSystem
    points: Float[np.ndarray, "points dimensions"]
    coefficient: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n points"]]
    coefficient_at: Callable[[Float[Tensor, "n d"], Int[Tensor, " k"]], Float[Tensor, "n k"]]
    assemble_operator: Callable[[Float[np.ndarray, " points"]], scipy.sparse.csr_matrix]
    assemble_load: Callable[[Float[np.ndarray, " points"]], Float[np.ndarray, " unknowns"]]

    def __post_init__(self) -> None:
        if self.points.ndim != 2:
            raise BadInput("points", "of shape (points, dimensions)", self.points.shape)

    @property
    def unknowns(self) -> int:
        """Length of a solution vector, Dirichlet unknowns included."""
        return self.affine.unknowns

    @property
    def product(self) -> scipy.sparse.csr_matrix:
        """The inner product, that of the affine part."""
        return self.affine.product

    def coercivity(self, parameters: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Lower bound of the coercivity constant with respect to `product`, for a nonnegative coefficient field."""
        return self.affine.coercivity(parameters)
