"""Brownian paths and their time integrals, at any time, from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nearly.calculus.steppers.philox import counted_normals
from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float, Int

DEEPEST = 60  # levels, whose places fit 64 bits
GROUP = 2**17  # random numbers drawn at once: several levels of few paths, one level of many


class Increment(NamedTuple):
    """Of a Brownian path W over an interval from s to t.

    Attributes:
        change: `W_t - W_s`, of variance `t - s`.
        area: the space-time Levy area `H = 1/(t-s) int_s^t (W_r - W_s) dr - (W_t - W_s)/2`, of variance `(t - s)/12`, independent
            of the change.
    """

    change: Tensor
    area: Tensor

    def integral(self, length: float | Tensor) -> Tensor:
        """`int_s^t (W_r - W_s) dr`, of variance `(t - s)^3 / 3`, for intervals of this length."""
        return length * (self.change / 2 + self.area)


@dataclass(frozen=True)
class BrownianTree:
    """Brownian paths that can be asked for increments and time integrals over any interval, in any order, for the price of a seed.

    It replaces stored paths: nothing but the seed is kept, and every answer is found by bisection. Of an interval from s to u of
    length h = a + b, with increment W and area H, the part up to s + a has

        W' = a/h W + 6ab/h^2 H + sigma X,            sigma^2 = ab (a^3 + b^3) / h^4,
        H' = a^2/h^2 H - a^2 sqrt(ab) / (2h sqrt(a^3 + b^3)) X + sqrt(ab^3 / (12 (a^3 + b^3))) Y,

    with X and Y standard normal: the law of a Brownian path given W and H. Halves are taken down to intervals no longer than the
    tolerance, in which the time asked is reached by one more such step. So the answers for all times together have exactly the
    law of one path's increments and integrals, provided the times are at least the tolerance apart; closer ones share numbers.
    X and Y of a node are `counted_normals` of the seed and the node's place in the tree: the same seed gives the same bits.
    A query costs `log2((end - start) / tolerance)` levels, for all seeds, times and components at once; about 0.1 us per level,
    component and end of an interval on one thread.

    Source: Jelincic, Foster and Kidger 2024, Single-seed generation of Brownian paths and integrals for adaptive and high order SDE
    solvers, arXiv 2405.06464. The conditional law above is derived from the covariances of W and its integral, not copied.

    Attributes:
        seed: an integer, or an integer tensor of them: a path for each.
        start: the first time, where W = 0.
        end: the last.
        shape: of the path's values: independent components.
        tolerance: least distance of two times whose joint law is exact.
        dtype: of the results.

    Raises:
        BadInput: for attributes that are not as above, and a tolerance more than 60 halvings below the interval.

    Example:
        >>> tree = BrownianTree(seed=3, start=0.0, end=1.0, tolerance=1e-6)
        >>> halves = tree(0.0, 0.5).change + tree(0.5, 1.0).change
        >>> bool(torch.isclose(halves, tree(0.0, 1.0).change))
        True
    """

    seed: int | Int[Tensor, "*seeds"]
    start: float
    end: float
    shape: tuple[int, ...] = ()
    tolerance: float = 2.0**-20
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if isinstance(self.seed, Tensor):
            if (
                self.seed.is_floating_point()
                or self.seed.is_complex()
                or self.seed.dtype == torch.bool
                or not self.seed.numel()
            ):
                raise BadInput("seed", "an integer or a non-empty tensor of integers", describe(self.seed))
        else:
            require_int("seed", self.seed, least=-(2**63), most=2**63 - 1)
        require_float("start", self.start)
        require_float("end", self.end, above=self.start)
        require_float("end", self.end - self.start, above=0)  # a length in range
        require_float("tolerance", self.tolerance, above=0)
        for size in self.shape:
            require_int("shape", size, least=1)
        if self.dtype not in (torch.float32, torch.float64):
            raise BadInput("dtype", "torch.float32 or torch.float64", self.dtype)
        if self.levels > DEEPEST:
            raise BadInput(
                "tolerance",
                f"at least 2^-{DEEPEST} of the interval, {(self.end - self.start) * 2.0**-DEEPEST:.3g}",
                self.tolerance,
            )

    @property
    def levels(self) -> int:
        """How often the interval is halved."""
        return max(0, math.ceil(math.log2(self.end - self.start) - math.log2(self.tolerance)))

    def __getitem__(self, chosen: Any) -> BrownianTree:
        """The paths of some of the seeds: the same bits as among the others."""
        return replace(self, seed=torch.as_tensor(self.seed)[chosen])

    def __call__(self, start: float | Float[Tensor, "*times"], end: float | Float[Tensor, "*times"]) -> Increment:
        """The increments over intervals.

        Args:
            start: their first times; a number or tensor that broadcasts with `end` and the seeds.
            end: their last times, not before the first.

        Returns:
            Tensors of the broadcast shape followed by `shape`, where the seeds are, or else the times; area 0 where an interval is
            empty.

        Raises:
            BadInput: for times that are not finite, out of order or outside the tree's interval.
        """
        device = next((one.device for one in (self.seed, start, end) if isinstance(one, Tensor)), None)
        first, last = self._times("start", start, device), self._times("end", end, device)
        if not bool(((self.start <= first) & (first <= last) & (last <= self.end)).all()):
            for name, times, given in (("start", first, start), ("end", last, end)):
                if not bool(((times >= self.start) & (times <= self.end)).all()):
                    raise BadInput(name, f"from {self.start} to {self.end}, the tree's interval", describe(given))
            raise BadInput("end", "at or after start", describe(end))
        seeds = torch.as_tensor(self.seed, device=device)
        # One walk down the tree for both ends, put before the dimensions of the seeds.
        ends = torch.stack(torch.broadcast_tensors(first, last, torch.empty_like(seeds, dtype=torch.float64))[:2])
        walked = self._from_start(ends)
        before, after = Increment(walked.change[0], walked.area[0]), Increment(walked.change[1], walked.area[1])
        pad = (...,) + (None,) * len(self.shape)
        offset, length = (first - self.start)[pad], (last - first)[pad]
        change = after.change - before.change
        # Integrals over [s, t] by those from the start; all are of the size of the whole path's, so rounding is absolute.
        whole = after.integral(offset + length) - before.integral(offset) - length * before.change
        area = torch.where(length > 0, whole / torch.where(length > 0, length, 1.0) - change / 2, 0.0)
        return Increment(change.to(self.dtype), area.to(self.dtype))

    def _times(self, name: str, value: Any, device: torch.device | None) -> Tensor:
        try:
            times = torch.as_tensor(value, dtype=torch.float64, device=device).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(name, "a time or a tensor of them", describe(value)) from error
        return times

    def _from_start(self, times: Tensor) -> Increment:
        """The increments from the tree's start to these times, by walking down the tree."""
        seeds = torch.as_tensor(self.seed, dtype=torch.int64, device=times.device)
        batch = torch.broadcast_shapes(seeds.shape, times.shape)
        pad = (...,) + (None,) * len(self.shape)
        part = torch.arange(math.prod(self.shape), device=times.device).reshape(self.shape)
        seeds = seeds.expand(batch)[pad]

        def normals(node: Tensor) -> tuple[Tensor, Tensor]:
            return counted_normals(seeds, node.expand(-1, *batch)[pad], part, torch.float64)

        # The way down: which half at each level, and the places of the nodes, the whole interval's own numbers first.
        final = times == self.end  # of which those are the answer
        length, rest = self.end - self.start, torch.where(final, 0.0, times - self.start)
        node = torch.ones_like(times, dtype=torch.int64)
        nodes, turns = [torch.zeros_like(node)], []  # place 0 is no node
        for _ in range(self.levels):
            if not bool(rest.any()):  # all times asked are first times of nodes, below which nothing is added
                break
            nodes.append(node)
            turns.append(rest >= length / 2)
            length /= 2
            rest, node = torch.where(turns[-1], rest - length, rest), 2 * node + turns[-1].long()
        nodes.append(node)
        group = max(1, GROUP // (math.prod(batch) * math.prod(self.shape)))
        drawn = [
            pair
            for i in range(0, len(nodes), group)
            for pair in zip(*normals(torch.stack(nodes[i : i + group])), strict=True)
        ]
        # W and H over the interval of the node at hand; sums of both from the start to its first time.
        length = self.end - self.start
        x, y = drawn[0]
        change, area = whole = math.sqrt(length) * x, math.sqrt(length / 12) * y
        sum_change, sum_integral = torch.zeros_like(change), torch.zeros_like(change)
        for right, (x, y) in zip(turns, drawn[1:-1], strict=True):
            length /= 2
            left = _part(change, area, length, length, x, y)
            goes, other = right[pad], Increment(change - left.change, _rest_of_area(change, area, left, length, length))
            sum_integral = torch.where(goes, sum_integral + length * sum_change + left.integral(length), sum_integral)
            sum_change = torch.where(goes, sum_change + left.change, sum_change)
            change, area = torch.where(goes, other.change, left.change), torch.where(goes, other.area, left.area)
        x, y = drawn[-1]
        step, left_over = rest.clamp(max=length)[pad], (length - rest).clamp(min=0)[pad]
        last = _part(change, area, step, left_over, x, y)
        sum_integral = sum_integral + step * sum_change + last.integral(step)
        sum_change = sum_change + last.change
        total = (times - self.start)[pad]
        mean = sum_integral / torch.where(total > 0, total, 1.0)
        walked = sum_change, mean - sum_change / 2
        return Increment(*(torch.where(final[pad], a, b) for a, b in zip(whole, walked, strict=True)))


def _part(change: Tensor, area: Tensor, a: Any, b: Any, x: Tensor, y: Tensor) -> Increment:
    """Of an interval of length a + b, its part up to a: the law given the whole, at standard normal x and y."""
    root, a, b = (a + b) ** 0.5, a / (a + b), b / (a + b)  # shares, of which powers stay in range
    cubes = a**3 + b**3
    moved = a * change + 6 * a * b * area + root * (a * b * cubes) ** 0.5 * x
    bent = a**2 * area + root * ((a * b**3 / (12 * cubes)) ** 0.5 * y - a**2 * (a * b / cubes) ** 0.5 / 2 * x)
    return Increment(moved, bent)


def _rest_of_area(change: Tensor, area: Tensor, left: Increment, a: float, b: float) -> Tensor:
    """The area of the part behind a, such that both parts' integrals make up the whole's."""
    whole = Increment(change, area).integral(a + b)
    moved = change - left.change
    return (whole - left.integral(a) - b * left.change) / b - moved / 2
