"""What passes through the layers of a network on data: their inputs, and gradients at their outputs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearly.networks._thin_layers import Layer, find_layers, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    from nearly.core.nouns import Network

BATCH = 64  # rows at once; their activations and gradients are held


def replay(
    target: Network,
    rows: Tensor,
    generator: torch.Generator,
    see: Callable[[str, Float[Tensor, "n t i"], Float[Tensor, "n t o"]], None],
) -> None:
    """Run rows forward and a random score of the outputs backward; show every layer's inputs and output gradients.

    The score's gradient g at the outputs has `E[g g^T]` = the curvature of the target's error (`Network.score`), so that the
    gradients shown have as second moments the curvature as the layer's outputs see it (Fisher information, where the metric is
    "kl"): one draw per row. Where the gradient at a position is exactly zero, as at padding, no output depends on it.

    Args:
        target: its module is copied and not touched.
        rows: inputs.
        generator: of the scores.
        see: called with the layer's name (that of `find_layers`), inputs and gradients, for each of its calls: t positions per row,
            a convolution's inputs as patches of its kernel's size.
    """
    module = copy.deepcopy(target.module).eval().requires_grad_(False)
    for first, names in find_layers(module).items():
        for layer in {module.get_submodule(name) for name in names}:
            layer.register_forward_hook(_hook(first, see), with_kwargs=True)
    for batch in rows.split(BATCH):
        with torch.enable_grad():
            score = target.score(module(batch), generator)
            if score.requires_grad:  # else no layer was called
                score.sum().backward()


def _hook(name: str, see: Callable[[str, Tensor, Tensor], None]) -> Callable[[nn.Module, Any, Any, Tensor], Tensor]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], outputs: Tensor) -> Tensor:
        assert isinstance(layer, Layer)
        x = (inputs[0] if inputs else named["input"]).detach()

        def backward(gradient: Tensor) -> None:
            see(name, *_positions(layer, x, gradient))

        given = outputs
        if not outputs.requires_grad:
            outputs.requires_grad_()
            given = outputs.clone()  # a leaf must not be changed in place, as an activation might do
        outputs.register_hook(backward)
        return given

    return hook


def _positions(layer: Layer, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == layer.weight.ndim - 1:  # one row, without a dimension for rows
        x, gradient = x[None], gradient[None]
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]), gradient.reshape(len(x), -1, gradient.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    flat = isinstance(layer, nn.Conv1d)
    size, stride, dilation = (
        (1, *value) if flat else value for value in (layer.kernel_size, layer.stride, layer.dilation)
    )
    patches = nn.functional.unfold(x[:, :, None] if flat else x, size, dilation=dilation, stride=stride)
    return patches.transpose(1, 2), gradient.flatten(2).transpose(1, 2)


class Moments:
    """Moments of one layer's inputs and of the gradients at its outputs, over the positions that any output depends on.

    Args:
        weight: of the layer.
    """

    def __init__(self, weight: Tensor) -> None:
        outputs, inputs = weight.flatten(1).shape
        self.positions = 0
        # A mean nearby, about which covariances cancel little.
        self.shift = weight.new_zeros(inputs, dtype=torch.float64)
        self.sum = weight.new_zeros(inputs, dtype=torch.float64)
        self.inputs = weight.new_zeros(inputs, inputs, dtype=torch.float64)
        self.gradients = weight.new_zeros(outputs, outputs, dtype=torch.float64)

    def add(self, x: Float[Tensor, "n t i"], g: Float[Tensor, "n t o"]) -> None:
        """Count in one batch."""
        kept = (g != 0).any(dim=2)
        x, g = x[kept].double(), g[kept].double()
        if not self.positions and len(x):
            self.shift = x.mean(dim=0)
        x = x - self.shift
        self.positions += len(x)
        self.sum += x.sum(dim=0)
        self.inputs += x.T @ x
        self.gradients += g.T @ g

    @property
    def mean(self) -> Tensor:
        """Of the inputs."""
        return self.shift + self.sum / max(1, self.positions)

    @property
    def covariance(self) -> Tensor:
        """Of the inputs."""
        beside = self.mean - self.shift
        return self.inputs / max(1, self.positions) - torch.outer(beside, beside)


def moments(target: Network, rows: Tensor, generator: torch.Generator) -> dict[str, Moments]:
    """The moments of every layer; zero for layers that are not called."""
    found = {name: Moments(weight) for name, weight in weights_of(target.module).items()}
    replay(target, rows, generator, lambda name, x, g: found[name].add(x, g))
    return found
