"""The pictures of a report. Each function returns a matplotlib figure, or None where the race has nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearly.core.certificate import Bound, Probable
from nearly.core.certify import predict
from nearly.core.drawing import DPI, new_figure
from nearly.core.nouns import Field, Function

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from torch import Tensor

    from nearly.core.search import Race
    from nearly.core.target import Target

AFAR = 30.0  # a tolerance this many times beyond all errors would squeeze them into a corner
# Colors of Okabe and Ito (2008), told apart by all common kinds of color vision.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8a6d3b")
MARKERS = "osD^vPX*"


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white")
    return content.getvalue()


def front(race: Race, tolerance: float | None) -> Figure | None:
    """Validation error against operations per input for all rungs of all contenders, and the certified winner."""
    assert race.winner is not None
    assert isinstance(race.winner.certificate, Probable)
    level = race.winner.certificate.error
    figure = new_figure(8, 4.6, "drawing a report")
    axes = figure.add_subplot()
    for place, contender in enumerate(race.contenders):
        rungs = sorted((r for r in contender.rungs if 0 < r.level < math.inf), key=lambda r: r.operations)
        if rungs:
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            x, y = [max(r.operations, 1) for r in rungs], [r.level for r in rungs]
            axes.plot(x, y, color=color, marker=marker, ms=6, lw=1.3, label=contender.name)
    if 0 < level < math.inf:
        operations = max(race.winner.model.operations, 1)
        label = f"certified: {race.winner.method}"
        axes.plot(operations, level, marker="*", ms=17, mfc="none", mec="black", mew=1.3, ls="none", label=label)
    if not axes.lines:
        return None
    if tolerance is not None:
        axes.axhline(tolerance, color="0.35", ls="--", lw=1.1)
        _write_at_edge(axes, tolerance, f"tolerance {tolerance:g}")
    axes.set(
        xscale="log", yscale="log", xlabel="floating-point operations per input", ylabel=f"error\n({race.winner.unit})"
    )
    axes.set_title("Cost and error of every fit in the race", loc="left")
    axes.grid(visible=True, which="major", color="0.92")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def errors(race: Race, tolerance: float | None) -> Figure | None:
    """Histogram of the errors on the fresh inputs, with the certified level, their empirical quantile, and the bounds if any."""
    assert race.winner is not None
    assert race.errors is not None
    certificate = race.winner.certificate
    assert isinstance(certificate, Probable)
    measured = race.errors.detach().double().cpu()
    shown = measured[torch.isfinite(measured) & (measured > 0)]
    if len(shown) == 0:
        return None
    bounds = race.bounds.detach().double().cpu() if race.bounds is not None else None
    everything = shown
    if bounds is not None:
        everything = torch.cat([everything, bounds[torch.isfinite(bounds) & (bounds > 0)]])
    low, high = float(everything.min()) / 1.1, float(everything.max()) * 1.1
    bins = np.geomspace(low, high, 36).tolist()
    figure = new_figure(8, 4, "drawing a report")
    axes = figure.add_subplot()
    axes.hist(
        shown.numpy(), bins=bins, color=COLORS[0], alpha=0.75, label=f"true error on {len(measured)} fresh inputs"
    )
    if bounds is not None:
        label = (
            f"its bound ({certificate.ratio_median:.3g} times, median)"
            if isinstance(certificate, Bound)
            else "its bound"
        )
        axes.hist(bounds.numpy(), bins=bins, histtype="step", color=COLORS[1], lw=1.6, label=label)
    quantile = float(shown.quantile(certificate.quantile)) if len(shown) == len(measured) else math.nan
    if math.isfinite(quantile):
        axes.axvline(
            quantile, color="0.45", ls=":", lw=1.4, label=f"their {certificate.quantile:.4g} quantile: {quantile:.3g}"
        )
    if math.isfinite(certificate.error) and certificate.error > 0:
        axes.axvline(certificate.error, color="black", lw=1.6, label=f"certified level: {certificate.error:.3g}")
    if tolerance is not None and low / AFAR < tolerance < high * AFAR:
        axes.axvline(tolerance, color=COLORS[2], ls="--", lw=1.6, label=f"tolerance: {tolerance:g}")
    elif tolerance is not None:
        axes.plot([], [], " ", label=f"tolerance: {tolerance:g}, far outside the picture")
    axes.set(xscale="log", xlabel=f"error ({race.winner.unit})", ylabel="inputs")
    axes.set_title("Errors on inputs never used before", loc="left")
    hidden = len(measured) - len(shown)
    if hidden:
        axes.annotate(
            f"{hidden} errors are zero or infinite, not shown", (0.01, 0.97), xycoords="axes fraction", va="top"
        )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def spectrum(race: Race, target: Target, tolerance: float | None) -> Figure | None:
    """Singular values of the fresh outputs, and the error of the best linear basis of each size, in the target's norm."""
    assert race.fresh is not None
    flat = race.fresh.outputs.detach().double().cpu().reshape(len(race.fresh), -1)
    if flat.shape[1] < 3 or len(flat) < 3:
        return None
    weighted = flat
    product = target.product if isinstance(target, Field) else None
    if product is not None:
        matrix = target.product_on(flat)  # type: ignore[attr-defined]
        weighted = flat * matrix if matrix.ndim == 1 else (matrix @ flat.T).T
    values = torch.linalg.eigvalsh(weighted @ flat.T).flip(0).clamp(min=0)
    # Eigenvalues of the Gram matrix carry no more than half the digits of the singular values.
    kept = int((values > values[0] * len(flat) * torch.finfo(values.dtype).eps).sum())
    singular = values.sqrt() / values[0].sqrt()
    tail = (values.flip(0).cumsum(0).flip(0) / values.sum()).sqrt()
    rank = np.arange(1, kept + 1)
    figure = new_figure(8, 4, "drawing a report")
    axes = figure.add_subplot()
    axes.semilogy(
        rank, singular[:kept].numpy(), color=COLORS[0], marker="o", ms=3, lw=1, label="singular value / the largest"
    )
    axes.semilogy(
        rank[: kept - 1],
        tail[1:kept].numpy(),
        color=COLORS[1],
        marker="s",
        ms=3,
        lw=1,
        label="root mean square error of the best linear basis of that size",
    )
    if tolerance is not None:
        axes.axhline(tolerance, color="0.35", ls="--", lw=1.1)
        _write_at_edge(axes, tolerance, f"tolerance {tolerance:g}")
    axes.set(xlabel="size of the basis", ylabel="relative to all outputs")
    axes.set_title(f"How compressible {len(flat)} fresh outputs are", loc="left")
    axes.grid(visible=True, color="0.92")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def answers(race: Race, target: Target) -> Figure | None:
    """Truth and surrogate at the best and the worst fresh input: as fields where there is a mesh or a grid, else as lines."""
    assert race.winner is not None
    assert race.fresh is not None
    assert race.errors is not None
    outputs = race.fresh.outputs.detach().cpu()
    predictions = predict(race.winner, race.fresh.inputs).detach().cpu()
    shape, width = outputs.shape[1:], outputs[0].numel()
    if width == 1:
        return _scatter(race, target, outputs.reshape(-1), predictions.reshape(-1))
    level = torch.nan_to_num(race.errors.detach().cpu(), nan=math.inf)
    chosen = [("Best", int(level.argmin())), ("Worst", int(level.argmax()))]
    draw = _painter(target, tuple(shape))
    inputs = race.fresh.inputs.detach().cpu()
    picture = draw is not None and inputs.ndim == 3
    columns = 3 + picture if draw else 2
    figure = new_figure(3.4 * columns + 0.6, 3.6 * len(chosen), "drawing a report")
    parts = figure.subfigures(len(chosen), 1, squeeze=False, hspace=0.04)[:, 0]
    for part, (what, at) in zip(parts, chosen, strict=True):
        words = f"{what} of {len(level)} fresh inputs: error {float(level[at]):.3g} ({race.winner.unit})"
        if inputs.ndim == 2 and inputs.shape[1] <= 12:
            words += "\nat (" + ", ".join(f"{value:.3g}" for value in inputs[at].tolist()) + ")"
        part.suptitle(words, fontsize="medium", x=0.01, ha="left")
        axes = part.subplots(1, columns, squeeze=False)[0]
        truth, guess = outputs[at], predictions[at]
        if draw is None:
            _lines(axes, truth.reshape(-1), guess.reshape(-1))
            continue
        if picture:
            _grid(axes[0], inputs[at], {"cmap": "cividis"})
            axes[0].set_title("input", fontsize="small")
        low, high = float(torch.minimum(truth, guess).min()), float(torch.maximum(truth, guess).max())
        scale = {"vmin": low, "vmax": high if high > low else low + 1, "cmap": "viridis"}
        off = float((guess - truth).abs().max()) or 1.0
        drawn: list[tuple[str, Tensor, dict[str, Any]]] = [
            ("truth", truth, scale),
            ("surrogate", guess, scale),
            ("surrogate − truth", guess - truth, {"vmin": -off, "vmax": off, "cmap": "RdBu_r"}),
        ]
        for axis, (title, values, style) in zip(axes[picture:], drawn, strict=True):
            draw(axis, values, style)
            axis.set_title(title, fontsize="small")
    return figure


