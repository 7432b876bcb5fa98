"""Hyperbolic space as a ball, in which trees have room."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import require_float
from nearly.linalg.manifolds.manifold import Manifold
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class PoincareBall(Manifold):
    r"""The ball of radius $1 / \sqrt c$ with the hyperbolic metric of curvature -c.

    The inner product is $\langle u, v \rangle_x = \lambda_x^2\, u^T v$ with $\lambda_x = 2 / (1 - c ||x||^2)$; every vector is
    tangent. For c = 1 (others are this one scaled), with $\alpha = 1 - ||x||^2$, $\beta = 1 - ||y||^2$ and $d = y - x$:

    - addition, $x \oplus y = (||s||^2 x + \alpha s) / (||s||^2 + \alpha \beta)$ with $s = x + y$;
    - exponential, which is the retraction, $x \oplus \tanh(||v|| / \alpha)\, v / ||v||$;
    - distance $2\,\mathrm{arsinh}\,(||d|| / \sqrt{\alpha \beta})$;
    - logarithm, of that length in the metric, along $(-x) \oplus y$, that is along $\alpha d - ||d||^2 x$;
    - transport $w \mapsto (\beta / \alpha)\, \mathrm{gyr}[y, -x]\, w$ to the step's end y: the parallel one, which keeps inner
      products;
    - gradient, $(\alpha / 2)^2$ times the Euclidean one.

    These forms are those of the sources with every difference of nearly equal numbers taken out by algebra, so that nothing is
    lost at the origin or between close points, nor more than what rounding of x itself loses at the boundary.

    Points are kept within the fraction $1 - m$ of the radius, $m = \sqrt\epsilon$ (1.5e-8 in double precision, 3.5e-4 in
    single): rounding x there turns up as a relative error of $\epsilon / m = m$ in $\lambda_x$. Distances from the origin are then
    at most $\ln(2 / m) / \sqrt c$, 18.7 and 8.7 for c = 1. A point is one within $1 - m / 2$. Second derivatives of the
    exponential are not given at a zero tangent.

    Source: Ganea, Bécigneul, Hofmann 2018, "Hyperbolic neural networks", arXiv:1805.09112, section 2.3 (addition), lemma 2
    (exponential, logarithm), theorem 4 and its proof (transport); Nickel, Kiela 2017, "Poincaré embeddings", arXiv:1705.08039,
    section 3.1 (gradient); Ungar 2008, "A gyrovector space approach to hyperbolic geometry",
    doi:10.2200/S00175ED1V01Y200901MAS004, chapter 1 (gyrations).

    Args:
        curvature: c > 0, the curvature's absolute value.

    Raises:
        BadInput: for a curvature that is not positive and finite.

    Example:
        >>> ball, x = PoincareBall(), torch.tensor([0.5, 0.0], dtype=torch.float64)
        >>> ball.add(x, x).tolist(), ball.distance(torch.stack([0 * x, x]), torch.stack([x, ball.add(x, x)])).tolist()
        ([0.8, 0.0], [1.098612288668..., 1.098612288668...])
    """

    curvature: float = 1.0
    dimensions = 1

    def __post_init__(self) -> None:
        require_float("curvature", self.curvature, above=0.0)

    def check(self, point: Float[Tensor, "*batch n"], name: str = "point") -> None:
        self._in_ball(**{name: point})

    def gradient(
        self, point: Float[Tensor, "*batch n"], euclidean_gradient: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        x, g = self._at(point, euclidean_gradient=euclidean_gradient)
        return (_room(x) / 2).square() * g

    def inner(
        self, point: Float[Tensor, "*batch n"], u: Float[Tensor, "*batch n"], v: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch"]:
        x, u, v = self._at(point, u=u, v=v)
        factor = 2 / _room(x)
        return ((factor * u) * (factor * v)).sum(dim=-1)

    def exponential(
        self, point: Float[Tensor, "*batch n"], tangent: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        x, v = self._at(point, tangent=tangent)
        return _step(x, v * self._root) / self._root

    def carry(
        self, point: Float[Tensor, "*batch n"], tangent: Float[Tensor, "*batch n"], vector: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
        x, v, w = self._at(point, tangent=tangent, vector=vector)
        y = _step(x, v * self._root)
        d, alpha, beta = y - x, _room(x), _room(y)
        square, xd, xw, dw = _dot(d, d), _dot(x, d), _dot(x, w), _dot(d, w)
        along_x, along_d = dw * alpha - xw * square, 2 * xd * xw - xw * alpha - dw * _dot(x, x)
        return y / self._root, beta / alpha * (w + 2 * (along_x * x + along_d * d) / (square + alpha * beta))

    def logarithm(
        self, point: Float[Tensor, "*batch n"], other: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """The tangent vector at a point whose exponential is another point."""
        x, y = self._in_ball(point=point, other=other)
        d, alpha, beta = y - x, _room(x), _room(y)
        square = _dot(d, d)
        # Along alpha d - ||d||^2 x, whose length is ||d|| sqrt(||d||^2 + alpha beta).
        factor = _arsinh_ratio(square / (alpha * beta)) * (alpha / (beta * (square + alpha * beta))).sqrt()
        return factor * (alpha * d - square * x) / self._root

    def distance(self, point: Float[Tensor, "*batch n"], other: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """The length of the geodesic between two points; its derivative is given as zero where they are one."""
        x, y = self._in_ball(point=point, other=other)
        return (2 * torch.asinh(_norm(y - x) / (_room(x) * _room(y)).sqrt()) / self._root)[..., 0]

    def add(self, x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """The Möbius sum of two points: x where y is the origin, y where x is; neither commutative nor associative."""
        x, y = self._in_ball(x=x, y=y)
        total, alpha, beta = x + y, _room(x), _room(y)
        square = _dot(total, total)
        return _inside((square * x + alpha * total) / (square + alpha * beta)) / self._root

    @property
    def _root(self) -> float:
        return math.sqrt(self.curvature)

    def _at(self, point: Tensor, **vectors: Tensor) -> list[Tensor]:
        """A point, checked and scaled to the unit ball, and vectors as they are."""
        x, *others = self._given(point=point, **vectors)
        (x,) = self._in_ball(point=x)
        return [x, *others]

    def _in_ball(self, **points: Tensor) -> list[Tensor]:
        """Points scaled to the unit ball.

        Raises:
            BadInput: for one outside the margin.
        """
        scaled = [x * self._root for x in self._given(**points)]
        for name, x in zip(points, scaled, strict=True):
            size, most = float(_norm(x.detach()).max()), 1 - _margin(x) / 2
            if not size <= most:
                raise BadInput(name, f"of norm at most {most / self._root:.9g}", f"{size / self._root:.9g}")
        return scaled


def _margin(x: Tensor) -> float:
    return math.sqrt(float(torch.finfo(x.dtype).eps))


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(dim=-1, keepdim=True)


def _norm(v: Tensor) -> Tensor:
    scale = binary_scale(v, -1)
    return torch.linalg.vector_norm(v / scale, dim=-1, keepdim=True) * scale


def _room(x: Tensor) -> Tensor:
    """`1 - ||x||^2`."""
    return 1 - _dot(x, x)


def _inside(x: Tensor) -> Tensor:
    size, most = _norm(x), 1 - _margin(x)
    return torch.where(size > most, x * (most / size.clamp(min=most)), x)


def _step(x: Tensor, v: Tensor) -> Tensor:
    """The exponential in the unit ball: x + tanh(t) v / ||v|| in the ball's sum, enlarged by (cosh(t) e^-t)^2."""
    alpha = _room(x)
    scale = binary_scale(v, -1)
    unit = v / scale
    size = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
    decay = -2 * (size / alpha) * scale
    tiny = size == 0
    # sinh(t) e^-t / size; at zero its limit, whose product with v has the right derivative
    sine = torch.where(tiny, 1 / alpha, -torch.expm1(decay) / 2 / torch.where(tiny, 1.0, size))
    cosine, left = (1 + decay.exp()) / 2, decay.exp()
    z = cosine * x + sine * unit
    square = _dot(z, z)
    return _inside((square * x + alpha * cosine * z) / (square + alpha * left))


def _arsinh_ratio(square: Tensor) -> Tensor:
    """`arsinh(s) / s` as a function of s^2, smooth at zero."""
    small = square < math.sqrt(float(torch.finfo(square.dtype).eps))
    root = torch.where(small, 1.0, square).sqrt()
    return torch.where(small, 1 - square / 6, torch.asinh(root) / root)
