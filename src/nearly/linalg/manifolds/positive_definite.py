"""Positive definite matrices, with the metric that no change of basis changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.linalg.derivatives import first_only
from nearly.linalg.manifolds.manifold import Manifold

if TYPE_CHECKING:
    from jaxtyping import Float

SYMMETRY = 1e-4  # entries of P - P^T beyond this fraction of the largest are not round-off, in single precision either
CLOSE = 0.5  # below it artanh has no cancellation, above it the difference of logarithms has none


@dataclass(frozen=True)
class PositiveDefinite(Manifold):
    r"""Symmetric positive definite matrices with the affine-invariant metric, a space of nonpositive curvature.

    The inner product is $\langle U, V \rangle_P = \mathrm{tr}\,P^{-1} U P^{-1} V$; tangent are the symmetric matrices. With the
    Cholesky factor, $P = L L^T$, and $S = L^{-1} V L^{-T}$:

    - the gradient is $P\,\mathrm{sym}(G)\,P$;
    - the exponential, which is the retraction, $L e^S L^T$: positive definite for every V;
    - the transport $U \mapsto E U E^T$ with $E = L e^{S/2} L^{-1}$: the parallel one, which keeps inner products;
    - the logarithm of Q at P $L \log(B B^T) L^T$ and the distance $||\log B B^T||_F$, where $B = L^{-1} L_Q$, both by singular
      values of B, which stay positive where eigenvalues of $P^{-1} Q$ are lost in rounding.

    Congruences $P \mapsto M P M^T$ and inversion keep distances. A point is a matrix whose entries of $P - P^T$ are at most 1e-4
    of the largest and that has a Cholesky factor in its precision. Derivatives of the logarithm are divided differences of the
    scalar logarithm (Daleckii, Krein), right for repeated eigenvalues, too; they are given once.

    Source: Pennec, Fillard, Ayache 2006, "A Riemannian framework for tensor computing", doi:10.1007/s11263-005-3222-z,
    section 3; Sra, Hosseini 2015, "Conic geometric optimization on the manifold of positive definite matrices",
    arXiv:1312.1039, section 2 (gradient, parallel transport); Higham 2008, "Functions of Matrices", theorem 3.11 (Daleckii,
    Krein).

    Example:
        >>> space, eye = PositiveDefinite(), torch.eye(2, dtype=torch.float64)
        >>> p = space.exponential(eye, torch.ones_like(eye))
        >>> space.logarithm(eye, p).round(decimals=9).tolist(), round(float(space.distance(eye, p)), 9)
        ([[1.0, 1.0], [1.0, 1.0]], 2.0)
    """

    dimensions = 2

    def check(self, point: Float[Tensor, "*batch n n"], name: str = "point") -> None:
        (p,) = self._given(**{name: point})
        _factor(name, p.detach())

    def gradient(
        self, point: Float[Tensor, "*batch n n"], euclidean_gradient: Float[Tensor, "*batch n n"]
    ) -> Float[Tensor, "*batch n n"]:
        p, g = self._given(point=point, euclidean_gradient=euclidean_gradient)
        _factor("point", p.detach())
        p = _symmetric(p)
        return _symmetric(p @ _symmetric(g) @ p)

    def inner(
        self, point: Float[Tensor, "*batch n n"], u: Float[Tensor, "*batch n n"], v: Float[Tensor, "*batch n n"]
    ) -> Float[Tensor, "*batch"]:
        p, u, v = self._given(point=point, u=u, v=v)
        factor = _factor("point", p)
        return (_whitened(factor, u) * _whitened(factor, v)).sum(dim=(-2, -1))

    def exponential(
        self, point: Float[Tensor, "*batch n n"], tangent: Float[Tensor, "*batch n n"]
    ) -> Float[Tensor, "*batch n n"]:
        p, v = self._given(point=point, tangent=tangent)
        half = _half_way(*_whitened_step(p, v))
        return _finite(half @ half.mT)

    def carry(
        self,
        point: Float[Tensor, "*batch n n"],
        tangent: Float[Tensor, "*batch n n"],
        vector: Float[Tensor, "*batch n n"],
    ) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
        p, v, w = self._given(point=point, tangent=tangent, vector=vector)
        factor, step = _whitened_step(p, v)
        half = _half_way(factor, step)
        return _finite(half @ half.mT), _finite(_symmetric(half @ _whitened(factor, w) @ half.mT))

    def logarithm(
        self, point: Float[Tensor, "*batch n n"], other: Float[Tensor, "*batch n n"]
    ) -> Float[Tensor, "*batch n n"]:
        """The tangent vector at a point whose exponential is another point."""
        factor, relative = self._relative(point, other)
        return _symmetric(factor @ _LogGram.apply(relative) @ factor.mT)  # type: ignore[no-untyped-call]

    def distance(
        self, point: Float[Tensor, "*batch n n"], other: Float[Tensor, "*batch n n"]
    ) -> Float[Tensor, "*batch"]:
        """The length of the geodesic between two points; its derivative is given as zero where they are one."""
        _, relative = self._relative(point, other)
        return 2 * torch.linalg.vector_norm(torch.linalg.svdvals(relative).log(), dim=-1)

    def _relative(self, point: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky factor L of one and L^-1 L_Q."""
        p, q = self._given(point=point, other=other)
        factor = _factor("point", p)
        return factor, torch.linalg.solve_triangular(factor, _factor("other", q), upper=False)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _factor(name: str, p: Tensor) -> Tensor:
    """The Cholesky factor of the symmetric part.

    Raises:
        BadInput: for what is not symmetric, or has none.
    """
    if p.shape[-1] != p.shape[-2]:
        raise BadInput(name, "square", describe(p))
    plain = p.detach()
    gap, largest = (plain - plain.mT).abs().amax(dim=(-2, -1)), plain.abs().amax(dim=(-2, -1))
    if not bool((gap <= SYMMETRY * largest).all()):
        raise BadInput(name, "symmetric", f"entries of P - P^T up to {float(gap.max()):.2g}")
    factor, info = torch.linalg.cholesky_ex(_symmetric(p))
    if bool(info.any()):
        count = int((info > 0).sum())
        raise BadInput(name, "positive definite in its precision", f"{count} of {info.numel()} that are not")
    return factor


