"""What torch's functions do to jets, by name: a name means the same in `torch`, `torch.Tensor` and `torch.nn.functional`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearly.calculus.jets._arithmetic import (
    ARITHMETIC,
    constant_rule,
    convolution_rule,
    expand_like,
    inverse,
    joint_rule,
    linear_rule,
    matmul,
    mul,
    multilinear_rule,
    solve,
    sub,
    to_type,
    view_like,
    where,
)
from nearly.calculus.jets._arithmetic import div as divide
from nearly.calculus.jets._elementwise import FUNCTIONS, real_absolute
from nearly.calculus.jets._elementwise import gelu as exact_gelu
from nearly.calculus.jets._names import CONSTANT, CONVOLUTIONS, JOINT, LINEAR, MULTILINEAR
from nearly.calculus.jets._series import Series, compose
from nearly.calculus.jets.jet import Jet
from nearly.core.errors import BadInput


def apply(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The jet of a function's output.

    Raises:
        BadInput: for a function without a rule, arguments that its rule does not know, or jets of different frames.
        TypeError: as torch's function itself does.
    """
    rule = RULES.get(name)
    if rule is None:
        raise BadInput(
            "function", "made of functions that have a Taylor rule", f"torch's {name}", "Write it in terms of others."
        )
    options = dict(kwargs)
    if options.pop("out", None) is not None:
        raise BadInput("function", "without out=", f"torch's {name} with it")
    if "input" in options:  # the name of most functions' first argument
        args = (options.pop("input"), *args)
    try:
        found = rule(*args, **options)
    except TypeError as error:
        if _takes(rule, args, options):
            raise
        raise BadInput(
            "function", f"one that gives torch's {name} arguments that its rule knows", str(error)
        ) from error
    return args[0].become(found) if options.get("inplace") else found


