"""What flows through a module's linear layers: their inputs, and the gradients of their outputs."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.hooks import RemovableHandle

from nearly.core.errors import BadInput
from nearly.core.validate import describe
from nearly.optim.step import all_finite

COMPILED = "Where the model is compiled, call torch._dynamo.reset() once the optimizer is made: hooks are compiled in."


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


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """A module's linear layers, but for those that `nn.MultiheadAttention` does not call, whose weights it reads itself."""
    found = [one for one in module.modules() if isinstance(one, nn.Linear)]
    return [one for one in found if not isinstance(one, NonDynamicallyQuantizableLinear)]


class LayerRecords:
    """Hooks on all linear layers whose weights an optimizer steps, which record what flows while gradients are recorded.

    They hold all passes since the optimizer's last step or `zero_grad`.

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
        self._watch([], linear_layers(module))
        self.extend(parameters)
        if not self._modules:
            raise BadInput("module", "one with linear layers whose weights are among params", describe(module))

    def _watch(self, modules: list[nn.Linear], others: list[nn.Linear]) -> None:
        self._modules, self._others = modules, others
        self._inputs: dict[nn.Module, list[Tensor]] = {}
        self._gradients: dict[nn.Module, list[Tensor]] = {}
        self._handles = [self._hook(one) for one in modules]
        # Layers live on after their optimizer, and would record for nobody.
        self.remove = weakref.finalize(self, _remove, self._handles)

    def _hook(self, module: nn.Linear) -> RemovableHandle:
        return module.register_forward_hook(_Hook(self), with_kwargs=True)

    def extend(self, parameters: Sequence[Tensor]) -> None:
        """Watch the layers of further parameters too."""
        stepped = {id(parameter) for parameter in parameters}
        found = [one for one in self._others if id(one.weight) in stepped]
        self._others = [one for one in self._others if id(one.weight) not in stepped]
        self._modules += found
        self._handles += [self._hook(one) for one in found]

    def __getstate__(self) -> tuple[list[nn.Linear], list[nn.Linear]]:
        return self._modules, self._others

    def __setstate__(self, kept: tuple[list[nn.Linear], list[nn.Linear]]) -> None:
        self._watch(*kept)  # a copy has hooks of its own, on the copies of the layers

    def record(self, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """What flows through one of the layers."""
        if module not in self._modules or not torch.is_grad_enabled() or not output.requires_grad:
            return
        rows = inputs.detach().reshape(-1, inputs.shape[-1])

        def keep(gradient: Tensor) -> None:
            # Both at once, so that a pass without backward leaves nothing.
            self._inputs.setdefault(module, []).append(rows)
            self._gradients.setdefault(module, []).append(gradient.detach().reshape(-1, gradient.shape[-1]))

        output.register_hook(keep)

    def layers(self) -> list[Layer]:
        """The layers that the backward passes went through, those of one weight as one."""
        alike: dict[int, list[nn.Linear]] = {}
        for one in self._modules:
            if one in self._inputs:
                alike.setdefault(id(one.weight), []).append(one)
        return [
            Layer(
                same[0],
                torch.cat([rows for one in same for rows in self._inputs[one]]),
                torch.cat([rows for one in same for rows in self._gradients[one]]),
            )
            for same in alike.values()
        ]

    def require_pass(self) -> None:
        """There was a backward pass.

        Raises:
            BadInput: otherwise.
        """
        if not self._inputs:
            raise BadInput(
                "module", "run, with backward(), between two steps", "no backward pass through its layers", COMPILED
            )

    def weights(self) -> set[int]:
        """The ids of the weights of these layers."""
        return {id(one.weight) for one in self._modules if one in self._inputs}

    def finite(self) -> bool:
        """Whether all that was recorded is."""
        alike: dict[Any, list[Tensor]] = {}
        for rows in itertools.chain(*self._inputs.values(), *self._gradients.values()):
            alike.setdefault((rows.dtype, rows.device), []).append(rows)
        return all(all_finite(parts) for parts in alike.values())

    def clear(self) -> None:
        """Forget the passes."""
        self._inputs.clear()
        self._gradients.clear()


class _Hook:
    """A forward hook that does not keep its records alive; copies, which copied layers carry, do nothing."""

    def __init__(self, records: LayerRecords | None = None) -> None:
        self._records = None if records is None else weakref.ref(records)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()  # weak references have no copies in files

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        records = None if self._records is None else self._records()
        if records is not None:
            records.record(module, inputs[0] if inputs else named["input"], output)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
