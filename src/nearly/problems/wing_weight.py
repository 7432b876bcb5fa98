"""The weight of a light aircraft's wing: a formula of ten variables that stands in for a design tool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nearly.core.domain import Box
from nearly.core.nouns import Function

if TYPE_CHECKING:
    from torch import Tensor

# Lower and upper ends: Forrester, Sobester and Keane (2008), table 1.1; a Cessna C172 Skyhawk lies about the middle.
_RANGES = {
    "wing area, ft^2": (150.0, 200.0),
    "weight of fuel in the wing, lb": (220.0, 300.0),
    "aspect ratio": (6.0, 10.0),
    "quarter-chord sweep, degrees": (-10.0, 10.0),
    "dynamic pressure at cruise, lb/ft^2": (16.0, 45.0),
    "taper ratio": (0.5, 1.0),
    "thickness to chord ratio": (0.08, 0.18),
    "ultimate load factor": (2.5, 6.0),
    "flight design gross weight, lb": (1_700.0, 2_500.0),
    "weight of paint, lb/ft^2": (0.025, 0.08),
}


def wing_weight() -> Function:
    """Weight in lb of a light aircraft's wing, uniform on the standard box.

    With area S, fuel weight F, aspect ratio A, sweep s (degrees), dynamic pressure q, taper l, thickness t, load factor N, gross
    weight W and paint p, in this order:

        0.036 S^0.758 F^0.0035 (A / cos(s)^2)^0.6 q^0.006 l^0.04 (100 t / cos(s))^-0.3 (N W)^0.49 + S p

    Source: Forrester, Sobester, Keane 2008, Engineering design via surrogate modelling, doi:10.1002/9780470770801, equation (1.6),
    after Raymer's Aircraft design.

    Returns:
        The target: inputs (n, 10), outputs (n, 1); errors in units of its spread.

    Example:
        >>> f = wing_weight()
        >>> round(float(f((f.domain.lower + f.domain.upper)[None] / 2)), 1)
        267.6
    """
    low, high = zip(*_RANGES.values(), strict=True)
    return Function(_weight, Box(list(low), list(high)), name="wing weight")


def _weight(x: Tensor) -> Tensor:
    area, fuel, aspect, sweep, pressure, taper, thickness, load, gross, paint = x.unbind(dim=1)
    cosine = (sweep * (math.pi / 180)).cos()
    structure = 0.036 * area**0.758 * fuel**0.0035 * (aspect / cosine.square()) ** 0.6 * pressure**0.006
    return structure * taper**0.04 * (100 * thickness / cosine) ** -0.3 * (load * gross) ** 0.49 + area * paint
