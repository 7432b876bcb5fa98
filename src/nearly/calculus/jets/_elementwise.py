"""Taylor coefficients of scalar functions: `FUNCTIONS[name](u, order, ...)` are those of t -> f(u + t), entry by entry.

Recurrences are those of Griewank and Walther 2008, "Evaluating Derivatives", section 13.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from nearly.calculus.jets._series import (
    Series,
    gaussian,
    integral,
    power,
    power_of,
    riccati,
    scalar,
    scaled,
    times,
    variable,
)


def _cycle(u: Tensor, order: int, *values: Callable[[Tensor], Tensor]) -> Series:
    """Coefficients of a function whose derivatives repeat."""
    computed = [value(u) for value in values[: order + 1]]
    return [computed[k % len(values)] / math.factorial(k) for k in range(order + 1)]


def _minus_sin(u: Tensor) -> Tensor:
    return -torch.sin(u)


def _minus_cos(u: Tensor) -> Tensor:
    return -torch.cos(u)


def sin(u: Tensor, order: int) -> Series:
    return _cycle(u, order, torch.sin, torch.cos, _minus_sin, _minus_cos)


def cos(u: Tensor, order: int) -> Series:
    return _cycle(u, order, torch.cos, _minus_sin, _minus_cos, torch.sin)


def sinh(u: Tensor, order: int) -> Series:
    return _cycle(u, order, torch.sinh, torch.cosh)


def cosh(u: Tensor, order: int) -> Series:
    return _cycle(u, order, torch.cosh, torch.sinh)


def tan(u: Tensor, order: int) -> Series:
    return riccati(torch.tan(u), order, 1.0, 0.0, 1.0)


def tanh(u: Tensor, order: int) -> Series:
    return riccati(torch.tanh(u), order, 1.0, 0.0, -1.0)


def sigmoid(u: Tensor, order: int) -> Series:
    return riccati(torch.sigmoid(u), order, 0.0, 1.0, -1.0)


def exp(u: Tensor, order: int) -> Series:
    return riccati(torch.exp(u), order, 0.0, 1.0, 0.0)


def exp2(u: Tensor, order: int) -> Series:
    return scaled(riccati(torch.exp2(u), order, 0.0, 1.0, 0.0), math.log(2))


def expm1(u: Tensor, order: int) -> Series:
    return [torch.expm1(u), *exp(u, order)[1:]]


def log(u: Tensor, order: int) -> Series:
    return integral(torch.log(u), power(u, -1.0, order - 1))


def log2(u: Tensor, order: int) -> Series:
    return [torch.log2(u), *(term / math.log(2) for term in log(u, order)[1:])]


def log10(u: Tensor, order: int) -> Series:
    return [torch.log10(u), *(term / math.log(10) for term in log(u, order)[1:])]


def log1p(u: Tensor, order: int) -> Series:
    return [torch.log1p(u), *log(1 + u, order)[1:]]


def neg(u: Tensor, order: int) -> Series:
    return [-u, -torch.ones_like(u)]


def sqrt(u: Tensor, order: int) -> Series:
    return power(u, 0.5, order)


def rsqrt(u: Tensor, order: int) -> Series:
    return power(u, -0.5, order)


def square(u: Tensor, order: int) -> Series:
    return power(u, 2.0, order)


def reciprocal(u: Tensor, order: int) -> Series:
    return power(u, -1.0, order)


def _inverse(u: Tensor, order: int, value: Tensor, sign: float, base: Tensor, leading: float, root: float) -> Series:
    """`value` plus the integral of a power of a polynomial: of `base` at u, with the leading coefficient of its square."""
    powers = power_of([base, 2 * leading * u, torch.full_like(u, leading)], root, order - 1)
    return integral(value, [sign * term for term in powers])


def atan(u: Tensor, order: int) -> Series:
    return _inverse(u, order, torch.atan(u), 1.0, 1 + u * u, 1.0, -1.0)


def atanh(u: Tensor, order: int) -> Series:
    return _inverse(u, order, torch.atanh(u), 1.0, (1 - u) * (1 + u), -1.0, -1.0)


def asin(u: Tensor, order: int) -> Series:
    return _inverse(u, order, torch.asin(u), 1.0, (1 - u) * (1 + u), -1.0, -0.5)


def acos(u: Tensor, order: int) -> Series:
    return _inverse(u, order, torch.acos(u), -1.0, (1 - u) * (1 + u), -1.0, -0.5)


def asinh(u: Tensor, order: int) -> Series:
    return _inverse(u, order, torch.asinh(u), 1.0, 1 + u * u, 1.0, -0.5)


def acosh(u: Tensor, order: int) -> Series:
    # The root of the product has its cuts elsewhere.
    left, right = (power(one, -0.5, order - 1) for one in (u - 1, u + 1))
    return integral(torch.acosh(u), times(scalar(order - 1), left, right))


def erf(u: Tensor, order: int) -> Series:
    return integral(torch.erf(u), [2 / math.sqrt(math.pi) * term for term in gaussian(u, order - 1)])


def erfc(u: Tensor, order: int) -> Series:
    return [torch.erfc(u), *(-term for term in erf(u, order)[1:])]


def ndtr(u: Tensor, order: int) -> Series:
    """The normal distribution function."""
    return [torch.special.ndtr(u), *(term / 2 for term in scaled(erf(u / math.sqrt(2), order), math.sqrt(0.5))[1:])]


def lgamma(u: Tensor, order: int) -> Series:
    return [
        torch.lgamma(u),
        *(torch.special.polygamma(k - 1, u) / math.factorial(k) for k in range(1, order + 1)),
    ]


def softplus(u: Tensor, order: int, beta: float = 1.0, threshold: float = 20.0) -> Series:
    straight = beta * u > threshold  # by definition, where torch takes it so
    slope = scaled(sigmoid(beta * u, order - 1), beta)
    slope = [torch.where(straight, float(k == 0), term) for k, term in enumerate(slope)]
    return integral(functional.softplus(u, beta, threshold), slope)


def logsigmoid(u: Tensor, order: int) -> Series:
    return integral(functional.logsigmoid(u), scaled(sigmoid(-u, order - 1), -1.0))


def silu(u: Tensor, order: int) -> Series:
    return times(scalar(order), variable(u), sigmoid(u, order))


def gelu(u: Tensor, order: int) -> Series:
    return times(scalar(order), variable(u), ndtr(u, order))


def softsign(u: Tensor, order: int) -> Series:
    """U / (1 + |u|), from the side of zero that u lies on."""
    side = torch.where(u < 0, -1.0, 1.0).to(u)
    powers = power(1 + u.abs(), -1.0, order)
    return [functional.softsign(u), *(-(side ** (k + 1)) * powers[k] for k in range(1, order + 1))]


def elu(u: Tensor, order: int, alpha: float = 1.0) -> Series:
    below = [functional.elu(u, alpha), *(alpha * term for term in exp(u.clamp(max=0.0), order)[1:])]
    above = [u, torch.ones_like(u), *[torch.zeros_like(u)] * (order - 1)]
    return [torch.where(u > 0, a, b) for a, b in zip(above, below, strict=True)]


def selu(u: Tensor, order: int) -> Series:
    # Klambauer, Unterthiner, Mayr, Hochreiter 2017, arXiv:1706.02515, equation 14
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return [functional.selu(u), *(scale * term for term in elu(u, order, alpha)[1:])]


def _kinked(value: Tensor, slope: Tensor) -> Series:
    """A piecewise linear function; at a kink, the slope that torch's derivative takes."""
    return [value, slope.to(value.dtype)]


