"""Jets of linear and multilinear functions and of arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearly.calculus.jets._series import Frame, Series, compose, convolve, power, quotient, times
from nearly.calculus.jets.jet import Jet
from nearly.core.errors import BadInput


def _frame(*candidates: Any) -> Frame:
    """The frame of all jets among some arguments.

    Raises:
        BadInput: for jets of different frames.
    """
    frames = [candidate.frame for candidate in candidates if isinstance(candidate, Jet)]
    for frame in frames[1:]:
        if not frame.fits(frames[0]):
            raise BadInput("jets", "of one order and the same directions", "jets of two kinds")
    return frames[0]


def _lift(frame: Frame, value: Any, like: Jet | None = None) -> Jet:
    """A constant as a jet."""
    if isinstance(value, Jet):
        return value
    dtype = None if like is None else like.dtype.to_complex() if isinstance(value, complex) else like.dtype
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=dtype)
    if like is not None and tensor.device != like.device and tensor.ndim == 0:
        tensor = tensor.to(like.device)
    return Jet(frame, [tensor[None]])


def _rank(series: Series, rank: int) -> Series:
    """Parts with as many dimensions after the leading one."""
    missing = rank + 1 - series[0].ndim
    if missing <= 0:
        return series
    return [part.reshape(len(part), *[1] * missing, *part.shape[1:]) for part in series]


def _aligned(first: Any, second: Any) -> tuple[Frame, Series, Series]:
    frame = _frame(first, second)
    like = first if isinstance(first, Jet) else second
    a, b = _lift(frame, first, like), _lift(frame, second, like)
    rank = max(a.ndim, b.ndim)
    dtype = torch.result_type(a.value, b.value)  # the leading dimension of parts would have those of numbers count
    parts = ([part.to(dtype) for part in jet.parts] for jet in (a, b))
    first, second = (_rank(series, rank) for series in parts)
    return frame, first, second


def _rowwise(jet: Jet, function: Callable[[Tensor], Any]) -> Any:
    """A linear function of the stacked coefficients."""
    out = torch.vmap(function)(jet.stack)
    wrap = functools.partial(Jet.from_stack, jet.frame, degree=jet.degree)
    return type(out)(wrap(stack=part) for part in out) if isinstance(out, tuple | list) else wrap(stack=out)


def _padded(jet: Jet, degree: int) -> Series:
    zeros = [
        jet.parts[0].new_zeros(()).expand(jet.frame.rows(k), *jet.shape) for k in range(jet.degree + 1, degree + 1)
    ]
    return [*jet.parts, *zeros]


# Linear functions


def linear_rule(name: str) -> Callable[..., Any]:
    def rule(jet: Jet, *args: Any, **kwargs: Any) -> Any:
        function = _plain(name)
        if function is None:  # an attribute, such as .mT
            return _rowwise(jet, lambda x: getattr(x, name))
        return _rowwise(jet, lambda x: function(x, *args, **kwargs))

    return rule


def _plain(name: str) -> Callable[..., Any] | None:
    """Torch's function of a name, as a method where there is one, since methods take sizes in either way; None for an attribute."""
    space, _, short = name.partition("_")
    if space in {"fft", "linalg"}:
        return getattr(getattr(torch, space), short)
    places = [place for place in (Tensor, torch, functional) if hasattr(place, name)]
    return getattr(places[0], name) if callable(getattr(places[0], name)) else None


def joint_rule(name: str) -> Callable[..., Jet]:
    def rule(tensors: Sequence[Any], *args: Any, **kwargs: Any) -> Jet:
        frame = _frame(*tensors)
        jets = [_lift(frame, tensor) for tensor in tensors]
        degree = max(jet.degree for jet in jets)
        stacks = [torch.cat(_padded(jet, degree)) for jet in jets]
        out = torch.vmap(lambda *rows: _plain(name)(rows, *args, **kwargs))(*stacks)  # type: ignore[misc]
        return Jet.from_stack(frame, out, degree)

    return rule


def getitem(jet: Jet, index: Any) -> Jet:
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, Jet) for part in parts):
        raise BadInput("index", "of integers or truth values", "a jet")
    plain = int | slice | type(None) | type(Ellipsis)
    if sum(not isinstance(part, plain) for part in parts) > 1:  # whose dimensions may go first
        return _rowwise(jet, lambda x: x[index])
    return Jet.from_stack(jet.frame, jet.stack[(slice(None), *parts)], jet.degree)


def where(condition: Any, first: Any, second: Any) -> Jet:
    condition = condition.value if isinstance(condition, Jet) else condition
    frame, a, b = _aligned(first, second)
    degree = max(len(a), len(b)) - 1
    rank = max(a[0].ndim - 1, condition.ndim)
    a, b = (_rank(_padded(Jet(frame, series), degree), rank) for series in (a, b))
    mask = _rank([condition[None]], rank)[0]
    return Jet(frame, [torch.where(mask, x, y) for x, y in zip(a, b, strict=True)])


