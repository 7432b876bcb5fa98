"""Checks at the entry. Conditions are written so that NaN fails them; messages name argument, requirement and what came."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


PRECISIONS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def describe(value: object) -> str:
    """A short description of a value for an error message."""
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{type(value).__name__} of dtype {dtype} and shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:60]}..."


def require_float(name: str, value: object, *, above: float | None = None, below: float | None = None) -> float:
    """A finite real number strictly between the given ends.

    Raises:
        BadInput: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadInput(name, "a real number", describe(value))
    number = float(value)
    low = float("-inf") if above is None else above
    high = float("inf") if below is None else below
    if not low < number < high:
        limits = [f"> {above}"] if above is not None else []
        limits += [f"< {below}"] if below is not None else []
        raise BadInput(name, " and ".join(["finite", *limits]), value)
    return number


def require_at_least(name: str, value: object, least: float, *, below: float | None = None) -> float:
    """A finite real number from `least` on, which it may be, to `below`, which it may not.

    Raises:
        BadInput: otherwise.
    """
    return (
        float(least)
        if value == least and not isinstance(value, bool)
        else require_float(name, value, above=least, below=below)
    )


def require_int(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """An integer (a bool is none) within the given closed range.

    Raises:
        BadInput: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise BadInput(name, "an integer", describe(value))
    value = int(value)
    if (least is not None and value < least) or (most is not None and value > most):
        limits = [f">= {least}"] if least is not None else []
        limits += [f"<= {most}"] if most is not None else []
        raise BadInput(name, "an integer " + " and ".join(limits), value)
    return value


def to_tensor(value: Any) -> Tensor:
    """A tensor of numbers in any form, without a copy where torch can do without one; lists of floats in double precision."""
    if isinstance(value, np.ndarray):
        forward = all(stride >= 0 for stride in value.strides)
        if not (forward and value.dtype.isnative and value.flags.writeable):  # torch has none that are not
            value = value.astype(value.dtype.newbyteorder("="), order="C")
    tensor = torch.as_tensor(value)
    if tensor.is_floating_point() and not hasattr(value, "dtype"):  # lists of floats, which torch makes float32
        tensor = torch.as_tensor(value, dtype=torch.float64)
    return tensor


def as_floating(
    name: str, value: Any, *, dimensions: int | None = None, least_dimensions: int = 0, complex_too: bool = False
) -> Tensor:
    """A non-empty, finite floating tensor; arrays, lists and integer types are converted, complex ones refused unless allowed.

    Args:
        name: the argument's name, for messages.
        value: a tensor, array or nested list. Tensors and arrays in single or double precision keep their dtype, those in half
            precision are refused, in which few factorizations exist; all else becomes float64.
        dimensions: the exact number of dimensions, if it matters.
        least_dimensions: the least number of dimensions.
        complex_too: whether complex tensors are taken, as they are.

    Returns:
        The tensor; the input itself where nothing had to change.

    Raises:
        BadInput: when a requirement is broken.
    """
    try:
        tensor = to_tensor(value)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise BadInput(name, "numeric", describe(value)) from error
    if tensor.layout != torch.strided:
        raise BadInput(name, "dense", f"{describe(tensor)}, which is sparse")
    if tensor.is_complex() and not complex_too:
        raise BadInput(name, "real", describe(tensor))
    if not tensor.is_floating_point() and not tensor.is_complex():
        tensor = tensor.to(torch.float64)
    if tensor.dtype not in PRECISIONS:
        raise BadInput(name, "in single or double precision", describe(tensor))
    if dimensions is not None and tensor.ndim != dimensions:
        raise BadInput(name, f"{dimensions}-dimensional", describe(tensor))
    if tensor.ndim < least_dimensions:
        raise BadInput(
            name, f"at least {least_dimensions}-dimensional (first dimension: one row per input)", describe(tensor)
        )
    if tensor.numel() == 0:
        raise BadInput(name, "non-empty", describe(tensor))
    require_finite(name, tensor)
    return tensor


def tolerance_for(given: float | None, dtype: torch.dtype, double: float) -> float:
    """The tolerance given, or else one that the precision allows: `double`, in single precision its square root.

    Example:
        >>> tolerance_for(None, torch.float32, 1e-8), tolerance_for(1e-6, torch.float32, 1e-8)
        (0.0001, 1e-06)
    """
    if given is not None:
        return given
    return double if dtype.to_real() == torch.float64 else math.sqrt(double)


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise unless every entry is finite; the message counts the others and gives the first one's place.

    Raises:
        BadInput: otherwise.
    """
    if bool(torch.isfinite(tensor.sum())):  # one pass: a sum with NaN or infinity in it is neither
        return
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        first = tuple((~finite).nonzero()[0].tolist())
        count = int((~finite).sum())
        raise BadInput(name, "finite", f"{count} NaN or infinite entries, the first at index {first}")


def generator_from(seed: int | torch.Generator) -> torch.Generator:
    """A generator from a seed; a generator is passed through. The global state is never touched."""
    if isinstance(seed, torch.Generator):
        return seed
    require_int("seed", seed, least=0, most=2**63 - 1)
    return torch.Generator().manual_seed(seed)


def check_parameter(name: str, value: Any, constraint: list[Any]) -> Any:
    """Check one parameter against its card's constraint; NumPy scalars become Python's, for the artifact's sake.

    Args:
        name: for the message.
        value: as given.
        constraint: as on the card.

    Returns:
        The value.

    Raises:
        BadInput: when the constraint is broken.
    """
    kind, *limits = constraint
    if kind.startswith("optional "):
        if value is None:
            return None
        kind = kind.removeprefix("optional ")
    if kind == "integer":
        return require_int(name, value, least=limits[0], most=limits[1])
    if kind == "real":
        return require_float(name, value, above=limits[0], below=limits[1])
    if kind == "at least":
        return require_at_least(name, value, limits[0], below=limits[1])
    if kind == "pair":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise BadInput(name, "a pair of real numbers", describe(value))
        return tuple(require_at_least(name, one, limits[0], below=limits[1]) for one in value)
    if value not in limits:
        raise BadInput(name, f"one of {', '.join(map(str, limits))}", value)
    return value


def require_parameters(card: dict[str, Any], **given: Any) -> None:
    """Check parameters against the constraints of a card.

    Raises:
        BadInput: when one is broken.
    """
    for name, value in given.items():
        check_parameter(name, value, card["parameters"][name])
