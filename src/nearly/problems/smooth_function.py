"""Functions on boxes whose smoothness, and with it the rate of polynomial approximation, is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from nearly.core.domain import Box
from nearly.core.errors import BadInput
from nearly.core.nouns import Function
from nearly.core.validate import require_int

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Where the kinks are: irrational, so that no grid or panel boundary falls on them.
_SHIFT = 1.0 / math.pi


def smooth_function(kind: str = "analytic", dimension: int = 2) -> Function:
    """A function on [-1, 1]^dimension of known smoothness, cheap enough to check rates of convergence on.

    With t the mean of the coordinates and E(N) the largest error of Chebyshev interpolation of degree N per coordinate:

    - "analytic": `1 / (1 + 25 |x|^2)`, after Runge. Analytic in each coordinate within the Bernstein ellipse
      `rho = (1 + sqrt(26)) / 5 = 1.2198`; E(N) falls as rho^-N (Trefethen 2013, Approximation Theory and Approximation
      Practice, theorem 8.2).
    - "entire": `exp(t)`; E(N) falls faster than any geometric rate.
    - "oscillatory": `cos(0.3 + sum_i c_i x_i)`, c_i = 8 / i^2, after Genz (1984); entire and anisotropic: the first
      coordinates need the higher degrees.
    - "cubic": `|t - 1/pi|^3`; two continuous derivatives and a third of bounded variation, along a skew plane; E(N) falls
      as N^-3 in one dimension (theorem 7.2).
    - "kink": `|t - 1/pi|`; continuous only; N^-1 in one dimension.

    Args:
        kind: one of the above.
        dimension: the number of coordinates, at least 1.

    Returns:
        The target: inputs (n, dimension), outputs (n, 1), in the dtype of the inputs; errors in units of its spread.

    Raises:
        BadInput: an unknown kind, or a dimension below 1.

    Example:
        >>> smooth_function("kink", dimension=1)(torch.tensor([[0.0]], dtype=torch.float64))
        tensor([[0.3183]], dtype=torch.float64)
    """
    require_int("dimension", dimension, least=1)
    if kind not in _KINDS:
        raise BadInput("kind", f"one of {', '.join(_KINDS)}", repr(kind))
    return Function(_KINDS[kind], Box([-1.0] * dimension, [1.0] * dimension), name=f"{kind} function")


def _oscillatory(x: Tensor) -> Tensor:
    weights = 8.0 / torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device).square()
    return torch.cos(0.3 + x @ weights)


_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "analytic": lambda x: 1.0 / (1.0 + 25.0 * x.square().sum(dim=1)),
    "entire": lambda x: x.mean(dim=1).exp(),
    "oscillatory": _oscillatory,
    "cubic": lambda x: (x.mean(dim=1) - _SHIFT).abs() ** 3,
    "kink": lambda x: (x.mean(dim=1) - _SHIFT).abs(),
}
