"""What flows through a module's linear layers: their inputs, and the gradients of their outputs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nearly.core.errors import BadInput
from nearly.core.validate import describe


@dataclass(frozen=True)
class Layer:
    """A linear layer after a backward pass.

    Attributes:
        module: with `weight` (outputs, inputs) and `bias` or None.
        inputs: shape (rows, inputs), one row for each row of the batch and place in it.
        output_gradients: of the loss, shape (rows, outputs); a loss that is a mean over N rows has the rows' own, over N.
    """

    module: nn.Linear
    inputs: Tensor
    output_gradients: Tensor


class LayerRecords:
    """Hooks on all linear layers whose weights an optimizer steps; they record while gradients are recorded, and hold one pass.

    Args:
        module: the model.
        parameters: of the optimizer.
        member: for messages.

    Raises:
        BadInput: without a module that has such layers.
    """

    def __init__(self, module: nn.Module | None, parameters: Sequence[Tensor], member: str) -> None:
        if not isinstance(module, nn.Module):
            advice = f"Write {member}(model.parameters(), module=model)."
            raise BadInput("module", "the model whose layers are recorded", describe(module), advice)
        stepped = {id(parameter) for parameter in parameters}
        modules = [one for one in module.modules() if isinstance(one, nn.Linear) and id(one.weight) in stepped]
        if not modules:
            raise BadInput("module", "one with linear layers whose weights are among params", describe(module))
        self._watch(modules)

    def _watch(self, modules: list[nn.Linear]) -> None:
        self._modules = modules
        self._inputs: dict[nn.Module, list[Tensor]] = {}
        self._gradients: dict[nn.Module, list[Tensor]] = {}
        handles = [one.register_forward_hook(_Hook(self)) for one in modules]
        # Layers live on after their optimizer, and would record for nobody.
        self.remove = weakref.finalize(self, _remove, handles)

    def __getstate__(self) -> list[nn.Linear]:
        return self._modules

    def __setstate__(self, modules: list[nn.Linear]) -> None:
        self._watch(modules)  # a copy has hooks of its own, on the copies of the layers

    def record(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """What flows through one of the layers; a hook of `torch.nn.Module`."""
        if module not in self._modules or not torch.is_grad_enabled() or not output.requires_grad:
            return
        rows = inputs[0].detach().flatten(0, -2)

        def keep(gradient: Tensor) -> None:
            # Both at once, so that a pass without backward leaves nothing.
            self._inputs.setdefault(module, []).append(rows)
            self._gradients.setdefault(module, []).append(gradient.detach().flatten(0, -2))

        output.register_hook(keep)

    def layers(self) -> list[Layer]:
        """The layers that the backward passes since the last step went through.

        Raises:
            BadInput: where there was none.
        """
        live = [one for one in self._modules if one in self._inputs]
        if not live:
            raise BadInput("module", "run, with backward(), between two steps", "no backward pass through its layers")
        return [Layer(one, torch.cat(self._inputs[one]), torch.cat(self._gradients[one])) for one in live]

    def clear(self) -> None:
        """Forget the pass."""
        self._inputs.clear()
        self._gradients.clear()


class _Hook:
    """A forward hook that does not keep its records alive; copies, which copied layers carry, do nothing."""

    def __init__(self, records: LayerRecords) -> None:
        self._records = weakref.ref(records)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        records = self._records()
        if records is not None:
            records.record(module, inputs, output)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
