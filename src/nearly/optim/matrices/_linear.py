"""What members for the weights of linear layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from nearly.optim._vectors import wide
from nearly.optim.optimizer import Optimizer, Options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from nearly.optim.step import Step


class LinearOptimizer(Optimizer):
    """Takes the weights of the module's linear layers; all other parameters are stepped by AdamW (`rest`)."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        module = options.get("module")
        found = (
            module.modules() if isinstance(module, nn.Module) else ()
        )  # what is none is refused when layers are recorded
        self._weights = frozenset(id(one.weight) for one in found if isinstance(one, nn.Linear))
        super().__init__(params, defaults, **options)

    def takes(self, parameter: Tensor) -> bool:
        """Weights of linear layers."""
        return id(parameter) in self._weights


def rows(step: Step) -> list[tuple[int, Tensor, Tensor]]:
    """Places among the step's parameters with their layers' inputs, and with gradients of their outputs as of a sum over rows.

    Layers that the pass did not go through are left out. A loss that is a mean over N rows has 1 / N of each row's gradient:
    times N is what the Fisher information is made of.
    """
    places = {id(parameter): place for place, parameter in enumerate(step.parameters)}
    found = []
    for layer in step.layers():
        if id(layer.module.weight) in places:
            kind = wide(layer.inputs.dtype)
            gradients = layer.output_gradients.to(kind) * len(layer.inputs)
            found.append((places[id(layer.module.weight)], layer.inputs.to(kind), gradients))
    return found


def square(side: int, start: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Makes a multiple of the identity for a parameter's outputs (side 0) or inputs (side 1), in single precision at least."""

    def make(parameter: Tensor) -> Tensor:
        return start * torch.eye(parameter.shape[side], dtype=wide(parameter.dtype), device=parameter.device)

    return make


def average(tensors: Sequence[Tensor], group: ProcessGroup | None) -> None:
    """Replace tensors by their means over ranks, each of which has seen its own rows."""
    if group is not None and group.size() > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor, group=group)
        torch._foreach_div_(list(tensors), group.size())
