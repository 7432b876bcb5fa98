"""Scaling of inputs: one fitted affine map from raw inputs, of any size and unit, to a few coordinates near [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor
    from torch.nn import Module

WIDE = 32  # inputs of more numbers than this are fields; they are reduced to principal axes
MOST_AXES = 64
ENERGY = 1e-3  # share of the inputs' variance that may be left out of the axes
LOG_RATIO = 10.0  # positive coordinates that spread over more than this factor may be taken in logarithms


def fit_features(inputs: Float[Tensor, "n ..."]) -> dict[str, Tensor]:
    """Fit the scaling `x -> ((log) x - shift) / scale [@ axes]`.

    Vectors are shifted and scaled coordinate by coordinate to the midpoint and half-range of the rows; positive coordinates that
    spread over more than a factor 10, and more evenly so in logarithms, are taken in logarithms. Inputs of more than 32 numbers
    are taken as fields: centered, scaled by one number, and reduced to the principal axes that hold 99.9% of their variance.

    Args:
        inputs: finite rows.

    Returns:
        The tensors that `apply_features` takes.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [100.0, 2.0]])
        >>> apply_features(x, **fit_features(x)).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    rows = inputs.reshape(inputs.shape[0], -1)
    rows = rows if rows.is_floating_point() else rows.to(torch.float64)
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    tiny = torch.finfo(rows.dtype).tiny
    logarithms = rows.clamp(min=tiny).log()
    log = (low > 0) & (high > LOG_RATIO * low) & (_lopsided(logarithms) < _lopsided(rows))
    if rows.shape[1] > WIDE:
        log &= bool(log.all())  # neighboring values of one field share one scale
    rows = torch.where(log, logarithms, rows)
    if rows.shape[1] <= WIDE:
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        half = (high - low) / 2
        scale = torch.where(half > 0, half, torch.ones_like(half))
        axes = torch.zeros(0, 0, dtype=rows.dtype, device=rows.device)
        return {
            "feature_log": some(log),
            "feature_shift": (high + low) / 2,
            "feature_scale": scale,
            "feature_axes": axes,
        }
    shift = rows.mean(dim=0)
    _, singular, axes = torch.linalg.svd(rows - shift, full_matrices=False)
    energy = (singular / singular[0].clamp(min=tiny)).square().cumsum(dim=0)
    energy = energy / energy[-1].clamp(min=tiny)
    kept = min(MOST_AXES, int((energy < 1 - ENERGY).sum()) + 1)
    rounding = torch.finfo(rows.dtype).eps * rows.abs().max() * rows.numel() ** 0.5
    scale = torch.where(singular[0] > rounding, singular[0] / len(rows) ** 0.5, 1.0)  # 1 where all rows are one
    scale = scale.expand(rows.shape[1]).clone()
    return {
        "feature_log": some(log),
        "feature_shift": shift,
        "feature_scale": scale,
        "feature_axes": axes[:kept].T.contiguous(),
    }


def some(log: Bool[Tensor, " d"]) -> Bool[Tensor, " k"]:
    """The flags, or none where none is set: shapes can be branched on without a look at data, also by `torch.export`.

    Example:
        >>> some(torch.tensor([False, True])).tolist(), some(torch.tensor([False, False])).tolist()
        ([False, True], [])
    """
    return log if bool(log.any()) else log[:0]


def _lopsided(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """How far the median is from the middle of the range, in units of the range."""
    low, high = rows.amin(dim=0), rows.amax(dim=0)
    span = (high - low).clamp(min=torch.finfo(rows.dtype).tiny)
    return ((rows.median(dim=0).values - low) / span - 0.5).abs()


def apply_features(
    inputs: Float[Tensor, "n ..."],
    *,
    feature_log: Tensor,
    feature_shift: Tensor,
    feature_scale: Tensor,
    feature_axes: Tensor,
) -> Float[Tensor, "n k"]:
    """Map inputs to features; inputs that are not positive where logarithms are taken are clamped to the smallest number."""
    rows = inputs.reshape(inputs.shape[0], feature_shift.numel()).to(feature_shift)
    if feature_log.numel():
        rows = torch.where(feature_log, rows.clamp(min=torch.finfo(rows.dtype).tiny).log(), rows)
    scaled = (rows - feature_shift) / feature_scale
    return scaled @ feature_axes if feature_axes.numel() else scaled


def features_of(model: Module, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
    """Features by the tensors of `fit_features` that a module holds as buffers."""
    names = ("feature_log", "feature_shift", "feature_scale", "feature_axes")
    return apply_features(inputs, **{name: model.get_buffer(name) for name in names})
