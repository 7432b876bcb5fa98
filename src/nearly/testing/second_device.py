"""A second device made of the host's memory, to see without an accelerator whether code keeps tensors on the device they came on.

with elsewhere() as traffic:
    x = torch.ones(3).to(traffic.device)
    x + torch.ones(3)  # RuntimeError, as on an accelerator
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from nearly.core.errors import NearlyError

NAME = "elsewhere"
aten = torch.ops.aten

MOVES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}  # between devices
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# The host waits for their results: a number, or a shape that depends on values.
READING = {
    aten._local_scalar_dense.default,
    aten._linalg_check_errors.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten.linalg_eig.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}
# They take a shape from a tensor of any device.
LIKES = {aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like}
LIKES |= {aten.new_empty, aten.new_empty_strided, aten.new_zeros, aten.new_ones, aten.new_full}
# CUDA has none of integers.
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot}
# These reach a device in ways that nothing can be put between.
MAKERS = {torch.tensor, torch.as_tensor, torch.asarray}
PLACES = {Tensor.__getitem__, Tensor.__setitem__}  # where they are lists
SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]


@dataclass
class Traffic:
    """What passed between the host and the device.

    Attributes:
        device: to move tensors to.
        reads: values and shapes for which the host waited.
        sent: tensors that went to the device.
    """

    device: torch.device
    reads: int = 0
    sent: int = 0


_open: list[Traffic] = []


@contextmanager
def elsewhere() -> Iterator[Traffic]:
    """A device on which operations compute what they compute on the host, and which refuses what an accelerator refuses.

    Refused are operations on tensors of both devices (but for single numbers of the host in elementwise ones, and indices), draws
    from generators of the host, products of integers, least squares by another driver than QR, and NumPy. Backward passes run on
    the calling thread. Nothing is said of time or memory.

    Yields:
        The device, and a count of what passes.

    Raises:
        NearlyError: where a package has registered a private device of its own in this process.

    Example:
        >>> with elsewhere() as traffic:
        ...     x = torch.ones(3, device=traffic.device)
        ...     total = float((2 * x).sum())
        >>> total, traffic.reads
        (6.0, 1)
    """
    traffic = Traffic(_registered())
    _open.append(traffic)
    try:
        with torch.autograd.set_multithreading_enabled(False), _Factories(), _Makers():  # type: ignore[no-untyped-call]
            yield traffic
    finally:
        _open.pop()


@cache
def _registered() -> torch.device:
    from torch.utils import backend_registration as torch_backends

    if not hasattr(torch_backends, "_setup_privateuseone_for_python_backend"):
        raise NearlyError(f"torch {torch.__version__} has no devices written in Python: 2.13 has")

    class Unavailable:  # so that nothing takes the device for an accelerator of this machine
        def is_available(self) -> bool:
            return False

    class Module(Unavailable, torch_backends._DummyBackendModule):
        def device_count(self) -> int:  # whose random states would be kept
            return 0

    class Hook(Unavailable, torch_backends._DummyPrivateUse1Hook): ...

    try:
        torch_backends._setup_privateuseone_for_python_backend(NAME, backend_module=Module(), hook=Hook())
    except RuntimeError as error:
        raise NearlyError(f"the device {NAME!r} cannot be registered beside another private one: {error}") from error
    return torch.device(NAME, 0)


class _Away(Tensor):
    """A tensor of the device: a shell around one of the host."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> _Away:
        known: dict[str, Any] = {"dtype": host.dtype, "device": _registered(), "requires_grad": False}
        if host.layout == torch.strided:
            known |= {"strides": host.stride(), "storage_offset": host.storage_offset()}
        else:
            known |= {"layout": host.layout, "dispatch_layout": True}
        shell: _Away = torch.Tensor._make_wrapper_subclass(cls, host.shape, **known)
        shell.host = host
        # Where numbers wait to be conjugated or negated: it is done outside the shell, as on any device.
        torch._C._set_conj(shell, host.is_conj())
        torch._C._set_neg(shell, host.is_neg())
        return shell

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.host!r} {NAME}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied: Tensor = self.detach().clone()
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        found: Tensor = memo[id(self)]
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sends what makes tensors of the device to `_run`, which else sees only what is given some."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, _Away) for kind in types) or _names_device(kwargs.get("device")):
            return _run(func, args, kwargs)
        return _computed(func, args, kwargs)


