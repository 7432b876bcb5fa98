"""Matrices with orthonormal columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import check_parameter, describe
from nearly.linalg.manifolds.manifold import Manifold
from nearly.linalg.orthogonalize import orthogonality, polar_factor

if TYPE_CHECKING:
    from jaxtyping import Float

ORTHOGONALITY = 1e-4  # ||X^T X - I||_F / sqrt(p) beyond it is no round-off, in single precision either
ROUND_OFF = 10.0  # of a polar factor, in units of epsilon sqrt(p)


@dataclass(frozen=True)
class Stiefel(Manifold):
    r"""Matrices X of shape (n, p), $n \ge p$, with $X^T X = I$, and the inner product $\langle U, V \rangle = \mathrm{tr}\,U^T V$.

    Tangent at X are V with $X^T V$ skew-symmetric; the projection, which gives the gradient, takes $X\,\mathrm{sym}(X^T V)$ off.
    With $A = X^T V$ and $K = V - X A / 2$, retractions are

    - `polar`: the polar factor of $X + V$, the nearest point to it; it agrees with the exponential to second order.
    - `qr`: the orthonormal factor of $X + V = Q R$ whose R has a positive diagonal; to first order.
    - `cayley`: $Q(W) X$ with $Q(W) = (I - W/2)^{-1} (I + W/2)$ and $W = K X^T - X K^T$, by one solve with 2p unknowns; to first
      order (second for another metric).

    Vectors are transported by projection, which shortens them; with `cayley` by $Q(W)$, which keeps inner products. The
    exponential is
    $[X\;V] \exp \begin{pmatrix} A & -V^T V \\ I & A \end{pmatrix} \begin{pmatrix} I \\ 0 \end{pmatrix} e^{-A}$. It has no
    inverse in closed form, hence no logarithm and no distance here. Steps by `cayley` and the exponential end with one towards
    the nearest point, $Y (3 I - Y^T Y) / 2$, so that round-off does not add up.

    A point is one where $||X^T X - I||_F / \sqrt p$ is at most 1e-4. Steps have $||V||_F$ of at most $\epsilon^{-1/3}$ (1.65e5 in
    double precision, 203 in single): `cayley` loses some $\epsilon ||V||_F^2$ to rounding, the exponential $\epsilon ||V||_F$.

    Source: Absil, Mahony, Sepulchre 2008, "Optimization Algorithms on Matrix Manifolds", equations 3.35 (projection), 4.7 and
    4.8 (`polar`, `qr`); Wen, Yin 2013, "A feasible method for optimization with orthogonality constraints",
    doi:10.1007/s10107-012-0584-1, section 2 (`cayley`); Zhu 2017, "A Riemannian conjugate gradient method for optimization on
    the Stiefel manifold", doi:10.1007/s10589-016-9883-4 (its transport); Edelman, Arias, Smith 1998, "The geometry of
    algorithms with orthogonality constraints", arXiv:physics/9806030, equation 2.42 (the exponential).

    Args:
        retraction: see above.

    Raises:
        BadInput: for another retraction.

    Example:
        >>> stiefel, x = Stiefel(), torch.tensor([[1.0], [0.0]])
        >>> stiefel.retract(x, stiefel.gradient(x, torch.tensor([[5.0], [0.75]]))).flatten().round(decimals=6).tolist()
        [0.8..., 0.6...]
    """

    retraction: str = "polar"
    dimensions = 2

    def __post_init__(self) -> None:
        check_parameter("retraction", self.retraction, ["choice", "polar", "qr", "cayley"])

    def check(self, point: Float[Tensor, "*batch n p"], name: str = "point") -> None:
        (x,) = self._given(**{name: point})
        _require_point(name, x)

    def gradient(
        self, point: Float[Tensor, "*batch n p"], euclidean_gradient: Float[Tensor, "*batch n p"]
    ) -> Float[Tensor, "*batch n p"]:
        _, g = self._at(point, euclidean_gradient=euclidean_gradient)
        return g

    def inner(
        self, point: Float[Tensor, "*batch n p"], u: Float[Tensor, "*batch n p"], v: Float[Tensor, "*batch n p"]
    ) -> Float[Tensor, "*batch"]:
        _, u, v = self._at(point, u=u, v=v)
        return (u * v).sum(dim=(-2, -1))

    def exponential(
        self, point: Float[Tensor, "*batch n p"], tangent: Float[Tensor, "*batch n p"]
    ) -> Float[Tensor, "*batch n p"]:
        x, v = self._at(point, tangent=tangent)
        _require_short(v)
        p = x.shape[-1]
        a, eye = x.mT @ v, torch.eye(p, dtype=x.dtype, device=x.device).expand(*x.shape[:-2], p, p)
        # With V at unit size the exponent is as large as V, not as its square.
        size = v.detach().norm(dim=(-2, -1), keepdim=True).clamp(min=1.0)
        unit = v / size
        exponent = torch.cat([torch.cat([a, -size * unit.mT @ unit], -1), torch.cat([size * eye, a], -1)], -2)
        frame = torch.cat([x, unit], -1) @ torch.linalg.matrix_exp(exponent)[..., :p]
        return _polish(frame @ torch.linalg.matrix_exp(-a))

    def retract(
        self, point: Float[Tensor, "*batch n p"], tangent: Float[Tensor, "*batch n p"]
    ) -> Float[Tensor, "*batch n p"]:
        x, v = self._at(point, tangent=tangent)
        _require_short(v)
        return self._step(x, v)

    def carry(
        self,
        point: Float[Tensor, "*batch n p"],
        tangent: Float[Tensor, "*batch n p"],
        vector: Float[Tensor, "*batch n p"],
    ) -> tuple[Float[Tensor, "*batch n p"], Float[Tensor, "*batch n p"]]:
        x, v, w = self._at(point, tangent=tangent, vector=vector)
        _require_short(v)
        y = self._step(x, v)
        return y, _turned(x, v, w) if self.retraction == "cayley" else _tangent(y, w)

    def _step(self, x: Tensor, v: Tensor) -> Tensor:
        if self.retraction == "cayley":
            return _polish(_turned(x, v, x))
        if self.retraction == "polar":
            tolerance = ROUND_OFF * float(torch.finfo(x.dtype).eps) * math.sqrt(x.shape[-1])
            return polar_factor(x + v, tolerance=tolerance).value
        q, r = torch.linalg.qr(x + v)
        return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]

    def _at(self, point: Tensor, **vectors: Tensor) -> list[Tensor]:
        """A point, checked, and the tangent parts of vectors."""
        x, *others = self._given(point=point, **vectors)
        _require_point("point", x)
        return [x, *(_tangent(x, other) for other in others)]


def _tangent(x: Tensor, v: Tensor) -> Tensor:
    a = x.mT @ v
    return v - x @ ((a + a.mT) / 2)


def _turned(x: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """`Q(W) Z` by the Woodbury identity, as W = U S^T has rank 2p."""
    half = v - x @ (x.mT @ v) / 2
    left, right = torch.cat([half, x], -1), torch.cat([x, -half], -1)
    eye = torch.eye(left.shape[-1], dtype=x.dtype, device=x.device)
    return z + left @ torch.linalg.solve(eye - right.mT @ left / 2, right.mT @ z)


def _polish(y: Tensor) -> Tensor:
    """The nearest point, but for the square of the distance to it."""
    return 1.5 * y - 0.5 * y @ (y.mT @ y)


def _require_point(name: str, x: Tensor) -> None:
    n, p = x.shape[-2:]
    if n < p:
        raise BadInput(name, "a matrix with no more columns than rows", describe(x))
    gap = float(orthogonality(x.detach()).max())
    if not gap <= ORTHOGONALITY:
        raise BadInput(name, f"orthonormal by columns, ||X^T X - I||_F / sqrt(p) <= {ORTHOGONALITY:g}", f"{gap:.2g}")


def _require_short(tangent: Tensor) -> None:
    size = float(tangent.detach().norm(dim=(-2, -1)).max())
    limit = float(torch.finfo(tangent.dtype).eps) ** (-1 / 3)
    if not size <= limit:
        raise BadInput("tangent", f"of norm at most {limit:.3g}", f"{size:.3g}", "Take a shorter step.")
