"""Lists of tensors as one vector, for members that step all parameters together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearly.optim._matrices import gathered, spread_like

if TYPE_CHECKING:
    from nearly.optim.step import Step


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums over all parameters are taken: single at least."""
    return torch.promote_types(dtype, torch.float32)


def dots(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Inner products, tensor by tensor, in single precision at least.

    Example:
        >>> dots([torch.ones(2), torch.ones(3)], [torch.ones(2), 2 * torch.ones(3)])
        tensor([2., 6.])
    """
    kind = wide(first[0].dtype)
    # Of distributed tensors every rank sums its own part.
    return torch.stack([gathered((a.to(kind) * b.to(kind)).sum()) for a, b in zip(first, second, strict=True)])


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in one vector, in single precision at least; those of distributed tensors on every rank."""
    return torch.cat([gathered(tensor).flatten() for tensor in tensors]).to(wide(tensors[0].dtype))


def parts(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector's parts in the shapes and dtypes of these tensors, distributed as they are.

    Example:
        >>> [one.tolist() for one in parts(torch.arange(3.0), [torch.ones(2), torch.ones(1, 1)])]
        [[0.0, 1.0], [[2.0]]]
    """
    pieces = vector.split([tensor.numel() for tensor in like])
    return [spread_like(piece.to(tensor.dtype), tensor) for piece, tensor in zip(pieces, like, strict=True)]


def scaled(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """The tensors times one number, in their dtype."""
    return list(torch._foreach_mul(list(tensors), factor.to(tensors[0].dtype)))


def safe_ratio(above: Tensor, below: Tensor) -> Tensor:
    """A quotient that is 0 where the divisor is."""
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))


def put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into tensors; one by one, as distributed ones have no joint operation for it."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def elsewhere(step: Step, updates: Sequence[Tensor], rate: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients where these updates would take the parameters, which stay where they are."""
    saved = [parameter.clone() for parameter in step.parameters]
    torch._foreach_add_(step.parameters, list(updates), alpha=-rate)
    loss, gradients = step.evaluate()
    put(step.parameters, saved)
    return loss, gradients
