"""Threads for linear algebra: one under NumPy and SciPy, and all of torch's for batches of decompositions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from threading import Barrier
from typing import Any

import scipy.linalg.lapack
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

# Operations, n^3 for each matrix, from which waking threads takes no time: eigenvectors of a batch of as many take a millisecond.
WORTH_SHARING = 2**20


@cache
def _openblas() -> Any:
    assert scipy.linalg.lapack  # its library must be loaded to be found
    return ThreadpoolController().select(internal_api="openblas")


def one_blas_thread() -> AbstractContextManager[Any]:
    """A context in which the OpenBLAS of NumPy and SciPy runs on the caller's thread alone; torch's threads are left as they are.

    Its waiting threads spin: called on small matrices in turn with torch's they take the cores from each other (a greedy
    reduced basis on four cores took 10 s with them, 3 s without).

    Returns:
        The context.

    Example:
        >>> with one_blas_thread():
        ...     float(scipy.linalg.lapack.dpotrf([[4.0]])[0][0, 0])
        2.0
    """
    return _openblas().limit(limits=1)


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh`, of batches on CPUs with one matrix per thread, and without derivatives there.

    torch takes a batch one after the other, each matrix on all threads, which small ones have no work for (see `benchmarks/`).

    Example:
        >>> eigh(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))[0].tolist()
        [1.0, 2.0]
    """
    return _by_matrix(torch.linalg.eigh, matrices)


def svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.linalg.svd` with `full_matrices=False`, of batches on CPUs as `eigh`.

    Example:
        >>> svd(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))[1].tolist()
        [2.0, 1.0]
    """
    return _by_matrix(lambda part: torch.linalg.svd(part, full_matrices=False), matrices)


def cholesky(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.cholesky_ex`, of batches on CPUs as `eigh`.

    Example:
        >>> cholesky(torch.tensor([[4.0]]))[0].item()
        2.0
    """
    return _by_matrix(torch.linalg.cholesky_ex, matrices)


def each_part(function: Callable[[Tensor], Any], parts: Sequence[Tensor]) -> list[Any]:
    """`[function(part) for part in parts]`, on CPUs side by side with a thread for each, and without derivatives there.

    For functions of many short operations, which threads of their own would only hold up.

    Example:
        >>> each_part(lambda part: float(part.sum()), [torch.ones(2), torch.ones(3)])
        [2.0, 3.0]
    """
    if torch.get_num_threads() == 1 or len(parts) == 1:
        return [function(part) for part in parts]
    if not all(part.device.type == "cpu" and _plain(part) for part in parts):
        return [function(part) for part in parts]
    return _on_threads(function, parts)


def _plain(tensor: Tensor) -> bool:
    """Whether it is no wrapper (of `torch.func`, or of another kind), which belongs to the thread that made it."""
    return type(tensor) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _by_matrix(function: Callable[[Tensor], Any], matrices: Tensor) -> Any:
    threads, count = torch.get_num_threads(), matrices.shape[:-2].numel()
    work = count * matrices.shape[-1] * matrices.shape[-2] * min(matrices.shape[-2:])
    recorded = torch.is_grad_enabled() and matrices.requires_grad  # which belongs to the thread that made it, too
    shared = 1 < threads <= count and work >= WORTH_SHARING and matrices.device.type == "cpu"
    if recorded or not shared or not _plain(matrices):
        return function(matrices)

    flat = matrices.flatten(0, -3)
    # Workers put the parts together: torch's own threads, once woken, spin for milliseconds on the cores that are wanted.
    found = [each.new_empty(count, *each.shape[1:]) for each in function(flat[:0])]

    def put(place: slice) -> None:
        for whole, each in zip(found, function(flat[place]), strict=True):
            whole[place] = each

    width = -(-count // threads)
    _on_threads(put, [slice(start, start + width) for start in range(0, count, width)])
    return tuple(each.unflatten(0, matrices.shape[:-2]) for each in found)


def _on_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What the function makes of each, without derivatives."""
    inference = torch.is_inference_mode_enabled()

    def alone(item: Any) -> Any:
        with torch.inference_mode(inference), torch.no_grad():  # modes are each thread's own
            return function(item)

    return list(_pool(os.getpid(), torch.get_num_threads()).map(alone, items))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process (those of another do not live on in a fork of it), each with one thread for what it calls."""
    pool, all_there = ThreadPoolExecutor(threads, f"nearly-{process}"), Barrier(threads)

    def begin(_: int) -> None:
        all_there.wait()
        torch.get_num_threads()  # takes over the number that new threads begin with, which would otherwise happen later
        torch.set_num_threads(1)  # this thread's, for OpenMP and MKL, and what new threads begin with

    list(pool.map(begin, range(threads)))
    torch.set_num_threads(threads)
    return pool
