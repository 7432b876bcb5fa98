"""What all time steppers ask of their arguments, and the scales in which they measure errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.calculus._evaluations import Pure
from nearly.core.errors import BadInput
from nearly.core.validate import as_floating, describe

if TYPE_CHECKING:
    from jaxtyping import Float

Field = Callable[[Tensor, Tensor], Tensor]


class CountedField:
    """A field that checks what comes out of it and counts its evaluations.

    Args:
        field: maps a time and a state to the state's derivative.
        like: a state.

    Raises:
        BadInput: where it is no function, works in place, or its value is no tensor of the state's shape and dtype.
    """

    def __init__(self, field: Field, like: Tensor) -> None:
        if not callable(field):
            raise BadInput("field", "a function of time and state", describe(field))
        self.field, self.like, self.count = Pure("field", field, 1), like, 0

    def __call__(self, time: float, state: Tensor) -> Tensor:
        """The derivative, with the time as a tensor of no dimensions.

        Raises:
            BadInput: where it is no tensor of the state's shape and dtype, or the field works in place.
        """
        self.count += 1
        value = self.field(self.clock(time), state)
        if not isinstance(value, Tensor) or value.shape != self.like.shape or value.dtype != self.like.dtype:
            raise BadInput("field", f"a function whose value is {describe(self.like)}, as its state", describe(value))
        return value

    def clock(self, time: float) -> Tensor:
        """The time as the field takes it."""
        return torch.full((), time, dtype=self.like.real.dtype, device=self.like.device)


def as_state(name: str, value: Any, *, complex_too: bool = False) -> Tensor:
    """States, real or, where wanted, complex: finite, non-empty, of one dimension or more.

    Raises:
        BadInput: otherwise.
    """
    state = as_floating(name, value, complex_too=complex_too)
    if state.ndim == 0:
        raise BadInput(name, "at least 1-dimensional (last dimension: the components)", describe(state))
    return state


def as_times(times: Any, *, least: int = 2) -> list[float]:
    """Times as Python's numbers, which keep double precision whatever the state's is.

    Raises:
        BadInput: unless there are enough, all finite, in strictly increasing or decreasing order.
    """
    tensor = as_floating("times", times, dimensions=1).detach()
    gaps = tensor.diff()
    if len(tensor) < least or not (bool((gaps > 0).all()) or bool((gaps < 0).all())):
        raise BadInput("times", f"{least} or more, strictly increasing or strictly decreasing", describe(tensor))
    return [float(time) for time in tensor.tolist()]


def error_scale(initial: Tensor, scale: float | None) -> Float[Tensor, "*batch 1"]:
    """The size below which errors count absolutely: as given, or the initial state's largest entry (1 where that is 0)."""
    if scale is not None:
        return torch.full_like(initial[..., :1].real, scale)
    size = initial.detach().abs().amax(dim=-1, keepdim=True)
    return torch.where(size > 0, size, 1.0)


def scaled_error(
    error: Tensor, before: Tensor, after: Tensor, scale: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch"]:
    """Root mean square over the components of `|error| / (scale + max(|before|, |after|))`."""
    weight = scale + torch.maximum(before.abs(), after.abs())
    return torch.linalg.vector_norm(error / weight, dim=-1) / error.shape[-1] ** 0.5
