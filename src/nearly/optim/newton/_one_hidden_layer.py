"""Moves of the two layers of a network with one hidden layer, by linear equations over all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nearly.optim._vectors import safe_ratio, wide

if TYPE_CHECKING:
    from nearly.optim._layers import Layer
    from nearly.optim.step import Step


def output_weights(output: Layer, error: Tensor, step: Step) -> tuple[dict[int, Tensor], Tensor]:
    """The output layer's move to its least squares, by parameter, and the errors after it."""
    columns = _columns(output, step)
    move = -least_solution(columns.T @ columns, columns.T @ error)
    return _split(output, step, move.T), error + step.group["lr"] * columns @ move


def hidden_weights(
    layers: list[Layer], error: Tensor, step: Step, activation: nn.Module, *, whitened: bool, gains: bool
) -> dict[int, Tensor]:
    """The hidden layer's move along its negative gradient, by parameter.

    Args:
        layers: the hidden one and the output's.
        error: of each row and output.
        step: whose parameters move.
        activation: between the layers.
        whitened: whether inputs are.
        gains: whether each input has its own, or all have one.

    Returns:
        The moves.
    """
    hidden, output = layers
    columns = _columns(hidden, step)
    change = torch.eye(columns.shape[1], dtype=columns.dtype, device=columns.device)
    if whitened:
        values, vectors = torch.linalg.eigh(columns.T @ columns / len(columns))
        change = torch.where(_large(values), values.clamp(min=0).rsqrt(), 0.0) * vectors
    inputs = columns @ change
    gradient = hidden.output_gradients.to(columns.dtype).T @ inputs
    with torch.enable_grad():
        weight, bias = hidden.module.weight, hidden.module.bias
        sums = nn.functional.linear(hidden.inputs, weight, bias).detach().requires_grad_()
        (bend,) = torch.autograd.grad(activation(sums).sum(), sums)
    outward = output.module.weight.detach().to(columns.dtype)
    # Derivatives of output i by the gain of input m: x_m sum_k w_ik f'_k d_km.
    sides = (bend.to(columns.dtype)[:, None, :] * outward) @ gradient
    by_gains = (inputs[:, None, :] * sides).flatten(0, 1)
    square, slope = by_gains.T @ by_gains, by_gains.T @ error.reshape(-1, 1)
    sizes = least_solution(square, slope)[:, 0] if gains else safe_ratio(slope.sum(), square.sum())
    return _split(hidden, step, (-sizes * gradient) @ change.T)


def least_solution(matrix: Tensor, right: Tensor) -> Tensor:
    """Of least size, of a positive semidefinite system that may be singular: units that say the same as others."""
    values, vectors = torch.linalg.eigh(matrix)
    inverse = torch.where(_large(values), 1 / values, 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ right))


def _large(values: Tensor) -> Tensor:
    """Which eigenvalues are more than rounding."""
    return values > len(values) * torch.finfo(values.dtype).eps * values.abs().amax()


def _columns(layer: Layer, step: Step) -> Tensor:
    """The inputs of the layer's parameters that are stepped: its own for the weights, ones for the bias."""
    inputs, live = layer.inputs.to(wide(layer.inputs.dtype)), {id(parameter) for parameter in step.parameters}
    found = [inputs] if id(layer.module.weight) in live else []
    if id(layer.module.bias) in live:
        found.append(inputs.new_ones(len(inputs), 1))
    return torch.cat(found, 1)


def _split(layer: Layer, step: Step, move: Tensor) -> dict[int, Tensor]:
    """A move of the layer's columns, by parameter."""
    live, found = {id(parameter) for parameter in step.parameters}, {}
    if id(layer.module.weight) in live:
        found[id(layer.module.weight)] = move[:, : layer.module.in_features]
    if id(layer.module.bias) in live:
        found[id(layer.module.bias)] = move[:, -1]
    return found