def _whitened(factor: Tensor, v: Tensor) -> Tensor:
    """`L^-1 sym(V) L^-T`."""
    once = torch.linalg.solve_triangular(factor, _symmetric(v), upper=False)
    return _symmetric(torch.linalg.solve_triangular(factor.mT, once, upper=True, left=False))


def _whitened_step(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    factor = _factor("point", p)
    return factor, _whitened(factor, v)


def _half_way(factor: Tensor, step: Tensor) -> Tensor:
    """`H = L exp(S / 2)`: H H^T is positive definite where exp(S), by itself, would lose its small eigenvalues in rounding."""
    return factor @ torch.linalg.matrix_exp(step / 2)


def _finite(result: Tensor) -> Tensor:
    if not bool(torch.isfinite(result.detach()).all()):
        raise BadInput("tangent", "so short that the step is finite", "one that overflows", "Take a shorter step.")
    return result


class _LogGram(torch.autograd.Function):
    """`log(B B^T)`, from singular values of B."""

    @staticmethod
    def forward(context: Any, b: Tensor) -> Tensor:
        left, values, _ = torch.linalg.svd(b)
        context.save_for_backward(b, left, values)
        return (left * (2 * values.log())[..., None, :]) @ left.mT

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        first_only("logarithms of positive definite matrices")
        b, left, values = context.saved_tensors
        (gradient,) = gradients
        row, column = values[..., :, None], values[..., None, :]
        total = row + column
        x = (row - column) / total
        near, nonzero = x.abs() < CLOSE, torch.where(x == 0, 1.0, x)
        # (log r^2 - log c^2) / (r^2 - c^2), with log(r / c) = 2 artanh x
        half_log = torch.where(near, torch.atanh(torch.where(near, x, 0.0)), (row.log() - column.log()) / 2)
        differences = 4 * torch.where(x == 0, 1.0, half_log / nonzero) / total.square()
        return 2 * left @ (differences * (left.mT @ _symmetric(gradient) @ left)) @ left.mT @ b
