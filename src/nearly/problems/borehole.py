"""The flow of water through a borehole: a formula of eight variables that stands in for a simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nearly.core.domain import Box
from nearly.core.nouns import Function

if TYPE_CHECKING:
    from torch import Tensor

# Lower and upper ends: Harper and Gupta (1983), as tabulated by Morris, Mitchell and Ylvisaker (1993), section 4.1.
_RANGES = {
    "radius of the borehole, m": (0.05, 0.15),
    "radius of influence, m": (100.0, 50_000.0),
    "transmissivity of the upper aquifer, m^2/yr": (63_070.0, 115_600.0),
    "head of the upper aquifer, m": (990.0, 1_110.0),
    "transmissivity of the lower aquifer, m^2/yr": (63.1, 116.0),
    "head of the lower aquifer, m": (700.0, 820.0),
    "length of the borehole, m": (1_120.0, 1_680.0),
    "hydraulic conductivity of the borehole, m/yr": (9_855.0, 12_045.0),
}


def borehole() -> Function:
    """Flow rate in m^3/yr from an upper to a lower aquifer through a borehole, uniform on the standard box.

    With radii r_w and r, transmissivities T_u and T_l, heads H_u and H_l, length L and conductivity K, in the order
    (r_w, r, T_u, H_u, T_l, H_l, L, K):

        2 pi T_u (H_u - H_l) / (log(r / r_w) (1 + 2 L T_u / (log(r / r_w) r_w^2 K) + T_u / T_l))

    Source: Harper, Gupta 1983, Sensitivity/uncertainty analysis of a borehole scenario, report BMI/ONWI-516; Morris, Mitchell,
    Ylvisaker 1993, Bayesian design and analysis of computer experiments, doi:10.1080/00401706.1993.10485320, equation (4).

    Returns:
        The target: inputs (n, 8), outputs (n, 1); errors in units of its spread.

    Example:
        >>> f = borehole()
        >>> round(float(f((f.domain.lower + f.domain.upper)[None] / 2)), 2)
        70.87
    """
    low, high = zip(*_RANGES.values(), strict=True)
    return Function(_flow, Box(list(low), list(high)), name="borehole")


def _flow(x: Tensor) -> Tensor:
    radius, influence, upper, upper_head, lower, lower_head, length, conductivity = x.unbind(dim=1)
    logarithm = (influence / radius).log()
    inflow = 2 * math.pi * upper * (upper_head - lower_head)
    return inflow / (logarithm * (1 + upper / lower) + 2 * length * upper / (radius.square() * conductivity))
