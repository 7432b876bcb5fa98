"""Threads for linear algebra: one under NumPy and SciPy, and all of torch's for batches of decompositions."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
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
    return _shared(torch.linalg.eigh, matrices)


def svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.linalg.svd` with `full_matrices=False`, of batches on CPUs as `eigh`.

    Example:
        >>> svd(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))[1].tolist()
        [2.0, 1.0]
    """
    return _shared(lambda part: torch.linalg.svd(part, full_matrices=False), matrices)


def _shared(function: Callable[[Tensor], Any], matrices: Tensor) -> Any:
    threads, count = torch.get_num_threads(), matrices.shape[:-2].numel()
    work = count * matrices.shape[-1] * matrices.shape[-2] * min(matrices.shape[-2:])
    # Wrappers (of `torch.func`) and recorded derivatives belong to the thread that made them.
    plain = type(matrices) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(matrices)
    recorded = torch.is_grad_enabled() and matrices.requires_grad
    if matrices.device.type != "cpu" or not 1 < threads <= count or work < WORTH_SHARING or not plain or recorded:
        return function(matrices)

    def part(piece: Tensor) -> Any:
        with torch.no_grad():  # modes too are each thread's own
            return function(piece)

    parts = _pool(os.getpid(), threads).map(part, matrices.flatten(0, -3).chunk(threads))
    return tuple(torch.cat(each).unflatten(0, matrices.shape[:-2]) for each in zip(*parts, strict=True))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process, as those of another do not live on in a fork of it."""
    return ThreadPoolExecutor(threads, f"nearly-{process}", _one_thread)


def _one_thread() -> None:
    torch.get_num_threads()  # makes torch set this thread's number, which is then its own in OpenMP
    ThreadpoolController().select(user_api="openmp").limit(limits=1)
