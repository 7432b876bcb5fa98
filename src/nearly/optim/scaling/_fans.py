"""Which dimensions of a module's parameters count outputs and inputs, and how much larger they are than a base's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nearly.core.errors import BadInput
from nearly.core.validate import describe

Axes = tuple[int, int | None]  # where a parameter's outputs and its inputs are counted; None: each output has one input
Reading = tuple[Axes | None, bool]  # axes (None: not known), and whether the parameter is drawn anew

_ROWS_BY_INPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_INPUTS_BY_ROWS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
# The layers' own, and not those that old-style hooks and subclasses add, such as `weight_g` or a gain.
_OWN = re.compile(r"(weight|bias)(_[ih]h)?(_(ih|hh|hr)_l\d+(_reverse)?)?|(in|q|k|v)_proj_(weight|bias)")


def matching_shapes(model: nn.Module, base: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the base's parameters, by the names that they share with the model's.

    Raises:
        BadInput: where names or numbers of dimensions differ, or lazy layers have no shapes yet.
    """
    for role, module in (("model", model), ("base", base)):
        lazy = [name for name, parameter in module.named_parameters() if is_lazy(parameter)]
        if lazy:
            advice = "Call the module once on a batch."
            raise BadInput(f"{role}.{lazy[0]}", "initialized", "a parameter of a lazy layer", advice)
    shapes = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    own = dict(model.named_parameters())
    odd = sorted(own.keys() ^ shapes.keys())
    if odd:
        raise BadInput("base", "of the model's architecture, with the same parameter names", f"{odd[0]!r} in one alone")
    for name, parameter in own.items():
        if parameter.ndim != len(shapes[name]):
            raise BadInput(f"base.{name}", f"{parameter.ndim}-dimensional as the model's", f"shape {shapes[name]}")
    return shapes


def readings_of(model: nn.Module, given: Mapping[str, Axes]) -> dict[str, Reading]:
    """Per parameter: its axes (None: not known), and whether it is drawn anew.

    Raises:
        BadInput: for axes of no parameter or outside its dimensions, and weights shared by layers that read them differently.
    """
    readings: dict[str, Reading] = {}
    seen: dict[Tensor, str] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            first = seen.setdefault(parameter, name)
            reading = (given[first], parameter.ndim > 1) if first in given else _reading(module, leaf, parameter)
            if readings.setdefault(first, reading) != reading:
                requirement = "given for a weight that two layers read differently"
                raise BadInput(f"axes[{first!r}]", requirement, f"nothing, and {name!r} is the same weight", _TIED)
    dimensions = {name: parameter.ndim for parameter, name in seen.items()}
    for name, axes in given.items():
        if name not in dimensions:
            raise BadInput("axes", "of the model's parameters", repr(name))
        outputs, inputs = axes
        if outputs == inputs or not {outputs, inputs} <= {None, *range(dimensions[name])} or outputs is None:
            requirement = f"(outputs, inputs or None), different and below {dimensions[name]}"
            raise BadInput(f"axes[{name!r}]", requirement, axes)
    return readings


_TIED = "For an embedding that is also the readout give (1, None), and divide the logits by the ratio of widths."


def _reading(module: nn.Module, leaf: str, parameter: Tensor) -> Reading:
    known = isinstance(module, (*_ROWS_BY_INPUTS, *_INPUTS_BY_ROWS, *_TABLES)) and _OWN.fullmatch(leaf) is not None
    if parameter.ndim < 2:
        return (0, None), known
    if leaf in {"bias_k", "bias_v"}:  # of nn.MultiheadAttention: one further key, one further value
        return (parameter.ndim - 1, None), False
    # Of a transposed convolution in groups no dimension counts the inputs of one output.
    if not known or (isinstance(module, _INPUTS_BY_ROWS) and module.groups > 1):
        return None, False
    if isinstance(module, _TABLES):
        return (1, None), True
    return ((1, 0) if isinstance(module, _INPUTS_BY_ROWS) else (0, 1)), True


def fan_ratios(name: str, parameter: Tensor, shape: tuple[int, ...], reading: Reading) -> tuple[float, float, float]:
    """Fan-out, fan-in and the larger of them, each over the base's.

    Raises:
        BadInput: where axes are needed, or do not cover the dimensions that differ.
    """
    axes = reading[0]
    wide = {axis for axis, (own, other) in enumerate(zip(parameter.shape, shape, strict=True)) if own != other}
    if axes is None and wide:
        requirement = "given: which dimension counts outputs, and which inputs (or None)"
        raise BadInput(f"axes[{name!r}]", requirement, f"nothing, for {describe(parameter)}")
    if axes is None or not wide:
        return 1.0, 1.0, 1.0
    if not wide <= set(axes):
        raise BadInput(f"axes[{name!r}]", f"all dimensions that differ, {sorted(wide)}", axes)
    mine, base = (fans(sizes, axes) for sizes in (tuple(parameter.shape), shape))
    return mine[0] / base[0], mine[1] / base[1], max(mine) / max(base)


def fans(shape: tuple[int, ...], axes: Axes) -> tuple[int, int]:
    """Fan-out and fan-in, the latter with the kernel behind both axes."""
    outputs, inputs = axes
    return shape[outputs], 1 if inputs is None else shape[inputs] * math.prod(shape[max(outputs, inputs) + 1 :])
