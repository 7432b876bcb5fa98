"""One thread for the linear algebra under NumPy and SciPy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import scipy.linalg.lapack
from threadpoolctl import ThreadpoolController


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
