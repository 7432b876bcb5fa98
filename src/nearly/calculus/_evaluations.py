"""What is asked of functions that are evaluated, or differentiated, more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nearly.core.errors import BadInput

ONCE = once_differentiable(lambda context: None).__code__  # of all backward passes that are marked so


class Pure:
    """A function that is checked to work in place neither on its state nor on what it returned before, which callers still need.

    Args:
        name: of the argument, for the message.
        function: it.
        place: of the state among its arguments.

    Raises:
        BadInput: at a call, where it does.
    """

    def __init__(self, name: str, function: Callable[..., Any], place: int = 0) -> None:
        self.name, self.function, self.place = name, function, place
        self.last, self.changes = None, 0

    def __call__(self, *args: Any) -> Any:
        """Its value.

        Raises:
            BadInput: where it works in place.
        """
        state = args[self.place]
        before = _changes(state)
        value = self.function(*args)
        if _changes(state) != before or _changes(self.last) != self.changes:
            raise BadInput(
                self.name,
                "a function that changes neither its state nor what it returned before",
                "one that works in place",
            )
        self.last, self.changes = value, _changes(value)
        return value


def _changes(value: Any) -> int:
    """How often a tensor was changed in place, as far as torch counts it."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Functions that draw from torch's global state, as dropout does, draw the same here each time; the state is put back."""
    # As `torch.random.fork_rng` and `torch.manual_seed` do, in a tenth of their time.
    sources = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    states = [source.get_state() for source in sources]
    try:
        for source in sources:
            source.manual_seed(seed)
        yield
    finally:
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)


def require_twice(name: str, outputs: Sequence[Tensor]) -> None:
    """Raise where outputs are made of a function that is differentiable once: torch may take its second derivatives for zero.

    Raises:
        BadInput: there.
    """
    for node in _operations(outputs):
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if getattr(backward, "__code__", None) is ONCE:
            raise BadInput(name, "one with second derivatives", f"one that is made of {node.name()}, which has none")


def require_curvature(name: str, outputs: Sequence[Tensor]) -> None:
    """Raise where second derivatives are missing, as `require_twice` does, or those of an operation of torch are wrong.

    With torch 2.13.0 those of `weight_norm` on CPUs are: Hessians through it are not symmetric.

    Raises:
        BadInput: there.
    """
    require_twice(name, outputs)
    on_host = any(output.device.type == "cpu" for output in outputs)
    if on_host and any(node.name() == "WeightNormInterfaceBackward0" for node in _operations(outputs)):
        raise BadInput(
            name,
            "one with true second derivatives",
            "one that is made of torch's weight_norm, whose are wrong on CPUs",
            "Take gauss_newton or fisher, or write g * v / v.norm().",
        )


def takes_batches(outputs: Sequence[Tensor]) -> bool:
    """Whether torch's derivatives for many weights at once are those for each, for all that outputs are made of.

    With torch 2.13.0 second derivatives of affine `group_norm` are wrong for some shapes, and refused for most.
    """
    return not any(node.name() == "NativeGroupNormBackward0" for node in _operations(outputs))


def _operations(outputs: Sequence[Tensor]) -> Iterator[Any]:
    """All that autograd has recorded of outputs."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        ahead = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= ahead
        waiting += ahead
