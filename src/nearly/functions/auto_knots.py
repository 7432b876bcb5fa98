"""A cubic spline that puts its own knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.core.domain import Box
from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.functions._own_points import affordable, refuses_own_points
from nearly.functions._polynomial import scaling
from nearly.linalg.features import features_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "AutoKnots",
    "nouns": ["function"],
    "rows": [165],
    "replaces": "a function of one variable, peaked or flat in places",
    "certificate": "Probable",
    "rate": "samples^-4 for four derivatives, the knots where they are needed",
    "cost": "a search among the knots, then a cubic",
    "parameters": {"samples": ["integer", 6, None], "tolerance": ["real", 0.0, 1.0]},
    "budget": {"parameter": "samples", "start": 16, "factor": 2, "most": 4096},
    "skips": {},
}

# Knots to start from, and the mean width plus so many standard deviations above which an interval is looked at once more: NumCosmo,
# https://github.com/NumCosmo/NumCosmo, ncm_spline_cubic_notaknot.c and ncm_spline_func.c.
FIRST_KNOTS, DEVIATIONS = 6, 1.0
NARROWEST = 1e-13  # of an interval, on [-1, 1]: a narrower one holds a jump


class SplineModel(Model):
    """`sum_p c_(i, p) (t - t_i)^p` in the interval i of t, the box scaled to [-1, 1]."""

    def __init__(self, *, knots: Tensor, coefficients: Tensor, **features: Tensor) -> None:
        super().__init__(knots=knots, coefficients=coefficients, **features)

    @property
    def operations(self) -> int:
        """The search, and Horner's rule for each output."""
        return len(self.knots).bit_length() + 6 * self.coefficients.shape[2]

    def forward(self, inputs: Float[Tensor, "n 1"]) -> Float[Tensor, "n k"]:
        """Values of the spline."""
        t = features_of(self, inputs)
        interval = torch.searchsorted(self.knots, t.detach()[:, 0].contiguous(), right=True) - 1
        interval = interval.clamp(0, len(self.knots) - 2)
        local = t - self.knots[interval, None]
        cubic, square, linear, constant = self.coefficients[:, interval]
        return ((cubic * local + square) * local + linear) * local + constant


