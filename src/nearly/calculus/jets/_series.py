"""Arithmetic of truncated power series: lists of Taylor coefficients, the constant one first; those left out are zero.

Coefficients of jets carry a leading dimension: one for the constant, one entry per direction for the others. Under weights the
coefficient of the last order is the weighted sum over the directions: it enters every operation linearly, so it is summed as soon
as it arises (Dangel, Siebert, Zeinhofer, Walther 2025, "Collapsing Taylor Mode Automatic Differentiation", arXiv:2505.13644).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Series = list[Tensor]


@dataclass(frozen=True, eq=False)
class Frame:
    """What jets must share to be combined: the order, the number of directions, and weights that sum the last order over them."""

    order: int
    directions: int
    weights: Tensor | None = None

    def fits(self, other: Frame) -> bool:
        """Whether jets of both can be combined."""
        return (self.order, self.directions) == (other.order, other.directions) and self.weights is other.weights

    def rows(self, k: int) -> int:
        """How many rows the coefficient of order k has."""
        return 1 if k == 0 or (k == self.order and self.weights is not None) else self.directions

    def summed(self, product: Tensor) -> Tensor:
        """A product of lower coefficients, as a term of the last one."""
        return product if self.weights is None else torch.tensordot(self.weights.to(product.dtype), product, 1)[None]


def scalar(order: int) -> Frame:
    """For series without directions."""
    return Frame(order, 1)


def convolve(frame: Frame, product: Callable[..., Tensor], *factors: Series) -> Series:
    """Coefficients of a multilinear product of series."""
    degree = min(frame.order, sum(len(series) - 1 for series in factors))
    terms: list[list[Tensor]] = [[] for _ in range(degree + 1)]
    for orders in itertools.product(*(range(len(series)) for series in factors)):
        k = sum(orders)
        if k <= degree:
            term = product(*(series[i] for series, i in zip(factors, orders, strict=True)))
            terms[k].append(frame.summed(term) if k == frame.order and max(orders) < k else term)
    return [_sum(some) for some in terms]


def times(frame: Frame, first: Series, second: Series) -> Series:
    """Coefficients of the product of two series, entry by entry."""
    degree = min(frame.order, len(first) + len(second) - 2)
    return [
        _dot(frame, k, [(i, first[i], second[k - i]) for i in range(len(first)) if 0 <= k - i < len(second)])
        for k in range(degree + 1)
    ]


def quotient(
    frame: Frame,
    product: Callable[[Tensor, Tensor], Tensor],
    divide: Callable[[Tensor], Tensor],
    numerator: Series,
    denominator: Series,
) -> Series:
    """Coefficients of the x with `product(denominator, x) = numerator`, where `divide` solves for it at order zero."""
    found: Series = []
    for k in range(frame.order + 1):
        rest = numerator[k] if k < len(numerator) else None
        for j in range(1, min(k, len(denominator) - 1) + 1):
            term = product(denominator[j], found[k - j])
            term = frame.summed(term) if k == frame.order and j < k else term
            rest = -term if rest is None else rest - term
        if rest is None:
            break
        found.append(divide(rest))
    return found


def compose(frame: Frame, outer: Series, inner: Series) -> Series:
    """Coefficients of f(u), from those of f at u's constant (`outer`) and those of u (`inner`), by Horner's rule."""
    polynomial = [outer[-1]]
    for m in reversed(range(len(outer) - 1)):
        degree = min(frame.order - m, len(polynomial) - 1 + len(inner) - 1)
        pairs = [
            [(j, inner[j], polynomial[k - j]) for j in range(1, len(inner)) if 0 <= k - j < len(polynomial)]
            for k in range(1, degree + 1)
        ]
        polynomial = [outer[m], *(_dot(frame, k, some) for k, some in enumerate(pairs, 1))]
    return polynomial


def _dot(frame: Frame, k: int, pairs: Sequence[tuple[int, Tensor, Tensor]]) -> Tensor:
    """The sum of products of pairs that have order k together; the order of each one's first factor comes before it."""
    total: Tensor | None = None
    among: Tensor | None = None  # of lower coefficients of the last order
    for order, first, second in pairs:
        if k == frame.order and frame.weights is not None and 0 < order < k:
            among = _add_product(among, first, second)
        else:
            total = _add_product(total, first, second)
    if among is None:
        assert total is not None
        return total
    return frame.summed(among) if total is None else total + frame.summed(among)


def _add_product(total: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    if total is None:
        return first * second
    if total.dtype == first.dtype == second.dtype:
        return torch.addcmul(total, first, second)
    return total + first * second


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def variable(u: Tensor) -> Series:
    """U + t."""
    return [u, torch.ones_like(u)]


def integral(constant: Tensor, derivative: Series) -> Series:
    """The series with this constant and this derivative."""
    return [constant, *(term / (k + 1) for k, term in enumerate(derivative))]


def riccati(value: Tensor, order: int, zeroth: float, first: float, second: float) -> Series:
    """The solution of y' = zeroth + first y + second y^2 through a value."""
    y = [value]
    for k in range(order):
        slope = first * value + zeroth if k == 0 else y[k] * (first / (k + 1)) if first else None
        for i in range((k + 2) // 2 if second else 0):  # pairs of the square, the unequal ones twice
            weight = (2 if i < k - i else 1) * second / (k + 1)
            if slope is None:
                slope = (y[i] * y[k - i]).mul_(weight)
            else:
                slope = torch.addcmul(slope, y[i], y[k - i], value=weight)
        assert slope is not None
        y.append(slope)
    return y


def power(u: Tensor, exponent: complex | Tensor, order: int) -> Series:
    """(u + t)^r; terms whose binomial coefficient is zero are zero, at u = 0 too."""
    if not isinstance(exponent, Tensor):
        found: Series = []
        binomial: complex = 1.0
        for k in range(order + 1):
            found.append(binomial * u.pow(exponent - k))
            binomial *= (exponent - k) / (k + 1)
            if binomial == 0:
                break
        return found
    found, many = [], torch.ones_like(exponent)
    for k in range(order + 1):
        found.append(many * u.pow(torch.where(many == 0, 0, exponent - k)))
        many = many * (exponent - k) / (k + 1)
    return found


def power_of(base: Series, exponent: float, order: int) -> Series:
    """A series without directions to a power: y_k = sum_j (r j - (k - j)) b_j y_{k-j} / (k b_0)."""
    y = [base[0].pow(exponent)]
    for k in range(1, order + 1):
        terms = [(exponent * j - (k - j)) * base[j] * y[k - j] for j in range(1, min(k, len(base) - 1) + 1)]
        y.append(_sum(terms) / (k * base[0]))
    return y


def gaussian(u: Tensor, order: int) -> Series:
    """exp(-(u + t)^2), whose coefficients are Hermite polynomials' times the value."""
    g = [torch.exp(-u * u)]
    for k in range(1, order + 1):
        before = g[k - 2] if k >= 2 else torch.zeros_like(u)
        g.append(-2 * (u * g[k - 1] + before) / k)
    return g


def scaled(series: Series, factor: float) -> Series:
    """The series in (factor t)."""
    return [term * factor**k for k, term in enumerate(series)]
