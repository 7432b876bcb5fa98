"""Moves of a network's parameters that leave what it computes, to where training goes faster or minima are flatter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import describe, generator_from, require_float, require_int

OBJECTIVES = ("gradient", "sharpness")
DIRECTIONS = 20  # random ones, over which losses around the parameters are averaged


def teleport(
    module: nn.Sequential,
    loss: Callable[[Callable[[Tensor], Tensor]], Tensor],
    *,
    objective: str = "gradient",
    steps: int = 20,
    rate: float = 0.1,
    radius: float = 0.5,
    seed: int = 0,
) -> Tensor:
    r"""Rescale hidden units, in place, so that the network computes the same and the loss has a larger gradient, or is flatter.

    For an activation with $\sigma(c x) = c\,\sigma(x)$ at c > 0 (ReLU, leaky ReLU, none) the parameters $W_i, b_i$ of a layer and
    $W_{i+1}$ of the next compute the same as $e^{s} W_i, e^{s} b_i$ and $W_{i+1} e^{-s}$ for any s, one number for each hidden
    unit: exactly, for all inputs. "gradient" climbs on $\log |\nabla L|^2$ over all s, by which one gradient step gains most;
    "sharpness" descends on the logarithm of the mean loss at parameters that are moved by normal numbers of deviation `radius`.
    Either may come at any step of any optimizer, whose state stays as it is.

    Departures: (1) the positive diagonal group alone; the paper's others keep the loss only on batches with no more rows than
    hidden units; (2) logarithms, and steps that change no s by more than `rate`, so that no rate depends on the loss's scale; (3)
    a step that does not better the objective is left out, and the rate halved.

    Source: Zhao, Gower, Walters, Yu 2024, "Improving Convergence and Generalization Using Parameter Symmetries", arXiv:2305.13404,
    sections 3 and 4; Zhao, Dehmamy, Walters, Yu 2022, "Symmetry Teleportation for Accelerated Optimization", arXiv:2205.10637.

    Args:
        module: linear layers with ReLU, leaky ReLU or nothing between them.
        loss: of a function that is called as the module, with its graph.
        objective: see above.
        steps: on the scales.
        rate: the most that a step changes the logarithm of a scale by.
        radius: of "sharpness".
        seed: of its random numbers.

    Returns:
        The objective's logarithm before and after each step, shape (steps + 1,).

    Raises:
        BadInput: for a module of other layers, and values out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
        >>> x = torch.ones(2, 3)
        >>> before = model(x).detach()
        >>> found = teleport(model, lambda call: call(x).square().mean())
        >>> bool(torch.allclose(model(x), before, atol=1e-5) and found[-1] >= found[0])
        True
    """
    layers = _layers(module)
    if objective not in OBJECTIVES:
        raise BadInput("objective", f"one of {', '.join(OBJECTIVES)}", repr(objective))
    steps, rate = require_int("steps", steps, least=1), require_float("rate", rate, above=0.0)
    radius, draw = require_float("radius", radius, above=0.0), generator_from(seed)
    named = {name: parameter.detach() for name, parameter in module.named_parameters()}
    around = [
        {name: radius * torch.randn(one.shape, generator=draw).to(one) for name, one in named.items()}
        for _ in range(DIRECTIONS if objective == "sharpness" else 0)
    ]

    def value_of(scales: list[Tensor]) -> Tensor:
        """What is to grow."""
        moved = _rescaled(layers, named, scales)

        def at(parameters: dict[str, Tensor]) -> Tensor:
            return loss(lambda *inputs: torch.func.functional_call(module, parameters, inputs))

        if objective == "sharpness":
            return (
                -torch.stack([at({name: moved[name] + shift[name] for name in moved}) for shift in around]).mean().log()
            )
        slopes = torch.autograd.grad(at(moved), list(moved.values()), create_graph=True)
        return torch.stack([slope.square().sum() for slope in slopes]).sum().log()

    scales = [torch.zeros(layer.out_features).to(layer.weight) for _, layer in layers[:-1]]
    value, values = _slope(value_of, scales), []
    for _ in range(steps):
        values.append(value[0])
        most = torch.stack([slope.abs().amax() for slope in value[1]]).amax()
        if not bool(most > 0):
            continue
        tried = [scale + rate / most * slope for scale, slope in zip(scales, value[1], strict=True)]
        found = _slope(value_of, tried)
        if bool(found[0] > value[0]):
            scales, value = tried, found
        else:
            rate = rate / 2
    moved = _rescaled(layers, named, scales)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(moved[name])
    sign = -1 if objective == "sharpness" else 1
    return sign * torch.stack([*values, value[0]])


def _slope(value_of: Callable[[list[Tensor]], Tensor], scales: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.enable_grad():
        leaves = [scale.detach().requires_grad_() for scale in scales]
        value = value_of(leaves)
        return value.detach(), torch.autograd.grad(value, leaves)


def _rescaled(layers: list[tuple[str, nn.Linear]], named: dict[str, Tensor], scales: list[Tensor]) -> dict[str, Tensor]:
    """The parameters with each layer's outputs scaled, and taken back by the next layer."""
    moved = {name: parameter.clone().requires_grad_() for name, parameter in named.items()}
    for (name, layer), (next_name, _), scale in zip(layers, layers[1:], scales, strict=False):
        factor = scale.exp()
        moved[f"{name}.weight"] = moved[f"{name}.weight"] * factor[:, None]
        if layer.bias is not None:
            moved[f"{name}.bias"] = moved[f"{name}.bias"] * factor
        moved[f"{next_name}.weight"] = moved[f"{next_name}.weight"] / factor
    return moved


def _layers(module: Any) -> list[tuple[str, nn.Linear]]:
    """The linear layers with their names.

    Raises:
        BadInput: where anything else than homogeneous activations is between them, or there are fewer than two.
    """
    parts = list(module.named_children()) if isinstance(module, nn.Sequential) else []
    found = [(name, part) for name, part in parts if isinstance(part, nn.Linear)]
    others = [part for _, part in parts if not isinstance(part, nn.Linear | nn.ReLU | nn.LeakyReLU | nn.Identity)]
    if len(found) < 2 or others or not isinstance(parts[-1][1], nn.Linear | nn.Identity):
        requirement = "an nn.Sequential of at least two linear layers with ReLU, LeakyReLU or Identity between them"
        raise BadInput("module", requirement, describe(module))
    return found