class _Makers(TorchFunctionMode):
    """Makes tensors of Python's numbers on the host, then moves them, but for places; reads lists of numbers from copies."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS and _names_device(kwargs.get("device")) and not isinstance(args[0], Tensor):
            return func(*args, **kwargs | {"device": None}).to(kwargs["device"])
        if func is Tensor.new_tensor and isinstance(args[0], _Away):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(args[0].device)
        if func in PLACES and isinstance(args[0], _Away):
            args = (args[0], _places(args[1]), *args[2:])
        if func == SET_DATA and isinstance(args[0], _Away):  # as modules do to change their precision
            args[0].host = args[1].host
        if func is Tensor.tolist and isinstance(args[0], _Away):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def _places(index: Any) -> Any:
    """An index with tensors in place of lists."""
    if isinstance(index, tuple):
        return tuple(_places(part) for part in index)
    return torch.tensor(index, dtype=None if index else torch.int64) if isinstance(index, list) else index


def _names_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on what is inside the shells, its results in shells where it ran on the device."""
    if func is torch.ops.prim.layout.default:
        return args[0].host.layout
    if func is aten._efficientzerotensor.default:  # a shell around none would hold no numbers
        func = aten.zeros.default
    leaves, form = pytree.tree_flatten((args, kwargs))
    given = any(isinstance(leaf, _Away) for leaf in leaves)
    there = _names_device(kwargs["device"]) if kwargs.get("device") is not None else given
    if func is aten.copy_.default:
        there = not _on_host(args[0])
    _require_allowed(func, args, kwargs, leaves, there)
    _count(func, args, leaves, given, there)
    inner, named = pytree.tree_unflatten([leaf.host if isinstance(leaf, _Away) else leaf for leaf in leaves], form)
    if named.get("device") is not None:
        named["device"] = torch.device("cpu")
    found = _computed(func, inner, named)
    if func is aten.copy_.default:
        return args[0]
    if not there or found is None:
        return found
    found = pytree.tree_map_only(Tensor, lambda one: one if isinstance(one, _Away) else _Away(one), found)
    return return_and_correct_aliasing(func, args, kwargs, found)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation, with conjugates and negatives that are held back within it; modes leave these out (torch 2.13)."""
    keys = torch._C.DispatchKey
    leave_out = torch._C._SetExcludeDispatchKeyGuard
    with leave_out(keys.Conjugate, False), leave_out(keys.Negative, False):
        return func(*args, **kwargs)


def _require_allowed(func: Any, args: Any, kwargs: dict[str, Any], leaves: list[Any], there: bool) -> None:
    if not there or func in MOVES:
        return
    indices = {id(one) for one in args[1]} if func in INDEXING else set()
    single = torch.Tag.pointwise in func.tags or func in INDEXING or func is aten.where.self
    for leaf in [] if func.overloadpacket in LIKES else leaves:
        if _on_host(leaf) and id(leaf) not in indices and (leaf.ndim or not single):
            raise RuntimeError(f"{func} of tensors on {NAME} and one on the host, of shape {tuple(leaf.shape)}")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} on {NAME} from a generator of the host")
    if func.overloadpacket in PRODUCTS and not (args[0].is_floating_point() or args[0].is_complex()):
        raise RuntimeError(f"{func} on {NAME} of {args[0].dtype}")
    if func is aten.linalg_lstsq.default and kwargs.get("driver") not in (None, "gels"):
        raise RuntimeError(f"{func} on {NAME} by {kwargs['driver']}")


def _on_host(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, _Away)


def _count(func: Any, args: Any, leaves: list[Any], given: bool, there: bool) -> None:
    if not _open:
        return
    masked = func in INDEXING and any(isinstance(one, _Away) and one.dtype == torch.bool for one in args[1])
    _open[-1].reads += given and (func in READING or masked or (func in MOVES and not there))
    made = func is aten._to_copy.default and not given
    taken = func.overloadpacket not in LIKES and any(_on_host(leaf) and leaf.ndim for leaf in leaves)
    _open[-1].sent += there and (made or taken)
