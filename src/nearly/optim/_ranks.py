"""The ranks that a tensor lies on, and means over them where each has seen rows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def groups_of(tensor: Any, process_group: ProcessGroup | None) -> list[ProcessGroup]:
    """Those over which a tensor is distributed, one for each dimension of its mesh; for any other, that which is given.

    Groups of a single rank are left out.
    """
    mesh = getattr(tensor, "device_mesh", None)
    found = [process_group] if mesh is None else mesh.get_all_groups()
    return [group for group in found if group is not None and group.size() > 1]


def first_group(tensor: Any, process_group: ProcessGroup | None) -> ProcessGroup | None:
    """The first of these, if there is any: ranks that share out what all of them hold."""
    return next(iter(groups_of(tensor, process_group)), None)


def average(tensors: Sequence[Tensor], groups: Sequence[ProcessGroup]) -> None:
    """Replace tensors by their means over the ranks of these groups, all of which call this."""
    for group in groups:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor, group=group)
            tensor.div_(group.size())
