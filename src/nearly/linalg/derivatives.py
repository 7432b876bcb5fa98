"""What backward passes that are written by hand share."""

from __future__ import annotations

import torch
from torch.autograd.forward_ad import unpack_dual

from nearly.core.errors import BadInput


def asked(*tensors: torch.Tensor) -> bool:
    """Whether derivatives by any of these are recorded: backward ones, or forward ones, which `torch.no_grad` does not end.

    Example:
        >>> asked(torch.ones(1)), asked(torch.ones(1), torch.ones(1, requires_grad=True))
        (False, True)
    """
    backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    dense = (tensor for tensor in tensors if tensor.layout == torch.strided)  # sparse ones hold no tangents
    return backward or any(unpack_dual(tensor).tangent is not None for tensor in dense)


def first_only(what: str) -> None:
    """To be called in a backward pass whose result would be a constant to a second one.

    `torch.autograd.function.once_differentiable` does not notice where the incoming gradient is a constant, as that of a sum is.

    Raises:
        BadInput: where a graph of the backward pass is asked for.

    Example:
        >>> with torch.no_grad():  # as in a backward pass without create_graph=
        ...     first_only("implicit solutions")
    """
    if torch.is_grad_enabled():
        raise BadInput("create_graph", f"False: {what} have first derivatives only", True)
