"""Where a surrogate may be asked: a box, anything at all, or whatever looks like the data it was fitted on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe, generator_from
from nearly.linalg.features import WIDE
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool, Float

ROWS = 4096  # whose distances to all references are held at once


class Domain(nn.Module, ABC):
    """A set of inputs. Its tensors are buffers, so that it moves with the surrogate that it belongs to."""

    kind: str
    of_outputs: bool = False  # whether `contains` looks at the surrogate's outputs instead of its inputs

    @abstractmethod
    def contains(self, inputs: Float[Tensor, "n ..."]) -> Bool[Tensor, " n"]:
        """Which inputs lie inside."""

    @abstractmethod
    def describe(self) -> str:
        """One line in words, for certificates and reports."""

    def settings(self) -> dict[str, Any]:
        """What beside the buffers is needed to build it again; JSON."""
        return {}

    def example(self) -> Tensor | None:
        """One input, shape (1, ...), to try a model on; None where their shape is not known."""
        return None


class Anywhere(Domain):
    """Every input: a linear map's certificate speaks of a random direction, not of a region.

    Args:
        shape: of one input; None for any.
    """

    kind = "anywhere"

    def __init__(self, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = None if shape is None else list(shape)

    def settings(self) -> dict[str, Any]:
        """The shape of one input."""
        return {"shape": self.shape}

    def example(self) -> Tensor | None:
        """An input of ones."""
        return None if self.shape is None else torch.ones(1, *self.shape)

    def contains(self, inputs: Float[Tensor, "n ..."]) -> Bool[Tensor, " n"]:
        """True for finite inputs of the right shape.

        Raises:
            BadInput: for inputs of another shape.
        """
        if self.shape is not None and list(inputs.shape[1:]) != self.shape:
            raise BadInput("inputs", f"of shape (n, {', '.join(map(str, self.shape))})", describe(inputs))
        return torch.isfinite(inputs[:, None] if inputs.ndim == 1 else inputs).flatten(1).all(dim=1)

    def describe(self) -> str:
        """One line in words."""
        return "inputs of any size and direction"


class Box(Domain):
    """The box `lower <= x <= upper`, sampled uniformly, or log-uniformly in the coordinates where `log` is set.

    Args:
        lower: shape (d,).
        upper: shape (d,); above `lower` in every coordinate.
        log: one flag for all coordinates or one each; those coordinates must be positive.

    Raises:
        BadInput: for empty, non-finite or crossed limits.

    Example:
        >>> Box([0.0, 1.0], [1.0, 2.0]).sample(3, 0).shape
        torch.Size([3, 2])
    """

    kind = "box"
    lower: Tensor
    upper: Tensor
    log: Tensor

    def __init__(self, lower: Any, upper: Any, *, log: Any = False) -> None:
        super().__init__()
        low = as_floating("lower", lower, dimensions=1).to(torch.float64)
        high = as_floating("upper", upper, dimensions=1).to(low)
        if low.shape != high.shape or not bool((low < high).all()):
            raise BadInput("upper", "above lower in every coordinate", f"lower {low.tolist()}, upper {high.tolist()}")
        if not bool(torch.isfinite(high - low).all()):
            raise BadInput("upper", "at a distance from lower that can be represented", f"{high.tolist()}")
        try:
            flags = torch.as_tensor(log, dtype=torch.bool, device=low.device).expand(low.shape).clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput("log", f"one flag, or one for each of {len(low)} coordinates", describe(log)) from error
        if bool((flags & (low <= 0)).any()):
            raise BadInput("lower", "positive where log is set", low.tolist())
        self.register_buffer("lower", low)
        self.register_buffer("upper", high)
        self.register_buffer("log", flags)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return self.lower.numel()

    def example(self) -> Tensor:
        """The lower corner."""
        return self.lower[None]

    def sample(self, n: int, generator: int | torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n points."""
        unit = torch.rand(n, self.dimension, dtype=torch.float64, generator=generator_from(generator))
        return self.from_unit(unit)

    def from_unit(self, unit: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Map the unit cube onto the box, geometrically in log coordinates."""
        low, high = self._scaled_ends()
        scaled = low + unit.to(low) * (high - low)
        return torch.where(self.log, scaled.exp(), scaled).clamp(self.lower, self.upper)

    def to_symmetric(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Map the box onto `[-1, 1]^d`, logarithmically in log coordinates."""
        low, high = (end.to(inputs) for end in self._scaled_ends())
        scaled = torch.where(self.log.to(inputs.device), inputs.clamp(min=torch.finfo(inputs.dtype).tiny).log(), inputs)
        return (2 * scaled - low - high) / (high - low)

    def _scaled_ends(self) -> tuple[Tensor, Tensor]:
        return (
            torch.where(self.log, self.lower.clamp(min=torch.finfo(self.lower.dtype).tiny).log(), self.lower),
            torch.where(self.log, self.upper.clamp(min=torch.finfo(self.upper.dtype).tiny).log(), self.upper),
        )

    def contains(self, inputs: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Inside up to four units of round-off of the coarser dtype, so that a cast corner is still a corner.

        Raises:
            BadInput: for inputs of another shape.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.dimension:
            raise BadInput("inputs", f"of shape (n, {self.dimension})", describe(inputs))
        inputs = inputs if inputs.is_floating_point() else inputs.to(self.lower.dtype)
        lower, upper = self.lower.to(inputs), self.upper.to(inputs)
        eps = max(torch.finfo(inputs.dtype).eps, torch.finfo(self.lower.dtype).eps)
        slack = 4 * eps * torch.maximum(lower.abs(), upper.abs())
        # Below by the lower end alone, where that may be orders less than the upper one.
        below = torch.where(self.log.to(inputs.device), 4 * eps * lower, slack)
        return ((inputs >= lower - below) & (inputs <= upper + slack)).all(dim=1)

    def describe(self) -> str:
        """One line in words."""
        spread = (
            "log-uniform" if bool(self.log.all()) else "uniform" if not bool(self.log.any()) else "part log-uniform"
        )
        low, high = self.lower.tolist(), self.upper.tolist()
        if len(set(low)) == len(set(high)) == 1:
            return f"the box [{low[0]:g}, {high[0]:g}]^{len(low)}, {spread}"
        return "the box " + " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True)) + f", {spread}"


class Cloud(Domain):
    """Inputs that look like the data: near a reference row, no further than fresh rows of the same source are.

    The distance is taken in whitened principal coordinates together with the distance from their span, so that an input
    orthogonal to all data is seen too; before that, each coordinate of a vector is scaled by its range, a field as a whole. The
    threshold is an order statistic of the distances of rows that are not among the references: a fresh row of the same source is
    refused with probability at most `false_alarm`, exactly, for any distribution (split conformal prediction; Vovk, Gammerman,
    Shafer 2005, proposition 2.4).

    Inputs without a geometry of their own, as token ids, are told by the surrogate's outputs: `of_outputs`. A surrogate that was
    fitted on those very rows knows them better than fresh ones, so that the rate is then approximate.
    """

    kind = "cloud"
    mean: Tensor
    units: Tensor
    axes: Tensor
    scales: Tensor
    residual_scale: Tensor
    references: Tensor
    threshold: Tensor

    def __init__(
        self, *, false_alarm: float, shape: Sequence[int] | None = None, of_outputs: bool = False, **buffers: Tensor
    ) -> None:
        super().__init__()
        self.of_outputs = of_outputs
        self.false_alarm, self.shape = float(false_alarm), list(buffers["mean"].shape if shape is None else shape)
        for name in ("mean", "units", "axes", "scales", "residual_scale", "references", "threshold"):
            self.register_buffer(name, buffers[name])

    @classmethod
    def fit(
        cls,
        inputs: Float[Tensor, "n ..."],
        *,
        false_alarm: float = 0.01,
        most_axes: int = 16,
        most: int = 512,
        of_outputs: bool = False,
    ) -> Cloud:
        """Set up from rows: three quarters are references (at most `most`), the others calibrate the threshold.

        Args:
            inputs: at least four rows, exchangeable (their order carries no meaning).
            false_alarm: the asked rate at which fresh rows are refused; the stated one is lower or, where there are too few
                calibrating rows for it, 1 / (rows + 1).
            most_axes: the most principal axes.
            most: the most reference rows.
            of_outputs: whether the rows are a surrogate's outputs.

        Returns:
            The domain.

        Raises:
            BadInput: for fewer than four rows.
        """
        rows = inputs.reshape(len(inputs), -1)
        if len(rows) < 4:
            raise BadInput("inputs", "at least four rows, to tell what the data look like", len(rows))
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.to(torch.float64)
        split = min(most, 3 * len(rows) // 4)
        reference, calibration = rows[:split], rows[split:]
        mean, units = reference.mean(dim=0), _units(reference)
        _, singular, axes = torch.linalg.svd((reference - mean) / units, full_matrices=False)
        scales = singular / math.sqrt(split)
        kept = min(most_axes, int((scales > 1e-6 * scales[0].clamp(min=torch.finfo(rows.dtype).tiny)).sum()))
        axes, scales = axes[:kept], scales[:kept]
        floor = 1e-6 * (scales[0] if kept else torch.ones((), dtype=rows.dtype, device=rows.device))
        cloud = cls(
            false_alarm=false_alarm,
            shape=inputs.shape[1:],
            of_outputs=of_outputs,
            mean=mean,
            units=units,
            axes=axes,
            scales=scales,
            residual_scale=torch.ones_like(floor),
            references=torch.zeros(0, kept + 1, dtype=rows.dtype, device=rows.device),
            threshold=torch.zeros((), dtype=rows.dtype, device=rows.device),
        )
        cloud.residual_scale = cloud._features(calibration)[:, -1].median().clamp(min=floor)
        cloud.references = cloud._features(reference)
        distances = cloud.distance(calibration).sort().values
        place = min(math.ceil((len(distances) + 1) * (1 - false_alarm)), len(distances))
        cloud.threshold = distances[place - 1] * (1 + 1e-6)
        cloud.false_alarm = 1 - place / (len(distances) + 1)
        return cloud

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device or precision, but to none lower than single, in which distances are taken."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in list(self.named_buffers(recurse=False)):
            if moved.dtype not in (torch.float32, torch.float64):
                setattr(self, name, before[name].to(moved.device))
        return self

    def _coordinates(self, rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
        """Whitened coordinates, and the distance from their span."""
        centered = (rows.to(self.mean) - self.mean) / self.units
        coordinates = centered @ self.axes.T
        return coordinates / self.scales, (centered - coordinates @ self.axes).norm(dim=1) / self.residual_scale

    def _rounding(self, rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """How far rounding may move the coordinates, and the distance from their span.

        Four units of round-off of the coarser dtype in each entry, as in a box.
        """
        kinds = [rows.dtype, self.mean.dtype] if rows.is_floating_point() else [self.mean.dtype]
        four = 4 * max(torch.finfo(kind).eps for kind in kinds)
        entries = four * (rows.to(self.mean).abs() + self.mean.abs()) / self.units
        moved = (entries @ self.axes.T.abs() / self.scales).norm(dim=1)
        return moved, math.sqrt(len(self.axes) + 1) * entries.norm(dim=1) / self.residual_scale

    def _features(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates and what is left of the distance from their span beside rounding."""
        coordinates, residual = self._coordinates(rows)
        return torch.cat([coordinates, (residual - self._rounding(rows)[1]).clamp(min=0)[:, None]], dim=1)

    def _nearest(self, features: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        parts = features.split(ROWS)
        near = [torch.cdist(x, self.references, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) for x in parts]
        return near[0] if len(near) == 1 else torch.cat(near)

    def distance(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Distance to the nearest reference row; unit: one standard deviation of the data along an axis."""
        return self._nearest(self._features(inputs.reshape(len(inputs), self.mean.numel())))

    def contains(self, inputs: Float[Tensor, "n ..."]) -> Bool[Tensor, " n"]:
        """Which inputs are no further from the references than fresh rows are, but for rounding.

        Rows that repeat are at distance zero from a reference until they are rounded to another dtype, or multiplied in a
        batch of another size. So rounding is allowed for, up to one standard deviation.

        Raises:
            BadInput: for inputs of another shape.
        """
        if inputs.shape[1:].numel() != self.mean.numel():
            raise BadInput("inputs", f"rows of {self.mean.numel()} numbers", describe(inputs))
        rows = inputs.reshape(len(inputs), self.mean.numel())
        coordinates, residual = self._coordinates(rows)
        inside = self._nearest(torch.cat([coordinates, residual[:, None]], dim=1)) <= self.threshold
        if inside.all():  # as nearly always: only the others are worth the time
            return inside
        rows = rows[~inside]
        features, (moved, noise) = self._features(rows), self._rounding(rows)
        rounding = (
            moved
            + torch.finfo(self.mean.dtype).eps * 4 * features.norm(dim=1)
            + torch.where(features[:, -1] > 0, noise, 0.0)
        )
        inside[~inside] = self._nearest(features) <= self.threshold + rounding.clamp(max=1)
        return inside

    def describe(self) -> str:
        """One line in words."""
        if self.of_outputs:
            return f"inputs answered like the fitted rows (nearest-row distance; false alarms about {self.false_alarm:.2%})"
        return f"inputs like the fitted rows (nearest-row distance; false alarms at most {self.false_alarm:.2%})"

    def settings(self) -> dict[str, Any]:
        """The stated false-alarm rate, the shape of one row, and whether rows are outputs."""
        return {"false_alarm": self.false_alarm, "shape": self.shape, "of_outputs": self.of_outputs}

    def example(self) -> Tensor | None:
        """The mean of the references; None where those are outputs."""
        return None if self.of_outputs else self.mean.reshape(1, *self.shape)


def _units(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Powers of two near the range of each coordinate, or its size where it does not vary; one for all of a field's."""
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    size, span = rows.abs().amax(dim=0), high / 2 - low / 2
    if rows.shape[1] > WIDE:
        size, span = size.amax(), span.amax()
    varies = span > 16 * torch.finfo(rows.dtype).eps * size
    units = binary_scale(torch.where(varies, span, size)[None], 0)[0]
    return units.expand(rows.shape[1]).clone()


def restore_domain(kind: str, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Domain:
    """Build a domain from what an artifact holds.

    Raises:
        BadInput: for an unknown kind.
    """
    parts: dict[str, Any] = {**settings, **tensors}
    if kind == "anywhere":
        return Anywhere(**settings)
    if kind == "box":
        return Box(**parts)
    if kind == "cloud":
        return Cloud(**parts)
    raise BadInput("domain", "one of anywhere, box, cloud", kind)
