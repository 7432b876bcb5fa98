"""What tests share that run public functions on a second device."""

import copy
import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nearly.core.registry import solver_cards
from nearly.testing import elsewhere

ROUNDING = 1e-9


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def given(*arguments, **options):
    """A call with these arguments, their tensors moved; of generators each call has one of its own."""

    def call(function, put):
        moved, named = _moved((arguments, options), put)
        return function(*moved, **named)

    return call


def slopes(*arguments, **options):
    """The same, and derivatives for all floating tensors that are arguments."""

    def call(function, put):
        moved, named = _moved((arguments, options), put)
        places = [i for i, one in enumerate(moved) if isinstance(one, Tensor) and one.dtype.is_floating_point]

        def of_tensors(*tensors):
            full = list(moved)
            for place, tensor in zip(places, tensors, strict=True):
                full[place] = tensor
            return function(*full, **named)

        return sloped(of_tensors, *(moved[i] for i in places))

    return call


def _moved(tree, put):
    def leaf(one):
        return put(one) if isinstance(one, Tensor) else generator() if isinstance(one, torch.Generator) else one

    return pytree.tree_map(leaf, tree)


def sloped(function, *tensors):
    """The function's value, and the derivatives of a sum of all its entries, with weights."""
    variables = [one.detach().clone().requires_grad_() for one in tensors]
    found = function(*variables)
    total = 0.0
    for part in leaves(found):
        if isinstance(part, Tensor) and part.requires_grad:
            entries = torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
            weights = torch.arange(1, entries.numel() + 1, dtype=entries.dtype, device=part.device).sqrt().cos()
            total = total + (weights * entries.flatten()).sum()
    return found, torch.autograd.grad(total, variables, allow_unused=True)


def leaves(value):
    """Tensors and numbers, in order."""
    if isinstance(value, Tensor | int | float):
        return [value]
    if is_dataclass(value):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [leaf for part in parts for leaf in leaves(part)]


def assert_follows(name, calls):
    """On another device the function gives what it gives on the host, and there.

    Args:
        name: of the function or class, in `nearly`.
        calls: one or a list; each takes it, and a map that brings tensors and modules to the device.
    """
    module, _, short = name.rpartition(".")
    function = getattr(importlib.import_module(f"nearly.{module}"), short)
    for call in calls if isinstance(calls, list) else [calls]:
        here = leaves(call(function, copy.deepcopy))
        assert here, "nothing to compare"
        with elsewhere() as traffic:
            there = leaves(call(function, lambda one: one.to(traffic.device)))
            places = [one.device for one in there if isinstance(one, Tensor) and one.ndim]
            there = [one.detach().cpu() if isinstance(one, Tensor) else one for one in there]
        assert set(places) <= {traffic.device}, "some results are on the host"
        assert len(there) == len(here)
        for first, second in zip(here, there, strict=True):
            _assert_close(*(torch.as_tensor(one).detach() for one in (first, second)))


def _assert_close(first, second):
    assert (first.shape, first.dtype) == (second.shape, second.dtype)
    if first.is_floating_point() or first.is_complex():
        finite = first.isfinite()
        size = first[finite].abs().max() if finite.any() else 0.0
        torch.testing.assert_close(second, first, rtol=0, atol=float(ROUNDING * size), equal_nan=True)
    else:
        assert torch.equal(first, second)


def public_names(package):
    """Functions and classes in `__all__` of a package and those in it, and what its modules define if it has none."""
    root = importlib.import_module(f"nearly.{package}")
    found = {getattr(root, name): f"{package}.{name}" for name in getattr(root, "__all__", ())}
    for entry in pkgutil.iter_modules(root.__path__):
        module = importlib.import_module(f"{root.__name__}.{entry.name}")
        if entry.name.startswith("_") or not (entry.ispkg or "__all__" not in vars(root)):
            continue
        own = [name for name, one in vars(module).items() if getattr(one, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            if callable(getattr(module, name)) and not name.startswith("_"):
                found.setdefault(getattr(module, name), f"{package}.{entry.name}.{name}")
    return set(found.values())


def assert_nothing_left_out(package, listed):
    """All that is public in a package is listed, or under the contract of iterations; and nothing else is."""
    public, iterations = public_names(package), {name.rpartition(".")[2] for name in solver_cards()}
    assert listed <= public
    assert {name for name in public - listed if name.rpartition(".")[2] not in iterations} == set()
