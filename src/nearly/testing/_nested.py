"""Tensors in what iterations take and return: alone, in lists and tuples, in dataclasses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a value: itself, or the fields of a tuple, list or dataclass, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_of(part)]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
    return []


def is_inexact(value: Any) -> bool:
    """Whether it is a tensor of real or complex numbers, rather than of integers or truth values."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def in_precision(value: Any, dtype: torch.dtype) -> Any:
    """Inexact tensors, also those in a list or tuple, in the precision of a real dtype."""
    if isinstance(value, list | tuple):
        return type(value)(in_precision(part, dtype) for part in value)
    if not is_inexact(value):
        return value
    return value.to(dtype.to_complex() if value.is_complex() else dtype)


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors, also those in a dictionary, list or tuple, on a device."""
    if isinstance(value, dict):
        return {name: on_device(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_device(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value