def masked_fill(jet: Jet, mask: Tensor, value: Any) -> Jet:
    return where(mask, value, jet)


def nansum(jet: Jet, *args: Any, **kwargs: Any) -> Any:
    return where(jet.value.isnan(), 0.0, jet).sum(*args, **kwargs)


def pad(jet: Jet, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Jet:
    """What is put about the value has no derivatives."""
    out = _rowwise(jet, lambda x: functional.pad(x, pad, mode))
    return add(out, functional.pad(torch.zeros_like(jet.value), pad, mode, value)) if value else out


def column_stack(tensors: Sequence[Any]) -> Jet:
    columns = [tensor.reshape(-1, 1) if tensor.ndim < 2 else tensor for tensor in tensors]
    return joint_rule("cat")(columns, 1)


def diff(jet: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Jet:
    given = [part for part in (prepend, jet, append) if part is not None]
    return linear_rule("diff")(joint_rule("cat")(given, dim) if len(given) > 1 else jet, n, dim)


def unfold(jet: Jet, *args: Any, **kwargs: Any) -> Jet:
    """Of `torch.nn.functional`, whose windows dilate, or of tensors."""
    function = functional.unfold if "dilation" in kwargs else Tensor.unfold
    return _rowwise(jet, lambda x: function(x, *args, **kwargs))


def view_like(jet: Jet, other: Any) -> Jet:
    return _rowwise(jet, lambda x: x.reshape(other.shape))


def expand_like(jet: Jet, other: Any) -> Jet:
    return _rowwise(jet, lambda x: x.expand(other.shape))


def to_type(jet: Jet, other: Any) -> Jet:
    return _rowwise(jet, lambda x: x.to(other.dtype))


def dropout(jet: Jet, p: float = 0.5, training: bool = True, inplace: bool = False) -> Jet:
    """The same entries fall out of all coefficients.

    Raises:
        BadInput: while training: a mask would come from the global random state.
    """
    if training and p > 0:
        raise BadInput("function", "without dropout (module.eval())", f"dropout of {p}")
    return jet


# Arithmetic


def add(first: Any, second: Any, *, alpha: float = 1) -> Jet:
    frame, a, b = _aligned(first, second)
    shape = torch.broadcast_shapes(a[0].shape[1:], b[0].shape[1:])
    parts = []
    for k in range(max(len(a), len(b))):
        if k < min(len(a), len(b)):
            part = torch.add(a[k], b[k], alpha=alpha)
        else:
            part = a[k] if k < len(a) else alpha * b[k]
        parts.append(part.expand(-1, *shape))
    return Jet(frame, parts)


def sub(first: Any, second: Any, *, alpha: float = 1) -> Jet:
    return add(first, second, alpha=-alpha)


def _is_number(value: Any) -> bool:
    return not isinstance(value, Jet) and (not isinstance(value, Tensor) or value.ndim == 0)


def mul(first: Any, second: Any) -> Jet:
    for jet, other in ((first, second), (second, first)):
        if isinstance(jet, Jet) and _is_number(other) and jet._stack is not None:
            return Jet.from_stack(jet.frame, jet.stack * other, jet.degree)
    frame, a, b = _aligned(first, second)
    return Jet(frame, times(frame, a, b))


def div(first: Any, second: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise BadInput("function", "without rounding", f"division with rounding_mode={rounding_mode!r}")
    if isinstance(first, Jet) and _is_number(second) and first._stack is not None:
        return Jet.from_stack(first.frame, first.stack / second, first.degree)
    frame, a, b = _aligned(first, second)
    return Jet(frame, quotient(frame, torch.mul, lambda rest: rest / b[0], a, b))


def pow(base: Any, exponent: Any) -> Jet:
    if not isinstance(exponent, Jet):
        frame, u, r = _aligned(base, exponent)
        by = exponent if isinstance(exponent, complex) else r[0] if isinstance(exponent, Tensor) else float(exponent)
        return Jet(frame, compose(frame, power(u[0], by, frame.order), u))
    if not isinstance(base, Jet):
        base = torch.as_tensor(base, dtype=torch.result_type(exponent.value, base), device=exponent.device)
    log = base.log()
    return mul(exponent, log).exp()


def addcmul(jet: Any, first: Any, second: Any, *, value: float = 1) -> Jet:
    return add(jet, first * second, alpha=value)


def addmm(jet: Any, first: Any, second: Any, *, beta: float = 1, alpha: float = 1) -> Jet:
    return add(jet * beta, torch.matmul(first, second), alpha=alpha)


def lerp(first: Any, second: Any, weight: Any) -> Jet:
    return add(first, mul(weight, second - first))


def multilinear_rule(name: str) -> Callable[..., Any]:
    def rule(*args: Any, **kwargs: Any) -> Any:
        nested = isinstance(args[-1], list | tuple)
        flat = (*args[:-1], *args[-1]) if nested else args
        function: Any = _plain(name)

        def plain(*operands: Any) -> Tensor:
            full = list(flat)
            for place, operand in zip(places, operands, strict=True):
                full[place] = operand
            if name == "linalg_multi_dot":
                return function(full, **kwargs)
            return function(*full, **kwargs)

        places = [i for i, operand in enumerate(flat) if isinstance(operand, Jet)]
        jets = [flat[i] for i in places]
        if not jets:  # a part of a function of jets, such as all of a linear map but its bias
            return plain()
        frame = _frame(*jets)
        if len(jets) == 1:
            return _rowwise(jets[0], plain)

        def product(*operands: Tensor) -> Tensor:
            several = [len(operand) > 1 for operand in operands]
            if not any(several):
                return plain(*(operand[0] for operand in operands))[None]
            dims = tuple(0 if many else None for many in several)
            rows = (operand if many else operand[0] for operand, many in zip(operands, several, strict=True))
            return torch.vmap(plain, in_dims=dims)(*rows)

        return Jet(frame, convolve(frame, product, *(jet.parts for jet in jets)))

    return rule


_matmul, _einsum = multilinear_rule("matmul"), multilinear_rule("einsum")


def bilinear(first: Any, second: Any, weight: Any, bias: Any = None) -> Jet:
    out = _einsum("...i,oij,...j->...o", first, weight, second)
    return out if bias is None else add(out, bias)


def matmul(first: Any, second: Any) -> Jet:
    if isinstance(first, Jet) and isinstance(second, Tensor) and second.ndim <= 2:
        return Jet.from_stack(first.frame, first.stack @ second, first.degree)
    if isinstance(second, Jet) and isinstance(first, Tensor) and first.ndim == 2 and second.ndim >= 2:
        return Jet.from_stack(second.frame, first @ second.stack, second.degree)
    return _matmul(first, second)


def linear(jet: Any, weight: Any, bias: Any = None) -> Jet:
    if not isinstance(jet, Jet) or not isinstance(weight, Tensor):
        out = matmul(jet, weight.mT)
        return out if bias is None else add(out, bias)
    return _biased(jet, functional.linear(jet.stack, weight), bias)


def _biased(jet: Jet, fresh: Tensor, bias: Any) -> Jet:
    """The linear image of a jet that was just made, with a bias added to its value in place."""
    if isinstance(bias, Jet):
        return add(Jet.from_stack(jet.frame, fresh, jet.degree), bias)
    if bias is not None:
        fresh[0].add_(bias)
    return Jet.from_stack(jet.frame, fresh, jet.degree)


def convolution_rule(name: str) -> Callable[..., Jet]:
    general = multilinear_rule(name)

    def rule(jet: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Jet:
        offset = None if bias is None else bias.reshape(-1, *[1] * (weight.ndim - 2))
        if not isinstance(jet, Jet) or not isinstance(weight, Tensor):
            out = general(jet, weight, None, *args, **kwargs)
            return out if offset is None else add(out, offset)
        batched = jet.ndim == weight.ndim
        image = _plain(name)(jet.stack.flatten(0, 1) if batched else jet.stack, weight, None, *args, **kwargs)  # type: ignore[misc]
        return _biased(jet, image.unflatten(0, (-1, jet.shape[0])) if batched else image, offset)

    return rule


def solve(matrix: Any, right: Any, *, left: bool = True) -> Jet:
    if not left:
        return solve(matrix.mT, right.mT).mT
    frame = _frame(matrix, right)
    a, b = _lift(frame, matrix).parts, _lift(frame, right).parts
    vector = b[0].ndim == 2 or b[0].shape[1:] == a[0].shape[1:-1]
    b = [part[..., None] for part in b] if vector else b
    factors = torch.linalg.lu_factor(a[0])
    found = quotient(frame, torch.matmul, lambda rest: torch.linalg.lu_solve(*factors, rest), b, a)
    return Jet(frame, [part[..., 0] for part in found] if vector else found)


def inverse(matrix: Jet) -> Jet:
    return solve(matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand(matrix.shape))


def constant_rule(name: str) -> Callable[..., Any]:
    def rule(*args: Any, **kwargs: Any) -> Any:
        plain = [arg.value if isinstance(arg, Jet) else arg for arg in args]
        member = getattr(plain[0], name, None)
        if member is None:
            return getattr(torch, name)(*plain, **kwargs)
        return member(*plain[1:], **kwargs) if callable(member) else member

    return rule


ARITHMETIC: tuple[Callable[..., Any], ...] = (
    *(
        getitem,
        where,
        masked_fill,
        nansum,
        pad,
        column_stack,
        diff,
        unfold,
        dropout,
        add,
        sub,
        mul,
        div,
        pow,
        addcmul,
        addmm,
        lerp,
        matmul,
        bilinear,
        linear,
        solve,
        inverse,
    ),
)
