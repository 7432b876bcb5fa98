"""Unit-scaled operations: outputs and gradients of scale 1 from inputs and gradients of scale 1, at any width.

Each multiplies its output by a constant and, where the graph may be cut there, its gradient by another. A gradient may be scaled
by any constant on an edge that alone joins two parts of the graph (a weight, the last layer, the loss): all gradients behind it
are then wrong by one common factor, which optimizers that divide by the gradient's size do not see. Elsewhere the gradient is
that of the scaled output, or its direction would change. Scale is the root mean square, for independent normal inputs.

Source: Blake, Orr and Luschi 2023, Unit scaling, arXiv 2303.11257; Blake et al. 2024, u-muP, arXiv 2407.17465, table 2 and
appendix B.

Departures:
    1. Scale is the root mean square where the papers take the standard deviation; they differ for activations with a mean.
    2. Activations' constants are integrals over the normal distribution, not fits; attention's is exact for flat logits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from nearly.core.errors import BadInput
from nearly.core.validate import describe, require_float, require_int

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# 1 / sqrt(E f(z)^2) for a standard normal z.
RELU, GELU, SILU = math.sqrt(2.0), 1.5335304411955353, 1.6765324703310913


class _Scaled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: float, backward: float) -> Tensor:
        return x.view_as(x) if forward == 1 else x * forward

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient if ctx.factor == 1 else gradient * ctx.factor, None, None


class _Cast(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: torch.dtype | None, backward: torch.dtype | None) -> Tensor:
        return x.view_as(x) if forward is None else _rounded(x, forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dtype = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient if ctx.dtype is None else _rounded(gradient, ctx.dtype), None, None


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max  # beyond it the cast gives NaN
    return x.clamp(-largest, largest).to(dtype).to(x.dtype)


def scaled(x: Float[Tensor, "*shape"], forward: float = 1.0, backward: float = 1.0) -> Float[Tensor, "*shape"]:
    """`forward * x`, whose gradient is multiplied by `backward` instead.

    Args:
        x: any tensor.
        forward: factor of the value.
        backward: factor of the gradient.

    Returns:
        A tensor of the same shape.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> scaled(x, 2.0, 3.0).backward()
        >>> scaled(x, 2.0, 3.0).item(), x.grad.item()
        (2.0, 3.0)
    """
    return _Scaled.apply(x, forward, backward)  # type: ignore[no-untyped-call]


def as_float8(
    x: Float[Tensor, "*shape"],
    forward: torch.dtype | None = torch.float8_e4m3fn,
    backward: torch.dtype | None = None,
) -> Float[Tensor, "*shape"]:
    """A simulated cast: rounded to eight bits and back, saturating, in the forward pass, the backward pass, or both.

    Args:
        x: any tensor.
        forward: of the value; None leaves it.
        backward: of the gradient; None leaves it.

    Returns:
        The rounded tensor in the dtype of `x`.

    Example:
        >>> as_float8(torch.tensor([1.1, 1000.0]))
        tensor([  1.1250, 448.0000])
    """
    return _Cast.apply(x, forward, backward)  # type: ignore[no-untyped-call]


def linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
    *,
    float8: bool = False,
) -> Float[Tensor, "*batch outputs"]:
    """`x @ weight.T / sqrt(inputs) + bias`; the gradients of weight and bias over the root of the batch's size.

    Args:
        x: of scale 1.
        weight: of scale 1.
        bias: added.
        float8: round `x` and `weight` to e4m3 and the output's gradient to e5m2, as a float8 product would.

    Returns:
        Outputs of scale 1.

    Example:
        >>> linear(torch.ones(1, 4), torch.ones(2, 4))
        tensor([[2., 2.]])
    """
    fan_in = weight.shape[1]
    return _product(x, weight, bias, 1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), float8)


def readout(
    x: Float[Tensor, "*batch inputs"], weight: Float[Tensor, "outputs inputs"], *, float8: bool = False
) -> Float[Tensor, "*batch outputs"]:
    """`x @ weight.T / inputs`, the last layer: its outputs vanish with width at first, as maximal updates ask.

    The gradient to `x` is over `sqrt(outputs)` instead: all of the network behind is scaled alike.

    Args:
        x: of scale 1.
        weight: of scale 1.
        float8: as for `linear`.

    Returns:
        Outputs, of scale `1 / sqrt(inputs)` before training.

    Example:
        >>> readout(torch.ones(1, 4), torch.ones(2, 4))
        tensor([[1., 1.]])
    """
    return _product(x, weight, None, 1 / weight.shape[1], 1 / math.sqrt(weight.shape[0]), float8)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, forward: float, backward: float, float8: bool) -> Tensor:
    rows = 1 / math.sqrt(max(1, x.numel() // x.shape[-1]))
    x, weight = scaled(x, 1.0, backward), scaled(weight, 1.0, rows)
    if float8:
        out = as_float8(functional.linear(as_float8(x), as_float8(weight)), None, torch.float8_e5m2)
    else:
        out = functional.linear(x, weight)
    out = scaled(out, forward)
    return out if bias is None else out + scaled(bias, 1.0, rows)


def embedding(
    indices: Int[Tensor, "*batch"], weight: Float[Tensor, "vocabulary width"]
) -> Float[Tensor, "*batch width"]:
    """Rows of a table of scale 1; its gradient times `sqrt(vocabulary / number of indices)`.

    Args:
        indices: of rows.
        weight: the table.

    Returns:
        The rows.

    Example:
        >>> embedding(torch.tensor([1]), torch.eye(2))
        tensor([[0., 1.]])
    """
    return functional.embedding(indices, scaled(weight, 1.0, math.sqrt(weight.shape[0] / max(1, indices.numel()))))


def relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`sqrt(2) max(x, 0)`; its gradient has scale 1 too."""
    return functional.relu(x) * RELU


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The exact GELU over its scale; the same factor in both passes."""
    return functional.gelu(x) * GELU


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x sigmoid(x)` over its scale; the same factor in both passes."""
    return functional.silu(x) * SILU


