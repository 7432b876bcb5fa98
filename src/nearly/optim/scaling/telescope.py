"""A sweep of hyperparameters whose grid shrinks as the network widens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_float, require_int


@dataclass(frozen=True)
class Sweep:
    """The trainings at one width.

    Attributes:
        width: of all of them.
        settings: hyperparameters by name, one dictionary for each training.
        losses: in the same order; infinite where a training gave no number.
    """

    width: int
    settings: list[dict[str, float]]
    losses: list[float]

    @property
    def best(self) -> dict[str, float]:
        """The settings of the least loss."""
        return self.settings[self.losses.index(min(self.losses))]


@dataclass(frozen=True)
class Telescope:
    """What was trained, from the narrowest width to the widest.

    Attributes:
        sweeps: by width; the last is the one training at full width.
    """

    sweeps: list[Sweep]

    @property
    def best(self) -> dict[str, float]:
        """The settings of the training at full width."""
        return self.sweeps[-1].best

    @property
    def loss(self) -> float:
        """Of the training at full width."""
        return min(self.sweeps[-1].losses)


def telescope(
    train: Callable[[int, dict[str, float]], float],
    widths: Sequence[int],
    ranges: Mapping[str, tuple[float, float]],
    *,
    points: int = 8,
) -> Telescope:
    r"""Find hyperparameters at small widths, on ever finer and smaller grids, and train once with the best at the last width.

    It replaces the sweep at full width. Under a maximal-update parametrization the best settings of a width n differ from their
    limit by order 1/n: a grid whose spacing is halved at each doubling follows them. With k hyperparameters, a full grid of
    $m^k$ points at the first width $n_0$ and $m_n^k$ at n,

        spacing    $h\, n_0 / n$ in the logarithm, about the best settings of the width before
        $m_n$      $m (n_0 / n)^{2/k}$, rounded up to an odd number, so that those settings are tried again

    all widths take the same compute where that grows as the square of the width. Widths with one point are not trained, as there
    is nothing to compare. The loss must have one basin, with the best settings well inside the ranges. The extent of the grid
    falls faster than the drift: a sweep whose best settings are at its edge says that `points` should be more.

    Source: Shah et al. 2025, "Practical Efficiency of Muon for Pretraining", arXiv:2505.02222, algorithm 1 and equations 4 and 5.

    Departures:
        1. Numbers of points are odd, as in the paper's figure 6 (8, 5, 3, 1), where its algorithm has 8, 4, 2, 1.
        2. Widths need not double.

    Args:
        train: of a width and hyperparameters by name, to a final loss; with `maximal_update`, so that settings transfer. NaN and
            infinite losses are those of trainings that diverged.
        widths: ascending, two or more; all but the last are swept.
        ranges: least and greatest value of each hyperparameter at the first width, above zero.
        points: m, of each hyperparameter at the first width.

    Returns:
        All trainings, and the best settings.

    Raises:
        BadInput: for arguments out of range, and a width at which every training diverged.

    Example:
        >>> def train(width, settings):  # as if the best rate were 0.1 (1 - 2 / width)
        ...     return math.log(settings["lr"] / (0.1 - 0.2 / width)) ** 2
        >>> found = telescope(train, [16, 32, 64, 128], {"lr": (0.01, 1.0)})
        >>> [(sweep.width, len(sweep.losses)) for sweep in found.sweeps]
        [(16, 8), (32, 3), (128, 1)]
        >>> round(found.best["lr"], 2)
        0.1
    """
    for width in widths:
        require_int("widths", width, least=1)
    if len(widths) < 2 or sorted(set(widths)) != list(widths):
        raise BadInput("widths", "two or more, ascending", widths)
    require_int("points", points, least=2)
    if not ranges:
        raise BadInput("ranges", "least and greatest values of at least one hyperparameter", describe(ranges))
    for name, (least, greatest) in ranges.items():
        require_float(f"ranges[{name!r}]", least, above=0)
        require_float(f"ranges[{name!r}]", greatest, above=least)
    center = {name: math.sqrt(least * greatest) for name, (least, greatest) in ranges.items()}
    sweeps: list[Sweep] = []
    for width in widths:
        narrowing = widths[0] / width
        count = points if not sweeps else _odd(points * narrowing ** (2 / len(ranges)))
        if width == widths[-1]:
            count = 1
        elif count == 1:
            continue
        axes = []
        for name, (least, greatest) in ranges.items():
            spacing = math.log(greatest / least) / (points - 1) * narrowing
            axes.append([center[name] * math.exp(spacing * (i - (count - 1) / 2)) for i in range(count)])
        settings = [dict(zip(ranges, values, strict=True)) for values in itertools.product(*axes)]
        losses = [float(train(width, dict(one))) for one in settings]
        losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
        if min(losses) == math.inf:
            raise BadInput("train", f"finite for some settings at width {width}", "none of them", "Lower the ranges.")
        sweeps.append(Sweep(width, settings, losses))
        center = sweeps[-1].best
    return Telescope(sweeps)


def _odd(number: float) -> int:
    # Powers of 4^(-1 / k) are no exact numbers: without rounding off, 3.0000000000000004 would become 5.
    return math.ceil(round(number, 9)) // 2 * 2 + 1
