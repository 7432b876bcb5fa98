"""Saved states of optimizers: which may be taken up, and taken up as they were."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import describe

if TYPE_CHECKING:
    import torch


def require_same(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], member: str) -> None:
    """Refuse the state of another member, or of parameters in other groups or of other shapes.

    Raises:
        BadInput: naming what differs.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise BadInput("state_dict", "what an optimizer's state_dict() returns", describe(state_dict))
    saved = state_dict["param_groups"]
    if len(saved) != len(groups):
        raise BadInput("state_dict", f"of {len(groups)} parameter groups", len(saved))
    for place, (theirs, ours) in enumerate(zip(saved, groups, strict=True)):
        if theirs.get("member") != ours["member"] or theirs.get("rest") != ours["rest"]:
            raise BadInput("state_dict", f"of the member {member}", theirs.get("member", "one of another library"))
        shapes = [tuple(shape) for shape in theirs["shapes"]]
        if shapes != ours["shapes"]:
            raise BadInput("state_dict", f"of parameters of shapes {ours['shapes']} in group {place}", shapes)


def restore(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Tensors of the state as they were saved, on their parameters' devices: torch would cast codes and indices to floats."""
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    ours = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in zip(saved, ours, strict=True):
        for name, value in state_dict["state"].get(index, {}).items():
            optimizer.state[parameter][name] = (
                value.to(parameter.device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
            )
    for group, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        group["shapes"] = [tuple(shape) for shape in theirs["shapes"]]