def _painter(target: Target, shape: tuple[int, ...]) -> Callable[[Axes, Tensor, dict[str, Any]], None] | None:
    """How one output is drawn as a field, or None where it is only a vector."""
    points = target.points if isinstance(target, Field) else None
    if points is not None and points.ndim == 2 and points.shape[1] == 2 and math.prod(shape) == len(points):
        from matplotlib.tri import Triangulation

        triangles = target.triangles if isinstance(target, Field) else None
        mesh = Triangulation(points[:, 0], points[:, 1], triangles)

        def paint(axes: Axes, values: Tensor, style: dict[str, Any]) -> None:
            drawn = axes.tripcolor(mesh, values.reshape(-1).numpy(), shading="gouraud", rasterized=True, **style)
            axes.set(aspect="equal", xticks=[], yticks=[])
            axes.margins(0)
            axes.set_frame_on(False)
            _bar(axes, drawn)

        return paint
    if len(shape) == 2 and min(shape) > 1:
        return _grid
    if len(shape) == 3 and min(shape[1:]) > 1:
        return lambda axes, values, style: _grid(axes, values[0], style)
    return None


def _grid(axes: Axes, values: Tensor, style: dict[str, Any]) -> None:
    drawn = axes.imshow(values.numpy(), origin="lower", aspect="auto", interpolation="nearest", **style)
    axes.set_box_aspect(1)
    axes.tick_params(labelsize="x-small")
    axes.set_xlabel("column", fontsize="x-small")
    axes.set_ylabel("row", fontsize="x-small")
    _bar(axes, drawn)


