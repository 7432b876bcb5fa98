"""Closures that show a model's outputs beside the loss of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.core.validate import describe

TARGET_CLOSURE = (
    "def closure():\n    outputs = model(inputs)\n    return outputs, lambda outputs: loss_function(outputs, targets)\n"
    "optimizer.step(closure)"
)


class Targets:
    """A closure that returns outputs and the function whose value at them is the loss; called, it returns the loss.

    Args:
        closure: see above.
        member: for messages.

    Attributes:
        outputs: of the last call, with their graph.
        function: of the last call.
    """

    def __init__(self, closure: Callable[[], Any], member: str) -> None:
        self.closure, self.member = closure, member
        self.outputs: Tensor
        self.function: Callable[[Tensor], Tensor]

    def __call__(self) -> Tensor:
        """The loss, with its graph.

        Raises:
            BadInput: where the closure returns anything else.
        """
        self.read()
        return self.function(self.outputs)

    def read(self) -> Tensor:
        """The outputs alone, anew.

        Raises:
            BadInput: as above.
        """
        found = self.closure()
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Tensor) and callable(found[1])):
            requirement = f"one that returns the model's outputs and a function of them, as {self.member} asks for both"
            raise BadInput("closure", requirement, describe(found), f"Write\n{TARGET_CLOSURE}")
        self.outputs, self.function = found
        return self.outputs

    def gauss_newton(self, vectors: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
        """J' D J v at the last call's outputs: J their derivatives by the parameters, D the loss's second ones by them."""
        flags: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        with torch.enable_grad():
            free = torch.zeros_like(self.outputs, requires_grad=True)
            pulled = torch.autograd.grad(self.outputs, parameters, free, create_graph=True, **flags)
            live = [i for i, part in enumerate(pulled) if part.requires_grad]
            (moved,) = torch.autograd.grad([pulled[i] for i in live], free, [vectors[i] for i in live], **flags)
            leaf = self.outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.function(leaf), leaf, create_graph=True)
            (bent,) = torch.autograd.grad(slope, leaf, moved, **flags)
            return list(torch.autograd.grad(self.outputs, parameters, bent, **flags))