def relu(u: Tensor, order: int) -> Series:
    return _kinked(torch.relu(u), u > 0)


def relu6(u: Tensor, order: int) -> Series:
    return _kinked(functional.relu6(u), (u > 0) & (u < 6))


def leaky_relu(u: Tensor, order: int, negative_slope: float = 0.01) -> Series:
    return _kinked(
        functional.leaky_relu(u, negative_slope), torch.where(u > 0, 1.0, torch.full_like(u, negative_slope))
    )


def hardtanh(u: Tensor, order: int, min_val: float = -1.0, max_val: float = 1.0) -> Series:
    return _kinked(functional.hardtanh(u, min_val, max_val), (u > min_val) & (u < max_val))


def real_absolute(u: Tensor, order: int) -> Series:
    return _kinked(u.abs(), u.sign())


_NAMED = {"arccos": acos, "arcsin": asin, "arctan": atan, "arcsinh": asinh, "arccosh": acosh}
_NAMED |= {"arctanh": atanh, "negative": neg, "special_expit": sigmoid, "log_sigmoid": logsigmoid}
_NAMED |= {
    f"special_{name}": rule for name, rule in {"erf": erf, "erfc": erfc, "ndtr": ndtr, "gammaln": lgamma}.items()
}
_NAMED |= {f"special_{name}": rule for name, rule in {"expm1": expm1, "exp2": exp2, "log1p": log1p}.items()}
_OWN: tuple[Callable[..., Series], ...] = (
    *(sin, cos, sinh, cosh, tan, tanh, sigmoid, exp, exp2, expm1, log, log2, log10, log1p, neg, sqrt, rsqrt, square),
    *(reciprocal, atan, atanh, asin, acos, asinh, acosh, erf, erfc, lgamma, softplus, logsigmoid, silu, softsign, elu),
    *(selu, relu, relu6, leaky_relu, hardtanh),
)
FUNCTIONS: dict[str, Callable[..., Series]] = _NAMED | {rule.__name__: rule for rule in _OWN}
