"""What members for the weights of linear layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.optim._layers import COMPILED, linear_layers
from nearly.optim._matrices import gathered
from nearly.optim._vectors import wide
from nearly.optim.optimizer import Optimizer, Options

if TYPE_CHECKING:
    from nearly.optim.step import Ask, Step


class LinearOptimizer(Optimizer):
    """Takes the weights of the module's linear layers; all other parameters are stepped by AdamW (`rest`)."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        module = options.get("module")
        # What is none is refused when layers are recorded.
        found = linear_layers(module) if isinstance(module, nn.Module) else []
        self._linear = found
        super().__init__(params, defaults, **options)

    def takes(self, parameter: Tensor) -> bool:
        """Weights of linear layers."""
        return any(one.weight is parameter for one in self._linear)

    def _finite(self, steps: list[Step], ask: Ask) -> bool:
        own = [step for step in steps if not step.group["rest"]]
        assert self._layers is not None
        passed = self._layers.weights()
        if not passed and any(_moving(one) for step in own for one in step.parameters):
            self._layers.require_pass()
        for step in own:
            uncalled = [one for one in step.parameters if step.number == 1 and id(one) not in passed]
            missing = [one for one in uncalled if _moving(one)]
            if missing:
                requirement = "called, for each linear layer whose weight has a gradient"
                advice = f"Give weights that are used in other ways in a group with 'rest': True. {COMPILED}"
                raise BadInput("module", requirement, f"no call of that of {self._name(missing[0])}", advice)
        looks = [step.group["nonfinite"] for step in own if step.group["nonfinite"] != "ignore"]
        if looks and not self._layers.finite():
            if looks[0] == "skip":
                return False
            raise BadInput("gradients of the layers' outputs", "finite, as their inputs", "NaN or infinite entries")
        return super()._finite(steps, ask)


def _moving(parameter: Tensor) -> bool:
    """Whether its gradient is not zero, as it is for layers not called, and where checkpoints are made room for."""
    return parameter.grad is not None and bool(gathered(parameter.grad.any()))


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
