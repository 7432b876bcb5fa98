"""What an optimizer holds between steps, and what a step takes at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer


def held_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state, whoever wrote it.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(10))
        >>> optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9)
        >>> x.sum().backward()
        >>> optimizer.step()
        >>> held_bytes(optimizer)
        40
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(optimizer.state.values()))


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes of tensors that a call holds at a time beyond those that were there before it.

    On a GPU, torch's own count of this process; on CPUs, the sum over the profiler's record of allocations and releases.

    Args:
        call: without arguments.

    Returns:
        Bytes.

    Example:
        >>> peak_bytes(lambda: torch.ones(1000) + torch.ones(1000)) // 1000
        12
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    results = record.profiler.kineto_results
    moves = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(moves, key=lambda move: move[0]):
        held += change
        most = max(most, held)
    return most