def layer_norm(x: Float[Tensor, "*batch width"], eps: float = 1e-5) -> Float[Tensor, "*batch width"]:
    """Mean 0 and variance 1 over the last dimension, which is unit scale already; without gains, as u-muP has it."""
    return functional.layer_norm(x, x.shape[-1:], eps=eps)


def rms_norm(x: Float[Tensor, "*batch width"], eps: float = 1e-5) -> Float[Tensor, "*batch width"]:
    """Root mean square 1 over the last dimension; without gains."""
    return functional.rms_norm(x, x.shape[-1:], eps=eps)


def attention(
    query: Float[Tensor, "*batch length width"],
    key: Float[Tensor, "*batch length width"],
    value: Float[Tensor, "*batch length width"],
    *,
    causal: bool = True,
    multiplier: float = 1.0,
) -> Float[Tensor, "*batch length width"]:
    """Softmax attention with logits `multiplier * query . key / width`, its output over its scale.

    Logits are nearly flat at first: position i averages i values, of scale `1 / sqrt(i)`; over all s positions that is
    `sqrt(H_s / s)` with the harmonic number H_s, without the mask `1 / sqrt(s)`. For large multipliers attention picks single
    values, of scale 1: u-muP interpolates geometrically with weight `1 / (1 + 4 width / multiplier^2)`.

    Args:
        query: of scale 1, a head's.
        key: of scale 1.
        value: of scale 1.
        causal: whether positions see none behind them.
        multiplier: u-muP's hyperparameter of attention.

    Returns:
        Outputs of scale 1, larger at first positions.

    Raises:
        BadInput: for a multiplier that is not above 0.

    Example:
        >>> attention(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.ones(1, 2, 4))[0, :, 0]
        tensor([1.1450, 1.1450])
    """
    require_float("multiplier", multiplier, above=0)
    length, width = value.shape[-2:]
    flat = math.sqrt((sum(1 / i for i in range(1, length + 1)) if causal else 1.0) / length)
    picked = 1 / (1 + 4 * width / multiplier**2)
    logits = (multiplier / width) * (query @ key.transpose(-1, -2))
    if causal:
        future = torch.ones(length, length, device=value.device, dtype=torch.bool).triu(1)
        logits = logits.masked_fill(future, -torch.inf)
    return (logits.softmax(dim=-1) @ value) / flat ** (1 - picked)


def residual_weights(index: int, branches: int) -> tuple[float, float]:
    """Weights (stream, branch) of the residual sum of branch `index` of `branches`; their squares add up to 1.

    The stream keeps scale 1 while the embedding, all even branches (attention) and all odd ones contribute alike to the end: with
    the ratio of branch over stream `1 / sqrt(branches / 2 + index)`.

    Source: Blake et al. 2024, arXiv 2407.17465, appendix G.2.2, with both its multipliers 1.

    Args:
        index: of the branch, from 0.
        branches: their number.

    Returns:
        The two weights.

    Raises:
        BadInput: for an index outside the number of branches.

    Example:
        >>> [round(w**2, 3) for w in residual_weights(0, 2)]
        [0.5, 0.5]
    """
    require_int("index", index, least=0, most=require_int("branches", branches, least=1) - 1)
    ratio = 1 / (branches / 2 + index)
    return math.sqrt(1 / (1 + ratio)), math.sqrt(ratio / (1 + ratio))


def cross_entropy(logits: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """The mean cross-entropy; its gradient to the logits has scale 1 for flat ones.

    Flat, that gradient is (1/c - onehot), of scale `sqrt(c - 1) / c`; over n rows the mean divides it by n.

    Args:
        logits: the classes last.
        targets: class indices.

    Returns:
        The loss.

    Raises:
        BadInput: for fewer than two classes.

    Example:
        >>> logits = torch.zeros(3, 5, requires_grad=True)
        >>> cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        >>> round(logits.grad.square().mean().sqrt().item(), 4)
        1.0
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise BadInput("logits", "of two classes or more", describe(logits))
    rows = logits.reshape(-1, classes)
    factor = len(rows) * classes / math.sqrt(classes - 1)
    return functional.cross_entropy(scaled(rows, 1.0, factor), targets.reshape(-1))
