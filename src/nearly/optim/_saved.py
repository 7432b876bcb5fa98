"""Saved states of optimizers: which may be taken up, and taken up as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.optim._vectors import wide

if TYPE_CHECKING:
    from nearly.optim.optimizer import Optimizer


@contextmanager
def restoring(optimizer: Optimizer) -> Iterator[None]:
    """While torch takes up a state: it is checked behind the user's hooks, which may change it, and restored before later ones."""
    taken: dict[str, Any] = {}

    def check(_: object, given: dict[str, Any]) -> None:
        _require_same(given, optimizer.param_groups, type(optimizer).__name__)
        taken.update(given)

    hooks = [
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(lambda _: _restore(optimizer, taken), prepend=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_same(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], member: str) -> None:
    """Refuse the state of another member, of parameters in other groups or of other shapes, or in a precision far above theirs.

    Raises:
        BadInput: naming what differs.
    """
    if not {"state", "param_groups"} <= state_dict.keys():
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
        for kind, parameter in zip(_dtypes(theirs, ours["params"]), ours["params"], strict=True):
            # What was kept in single precision may be meant to stay in it, or not: nothing tells.
            if kind == wide(kind) and parameter.dtype != wide(parameter.dtype):
                raise BadInput("state_dict", f"of parameters in half precision, as those of group {place}", kind)


def _restore(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """The state as it was saved, on its parameters' devices: torch would cast codes and indices to floats."""
    groups = list(zip(state_dict["param_groups"], optimizer.param_groups, strict=True))
    for theirs, ours in groups:
        kinds = _dtypes(theirs, ours["params"])
        for index, parameter, kind in zip(theirs["params"], ours["params"], kinds, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                optimizer.state[parameter][name] = _taken_up(value, parameter, kind)
        ours["shapes"] = [tuple(shape) for shape in theirs["shapes"]]


def _dtypes(group: Mapping[str, Any], parameters: Sequence[Tensor]) -> list[torch.dtype]:
    """Of the parameters when the state was saved; as now, where it does not tell.

    Raises:
        BadInput: where it tells something else.
    """
    names = group.get("dtypes")
    if names is None:
        return [one.dtype for one in parameters]
    found = [kind for name in names if isinstance(kind := getattr(torch, str(name), None), torch.dtype)]
    if not len(found) == len(names) == len(parameters):
        raise BadInput("state_dict", "with one dtype for each parameter", names)
    return found


def _taken_up(value: Any, parameter: Tensor, kind: torch.dtype) -> Any:
    """A copy; of a tensor on the parameter's device, in its precision, or the wider one, where it was in that of the saved one."""
    if isinstance(value, dict):
        return {name: _taken_up(one, parameter, kind) for name, one in value.items()}
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    dtype = value.dtype
    if kind != parameter.dtype and value.is_floating_point():
        dtype = parameter.dtype if dtype == kind else wide(parameter.dtype)
    return value.to(parameter.device, dtype, copy=True)