def _takes(rule: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    try:
        inspect.signature(rule).bind(*args, **options)
    except TypeError:
        return False
    return True


# Functions made of others


def gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return Jet(x.frame, compose(x.frame, exact_gelu(x.parts[0], x.frame.order), x.parts))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mish(x: Any, inplace: bool = False) -> Any:
    return x * torch.tanh(functional.softplus(x))


def prelu(x: Any, weight: Any) -> Any:
    shape = (-1, *[1] * (x.ndim - 2)) if weight.numel() > 1 else ()
    return where(x > 0, x, weight.reshape(shape) * x)


def glu(x: Any, dim: int = -1) -> Any:
    first, second = x.chunk(2, dim)
    return first * torch.sigmoid(second)


def softmax(x: Any, dim: int | None = None, dtype: Any = None, **_: Any) -> Any:
    x, dim = _entry(x, dim, dtype)
    e = torch.exp(x - x.value.detach().amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def log_softmax(x: Any, dim: int | None = None, dtype: Any = None, **_: Any) -> Any:
    x, dim = _entry(x, dim, dtype)
    return x - logsumexp(x, dim, keepdim=True)


def _entry(x: Any, dim: int | None, dtype: Any) -> tuple[Any, int]:
    """A softmax's argument in its dtype, and its dimension; without one torch takes the channels'."""
    return _cast(x, dtype), int(x.ndim not in (0, 1, 3)) if dim is None else dim


def _cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else x.to(dtype)


def _squares(x: Any) -> Any:
    return (x * x.conj()).real if x.dtype.is_complex else x * x


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    top = x.value.detach().amax(dim, keepdim=True)
    log = torch.exp(x - top).sum(dim, keepdim=True).log() + top
    return log if keepdim else log.sum(dim)


def _root(x: Any, exponent: float = 0.5) -> Any:
    """Of a sum of powers; at zero, which is a kink, torch's derivative is zero."""
    zero = x.value == 0
    if not bool(zero.any()):
        return x**exponent
    return where(zero, 0.0, where(zero, 1.0, x) ** exponent)


def absolute(x: Any) -> Any:
    return _root(_squares(x)) if x.dtype.is_complex else _real_absolute(x)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else where(x < min, min, x)
    return x if max is None else where(x > max, max, x)


def std(x: Any, *args: Any, **kwargs: Any) -> Any:
    return _root(var(x, *args, **kwargs))


def var(
    x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Any:
    if isinstance(dim, bool):  # the form without dimensions
        dim, unbiased = None, dim
    dims = tuple(range(x.ndim)) if dim is None else dim
    correction = float(unbiased) if correction is None else correction
    centered = x - x.mean(dims, keepdim=True)
    count = x.numel() / centered.mean(dims).numel()
    return _squares(centered).sum(dims, keepdim=keepdim) / (count - correction)


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    p = {None: 2, "fro": 2}.get(p, p)
    if p in {0, float("inf"), -float("inf"), "nuc"}:
        raise BadInput("function", "with norms of finite order", f"a norm of order {p}")
    x, dims = _cast(x, dtype), tuple(range(x.ndim)) if dim is None else dim
    powers = _squares(x) if p == 2 else abs(x) ** p
    return _root(powers.sum(dims, keepdim=keepdim), 1 / p)


def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return norm(x, ord, dim, keepdim, dtype)


def matrix_or_vector_norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    over = x.ndim if dim is None else len(dim) if isinstance(dim, tuple | list) else 1
    if over == 2 and ord not in (None, "fro"):
        raise BadInput("function", "with matrix norms of Frobenius alone", f"a norm of order {ord}")
    return norm(x, ord, dim, keepdim, dtype)


def prod(x: Any, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x = _cast(x, dtype)
    if dim is None:
        return prod(x.flatten(), 0)
    return functools.reduce(mul, (x.narrow(dim, i, 1) if keepdim else x.select(dim, i) for i in range(x.shape[dim])))


def _normalized(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centered = x - x.mean(dims, keepdim=True)
    return centered * torch.rsqrt((centered * centered).mean(dims, keepdim=True) + eps)


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return _affine(_normalized(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps), weight, None)


def _by_channel(values: Any, rank: int) -> Any:
    return None if values is None else values.reshape(-1, *[1] * (rank - 2))


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    groups = x.reshape(x.shape[0], num_groups, -1)
    normalized = _normalized(groups, (-1,), eps).reshape(x.shape)
    return _affine(normalized, _by_channel(weight, x.ndim), _by_channel(bias, x.ndim))


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training:
        raise BadInput("function", "without batch statistics (module.eval())", "batch_norm while training")
    mean, scale = (_by_channel(values, x.ndim) for values in (running_mean, torch.rsqrt(running_var + eps)))
    return _affine((x - mean) * scale, _by_channel(weight, x.ndim), _by_channel(bias, x.ndim))


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Any:
    if dropout_p:
        raise BadInput("function", "without dropout (module.eval())", f"attention with dropout of {dropout_p}")
    scores = torch.matmul(query, key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def _chosen_rule(name: str) -> Callable[..., Any]:
    """The entries that the values choose."""

    def rule(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Jet | Tensor):  # the larger of two
            other = dim
            first, second = (side.value if isinstance(side, Jet) else side for side in (x, other))
            chosen = where((first >= second if name == "max" else first <= second) | first.isnan(), x, other)
            # Where they are equal, torch's derivative is the mean of both.
            return where(first == second, (x + other) / 2, chosen) if bool((first == second).any()) else chosen
        if dim is None:  # of equal ones the mean, too
            flat = x.flatten()
            return flat[flat.value == getattr(flat.value, name)()].mean()
        index = getattr(x.value, f"arg{name}")(dim, keepdim=True)
        picked = x.gather(dim, index)
        pair = (picked, index) if keepdim else (picked.squeeze(dim), index.squeeze(dim))
        return getattr(torch.return_types, name)(pair)

    return rule


def _max_pool_rule(dimensions: int) -> Callable[..., Jet]:
    def rule(x: Any, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
        if return_indices:
            raise BadInput("function", "without indices", "max_pool with return_indices")
        value, index = getattr(functional, f"max_pool{dimensions}d")(x.value, *args, return_indices=True, **kwargs)
        return x.flatten(-dimensions).gather(-1, index.flatten(-dimensions)).reshape(value.shape)

    return rule


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    index = x.value.argsort(dim=dim, descending=descending, stable=stable)
    return torch.return_types.sort((x.gather(dim, index), index))


def mse_loss(
    x: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    if any(option is not None for option in (size_average, reduce, weight)):
        raise BadInput("function", "with a reduction alone", "mse_loss with weight, size_average or reduce")
    square = (x - target) * (x - target)
    return square if reduction == "none" else getattr(square, reduction)()


def _elementwise_rule(function: Callable[..., Series]) -> Callable[..., Jet]:
    def rule(jet: Jet, *args: Any, inplace: bool = False, **kwargs: Any) -> Jet:
        outer = function(jet.parts[0], jet.frame.order, *args, **kwargs)
        return Jet(jet.frame, compose(jet.frame, outer, jet.parts))

    return rule


_real_absolute = _elementwise_rule(real_absolute)
_COMPOSED: tuple[Callable[..., Any], ...] = (
    *(gelu, mish, prelu, glu, softmax, log_softmax, logsumexp, std, var, norm, prod, layer_norm, rms_norm, group_norm, batch_norm),
    *(sort, scaled_dot_product_attention, mse_loss, absolute, clamp),
)  # fmt: skip
RULES: dict[str, Callable[..., Any]] = {
    **{name: _elementwise_rule(function) for name, function in FUNCTIONS.items()},
    **{name: linear_rule(name) for name in LINEAR},
    **{name: joint_rule(name) for name in JOINT},
    **{name: multilinear_rule(name) for name in MULTILINEAR},
    **{name: convolution_rule(name) for name in CONVOLUTIONS},
    **{name: constant_rule(name) for name in CONSTANT},
    **{name: _chosen_rule(name) for name in ("max", "min")},
    **{rule.__name__: rule for rule in (*ARITHMETIC, *_COMPOSED)},
    **{f"max_pool{dimensions}d": _max_pool_rule(dimensions) for dimensions in (1, 2, 3)},
    "truediv": divide, "true_divide": divide, "divide": divide, "multiply": mul, "subtract": sub, "linalg_matmul": matmul,
    "linalg_solve": solve, "linalg_inv": inverse, "linalg_norm": matrix_or_vector_norm, "linalg_vector_norm": vector_norm,
    "maximum": _chosen_rule("max"), "minimum": _chosen_rule("min"), "expand_as": expand_like, "view_as": view_like,
    "reshape_as": view_like, "type_as": to_type, "special_softmax": softmax, "special_logsumexp": logsumexp,
    "abs": absolute, "clip": clamp,
    "rsub": lambda second, first, **kwargs: sub(first, second, **kwargs),
}  # fmt: skip