def _bar(axes: Axes, drawn: Any) -> None:
    part: SubFigure | Figure = axes.get_figure(root=False)  # type: ignore[assignment]
    bar = part.colorbar(drawn, ax=axes, shrink=0.9, pad=0.03, aspect=24)
    bar.ax.tick_params(labelsize="x-small")
    bar.ax.yaxis.get_offset_text().set(fontsize="x-small")
    bar.outline.set_visible(False)
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]


def _lines(axes: Any, truth: Tensor, guess: Tensor) -> None:
    place = np.arange(len(truth))
    marker = {"marker": "."} if len(truth) <= 40 else {}
    axes[0].plot(place, truth.numpy(), color="0.25", lw=2.2, label="truth", **marker)
    axes[0].plot(place, guess.numpy(), color=COLORS[1], lw=1.2, ls="--", label="surrogate", **marker)
    axes[0].legend(frameon=False, fontsize="small")
    axes[0].set(ylabel="output", xlabel="entry of the output")
    axes[1].plot(place, (guess - truth).numpy(), color=COLORS[0], lw=1.2, **marker)
    axes[1].axhline(0, color="0.7", lw=0.8, zorder=0)
    axes[1].set(ylabel="surrogate − truth", xlabel="entry of the output")


def _scatter(race: Race, target: Target, truth: Tensor, guess: Tensor) -> Figure:
    assert race.fresh is not None
    inputs = race.fresh.inputs.detach().cpu()
    figure = new_figure(9, 3.9, "drawing a report")
    left, right = figure.subplots(1, 2)
    if isinstance(target, Function) and inputs.ndim == 2 and inputs.shape[1] == 1:
        order = inputs[:, 0].argsort()
        x, label = inputs[order, 0], "input"
        left.plot(x.numpy(), truth[order].numpy(), color="0.25", lw=2.2, label="truth")
        left.plot(x.numpy(), guess[order].numpy(), color=COLORS[1], lw=1.2, ls="--", label="surrogate")
        left.legend(frameon=False, fontsize="small")
        left.set(xlabel=label, ylabel="output")
    else:
        order = truth.argsort()
        x, label = truth[order], "truth"
        ends = [float(torch.minimum(truth, guess).min()), float(torch.maximum(truth, guess).max())]
        left.plot(ends, ends, color="0.7", lw=0.8, zorder=0)
        left.plot(truth.numpy(), guess.numpy(), ls="none", marker="o", ms=4, alpha=0.6, color=COLORS[0])
        left.set(xlabel="truth", ylabel="surrogate")
    right.axhline(0, color="0.7", lw=0.8, zorder=0)
    right.plot(x.numpy(), (guess - truth)[order].numpy(), ls="none", marker="o", ms=4, alpha=0.6, color=COLORS[1])
    right.set(xlabel=label, ylabel="surrogate − truth")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=6)
    figure.suptitle(f"Answers at {len(truth)} fresh inputs", x=0.01, ha="left", fontsize="medium")
    return figure


def _write_at_edge(axes: Axes, height: float, text: str) -> None:
    axes.annotate(
        text,
        (0.99, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color="0.35",
    )
