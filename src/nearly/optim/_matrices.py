"""Parameters as matrices: equal shapes in one batch, shared out over ranks where several hold the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.optim._ranks import first_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor as a matrix, the first side against all others (a convolution's outputs against its inputs and places)."""
    return tensor if tensor.ndim == 2 else tensor.reshape(len(tensor), -1)


def each_matrix(
    function: Callable[..., Tensor],
    *operands: Sequence[Tensor],
    process_group: ProcessGroup | None = None,
) -> list[Tensor]:
    """Apply a function of batches of matrices (k, m, n), one batch for each shape that occurs.

    Distributed tensors are gathered, and the results distributed likewise; the batch is then shared out over the ranks of their
    mesh, or of `process_group`, so that each rank works on its share of the matrices and receives the others' results.

    Args:
        function: of as many batches as there are operands, to results of the first one's shape.
        operands: lists of tensors of at least two dimensions; those at one place belong together.
        process_group: ranks that all call this with equal tensors.

    Returns:
        Results in the first operand's shapes.

    Example:
        >>> [one.tolist() for one in each_matrix(lambda x: 2 * x, [torch.ones(1, 2), torch.ones(2, 1)])]
        [[[2.0, 2.0]], [[2.0], [2.0]]]
    """
    whole = [[as_matrix(gathered(tensor)) for tensor in operand] for operand in operands]
    alike: dict[tuple[torch.Size, ...], list[int]] = {}
    for i, parts in enumerate(zip(*whole, strict=True)):
        alike.setdefault(tuple(part.shape for part in parts), []).append(i)
    results: list[Tensor] = [operands[0][0]] * len(operands[0])
    for places in alike.values():
        batches = [
            operand[places[0]][None] if len(places) == 1 else torch.stack([operand[i] for i in places])
            for operand in whole
        ]
        group = first_group(operands[0][places[0]], process_group)
        for i, result in zip(places, _shared(function, batches, group), strict=True):
            results[i] = spread_like(result, operands[0][i])
    return results


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a distributed tensor; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def spread_like(result: Tensor, tensor: Any) -> Tensor:
    """A whole result in a tensor's shape, distributed as that is."""
    result = result.reshape(tensor.shape)
    if not hasattr(tensor, "full_tensor"):
        return result
    from torch.distributed.tensor import distribute_tensor

    # All ranks hold the whole result already: no rank has to send its shards.
    return distribute_tensor(result, tensor.device_mesh, tensor.placements, src_data_rank=None)


def _shared(function: Callable[..., Tensor], batches: list[Tensor], group: ProcessGroup | None) -> Tensor:
    if group is None or group.size() == 1:
        return function(*batches)
    count, ranks = len(batches[0]), group.size()
    share = -(-count // ranks)
    # The last ranks repeat the last matrix where the count is no multiple of theirs.
    mine = torch.arange(group.rank() * share, (group.rank() + 1) * share).clamp(max=count - 1)
    part = function(*(batch[mine.to(batch.device)] for batch in batches)).contiguous()
    gathered = part.new_empty(ranks * share, *part.shape[1:])
    _all_gather()(gathered, part, group=group)
    return gathered[:count]


def _all_gather() -> Callable[..., object]:
    # Its new name came with torch 2.13, which warns of the old one.
    found = getattr(torch.distributed, "all_gather_single", None)
    return found or torch.distributed.all_gather_into_tensor