@dataclass(frozen=True, kw_only=True)
class AutoKnots(Method):
    """A cubic not-a-knot spline on knots that are added until every interval meets one relative tolerance.

    Starting from six equidistant knots, the function f is asked at the middle m of every interval still open, of width h and ends
    a, b, and compared with the spline s on all knots so far:

        |f(m) - s(m)| <= tolerance |f(m)|   and   |I - int_a^b s| <= tolerance |I|,  I = h (f(a) + 4 f(m) + f(b)) / 6

    All middles become knots; an interval that fails either test leaves both its halves open. Once none is open, those wider than
    the mean width by a standard deviation are opened once more, since a plateau passes the tests by chance. A peak between two
    of the first knots and their middle, too narrow to be felt there, is not seen; nor is the tolerance kept next to a zero.

    Source: Vitenti, de Simoni, Penna-Lima, Barroso 2024, AutoKnots: Adaptive knot allocation for spline interpolation,
    arXiv 2412.13423, and its implementation in NumCosmo. Departures:

    1. Both tests allow a round-off of the largest value besides, so that a zero needs no infinity of knots.
    2. At most `samples` evaluations; where they do not suffice for all open intervals, the worst are halved.
    3. Several outputs must all pass. Log-uniform inputs are taken in logarithms.

    Args:
        samples: the most evaluations.
        tolerance: relative, at every point.

    Example:
        >>> from nearly.core.nouns import Function
        >>> peak = Function(lambda x: 1 / (1e-4 + x[:, 0] ** 2), Box([-1.0], [1.0]))
        >>> 600 < len(AutoKnots(tolerance=1e-6).fit(peak).model.knots) < 800
        True
    """

    model = SplineModel
    samples: int = 4096
    tolerance: float = 1e-8

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs a box of one variable, and a target that answers where it is asked."""
        reason = super().refuses(target) or refuses_own_points(target)
        if reason is None and isinstance(target.domain, Box) and target.domain.dimension > 1:
            return "it interpolates functions of one variable"
        return reason

    def budgets(self, target: Target, available: int) -> list[int | None]:
        """Evaluations from the card that a race can afford."""
        return affordable(super().budgets(target, available), lambda samples: samples, available)

    def _fit(self, target: Target, supply: Supply, generator: torch.Generator) -> SplineModel:
        assert isinstance(target.domain, Box)
        box = target.domain

        def ask(t: Tensor) -> Tensor:
            return supply.solve(box.from_unit((1 + t[:, None]) / 2)).flatten(1).cpu()  # where splines are fitted

        t = torch.linspace(-1, 1, FIRST_KNOTS, dtype=torch.float64)
        y = ask(t)
        open_ = torch.ones(len(t) - 1, dtype=torch.bool)
        missed = torch.full((len(t) - 1,), torch.inf, dtype=torch.float64)  # by each interval's parent, in tolerances
        again = True
        while True:
            width = t.diff()
            chosen = open_.nonzero().flatten()
            room = self.samples - len(t)
            if room < len(chosen):
                chosen = chosen[missed[chosen].argsort(descending=True, stable=True)[:room]].sort().values
            if not len(chosen):
                break
            limit = float(width.mean() + DEVIATIONS * width.std())
            middle = (t[chosen] + t[chosen + 1]) / 2
            values = ask(middle)
            ratio = self._misses(t, y, chosen, values)
            ratio = torch.where(width[chosen] < NARROWEST, torch.zeros_like(ratio), ratio)
            # Both halves of an interval inherit its state.
            copies = torch.ones_like(open_, dtype=torch.int64)
            copies[chosen] = 2
            missed[chosen], open_[chosen] = ratio, ratio > 1
            missed, open_ = missed.repeat_interleave(copies), open_.repeat_interleave(copies)
            order = torch.cat([t, middle]).argsort()
            t, y = torch.cat([t, middle])[order], torch.cat([y, values])[order]
            if again and not bool(open_.any()):
                again, open_ = False, t.diff() > limit
        model = SplineModel(knots=t.to(y), coefficients=_not_a_knot(t, y), **scaling(target, y.new_zeros(1, 1)))
        return model.to(box.lower.device)

    def _misses(self, t: Tensor, y: Tensor, chosen: Tensor, values: Tensor) -> Float[Tensor, " m"]:
        """The larger of both tests' errors in the chosen intervals, in what they allow, over all outputs."""
        h = t.diff()[chosen, None]
        cubic, square, linear, constant = _not_a_knot(t, y)[:, chosen]
        half = h / 2
        gap = (values - ((cubic * half + square) * half + linear) * half - constant).abs()
        # Simpson's rule is exact for a cubic with the same ends: both integrals differ by 2 / 3 of the gap, times h.
        simpson = (y[chosen] + 4 * values + y[chosen + 1]) / 6
        rounding = torch.finfo(y.dtype).eps * y.abs().amax(dim=0).clamp(min=torch.finfo(y.dtype).tiny)
        value = gap / (self.tolerance * values.abs() + rounding)
        integral = gap * 2 / 3 / (self.tolerance * simpson.abs() + rounding)
        return torch.maximum(value, integral).amax(dim=1).to(torch.float64)


def _not_a_knot(t: Float[Tensor, " n"], y: Float[Tensor, "n k"]) -> Float[Tensor, "4 m k"]:
    """Coefficients of the cubic spline with continuous third derivatives at the second and last but one knot, powers falling."""
    from scipy.interpolate import CubicSpline

    return torch.from_numpy(CubicSpline(t.numpy(), y.numpy(), bc_type="not-a-knot").c).to(y)
