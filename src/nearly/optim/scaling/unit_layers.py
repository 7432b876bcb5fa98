"""Layers of unit-scaled operations, and the rates of u-muP for their parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.validate import describe, generator_from, require_float, require_int
from nearly.optim.scaling import unit


class _Table(nn.Module):
    """A weight of standard normal numbers."""

    def __init__(self, shape: tuple[int, int], seed: int | torch.Generator) -> None:
        super().__init__()
        for size in shape:
            require_int("sizes of a layer", size, least=1)
        self.weight = nn.Parameter(torch.randn(shape, generator=generator_from(seed)))

    def extra_repr(self) -> str:
        """The weight's shape, for printing."""
        return "x".join(map(str, self.weight.shape))


class UnitLinear(_Table):
    """A hidden layer of scale 1: `unit.linear` with a normal weight and, on request, a bias from 0.

    Args:
        inputs: their number.
        outputs: their number.
        bias: whether there is one.
        float8: simulate products in eight bits.
        seed: of the weight: another one for each layer, or one generator for all.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> out = UnitLinear(256, 512, seed=draw)(torch.randn(64, 256, generator=draw))
        >>> 0.95 < out.std().item() < 1.05
        True
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = False, float8: bool = False, seed: int | torch.Generator
    ) -> None:
        super().__init__((outputs, inputs), seed)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.float8 = float8

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*batch, inputs) to (*batch, outputs)."""
        return unit.linear(x, self.weight, self.bias, float8=self.float8)


class UnitReadout(_Table):
    """The last layer, `unit.readout`.

    Args:
        inputs: their number.
        outputs: their number.
        float8: simulate products in eight bits.
        seed: of the weight: another one for each layer, or one generator for all.

    Example:
        >>> UnitReadout(256, 10, seed=0)(torch.ones(1, 256)).shape
        torch.Size([1, 10])
    """

    def __init__(self, inputs: int, outputs: int, *, float8: bool = False, seed: int | torch.Generator) -> None:
        super().__init__((outputs, inputs), seed)
        self.float8 = float8

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*batch, inputs) to (*batch, outputs)."""
        return unit.readout(x, self.weight, float8=self.float8)


class UnitEmbedding(_Table):
    """A table of scale 1, `unit.embedding`.

    Args:
        vocabulary: number of rows.
        width: of a row.
        seed: of the weight: another one for each layer, or one generator for all.

    Example:
        >>> UnitEmbedding(10, 4, seed=0)(torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 4])
    """

    def __init__(self, vocabulary: int, width: int, *, seed: int | torch.Generator) -> None:
        super().__init__((vocabulary, width), seed)

    def forward(self, indices: Tensor) -> Tensor:
        """Shape (*batch) to (*batch, width)."""
        return unit.embedding(indices, self.weight)


class UnitResidual(nn.Module):
    """`a x + b branch(x)` with the weights of `unit.residual_weights`; the branch sees gradients of scale 1.

    The factor b of the branch's gradient is applied where the branch begins, not where it ends: the sum's gradient is exact.

    Args:
        branch: maps a tensor of scale 1 to one of its own shape and scale 1.
        index: of the branch along the stream, from 0.
        branches: their number.

    Raises:
        BadInput: for a branch that is no module, and an index outside the number of branches.

    Example:
        >>> UnitResidual(nn.Identity(), 0, 2)(torch.ones(1)).item()
        1.414...
    """

    def __init__(self, branch: nn.Module, index: int, branches: int) -> None:
        super().__init__()
        if not isinstance(branch, nn.Module):
            raise BadInput("branch", "a torch.nn.Module", describe(branch))
        self.branch, self.branches = branch, branches
        self.weights = unit.residual_weights(index, branches)

    def forward(self, x: Tensor) -> Tensor:
        """The stream behind the branch."""
        stream, weight = self.weights
        out = self.branch(unit.scaled(x, 1.0, weight))
        return stream * x + unit.scaled(out, weight)


def unit_groups(model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    r"""Parameter groups for Adam or AdamW on a model of unit-scaled layers: u-muP's rates.

        UnitLinear   lr / sqrt(inputs)          UnitEmbedding   lr / sqrt(width)
        UnitReadout  lr                         biases, others  lr
        within a UnitResidual                   times 1 / sqrt(branches)

    Weights and activations have scale 1 at all widths, so that one rate, of order 1, serves models of all widths and depths.

    Source: Blake et al. 2024, u-muP, arXiv 2407.17465, table 2.

    Args:
        model: of the layers above.
        lr: the rate; near 1.
        weight_decay: independent of the rate, as u-muP has it: groups hold `weight_decay` over their own rate, so that each step of
            AdamW multiplies weights by `1 - weight_decay`.

    Returns:
        One group per rate.

    Raises:
        BadInput: for numbers out of range, and weights shared by layers that ask for different rates.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> layers = UnitEmbedding(10, 64, seed=draw), UnitLinear(64, 256, seed=draw), UnitReadout(256, 10, seed=draw)
        >>> [group["lr"] for group in unit_groups(nn.Sequential(*layers), lr=0.5)]
        [0.0625, 0.5]
    """
    require_float("lr", lr, above=0)
    if not 0 <= weight_decay < 1:
        raise BadInput("weight_decay", "in [0, 1)", describe(weight_decay))
    rates: dict[Tensor, float] = {}

    def read(module: nn.Module, rate: float) -> None:
        rate = rate / math.sqrt(module.branches) if isinstance(module, UnitResidual) else rate
        divided = isinstance(module, UnitLinear | UnitEmbedding)
        for name, parameter in module.named_parameters(recurse=False):
            own = rate / math.sqrt(parameter.shape[1]) if divided and name == "weight" else rate
            if not math.isclose(rates.setdefault(parameter, own), own):
                requirement = "of layers that share weights only where their rates are the same"
                raise BadInput(
                    "model", requirement, f"rates {rates[parameter]:.3g} and {own:.3g} of one {describe(parameter)}"
                )
        for child in module.children():
            read(child, rate)

    read(model, float(lr))
    groups: dict[float, list[Tensor]] = {}
    for parameter, rate in rates.items():
        groups.setdefault(rate, []).append(parameter)
    return [{"params": held, "lr": rate, "weight_decay": weight_decay / rate} for rate, held in groups.items()]
