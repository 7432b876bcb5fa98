"""The network of the Fourier neural operator, on grids of any dimension and any resolution."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float


class FourierLayer(nn.Module):
    """`v -> gelu(W v + F^-1 R F v)`, then a residual two-layer map of the channels; R acts on the lowest frequencies alone.

    Args:
        width: channels.
        dimension: of the grid.
        modes: highest frequency kept along every axis.
        generator: draws the weights.
    """

    def __init__(self, width: int, dimension: int, modes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.modes = modes
        kept = (2 * modes + 1) ** (dimension - 1) * (modes + 1)
        # Complex numbers as pairs, so that changes of precision and artifacts need not know of them.
        self.spectral = nn.Parameter(torch.randn(kept, width, width, 2, generator=generator) / width)
        self.pointwise = linear(width, width, generator)
        self.first, self.second = linear(width, width, generator), linear(width, width, generator)

    def forward(self, values: Float[Tensor, "n *grid width"]) -> Float[Tensor, "n *grid width"]:
        """The layer's output on the same grid."""
        grid, axes = values.shape[1:-1], tuple(range(1, values.ndim - 1))
        spectrum = torch.fft.rfftn(values, dim=axes, norm="forward")
        places, weights = _low_frequencies(grid, self.modes, values.device)
        kernel = torch.view_as_complex(self.spectral.index_select(0, weights))
        flat = spectrum.flatten(1, -2)
        moved = torch.bmm(flat.index_select(1, places).transpose(0, 1), kernel).transpose(0, 1)
        full = torch.zeros_like(flat).index_copy(1, places, moved).reshape(spectrum.shape)
        smooth = torch.fft.irfftn(full, s=grid, dim=axes, norm="forward")
        hidden = gelu(self.pointwise(values) + smooth)
        return values + self.second(gelu(self.first(hidden)))


class FourierNetwork(nn.Module):
    """Channels and grid coordinates in, channels out: lifting, Fourier layers, projection.

    Args:
        channels: (in, out).
        dimension: of the grid.
        width: channels inside.
        modes: highest frequency kept along every axis; grids too coarse for it use what they have.
        layers: number of Fourier layers.
        generator: draws the weights.
    """

    def __init__(
        self, channels: Sequence[int], dimension: int, width: int, modes: int, layers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.outputs = channels[1]
        self.lift = nn.Sequential(
            linear(channels[0] + dimension, 2 * width, generator), nn.GELU(), linear(2 * width, width, generator)
        )
        self.layers = nn.Sequential(*(FourierLayer(width, dimension, modes, generator) for _ in range(layers)))
        self.project = nn.Sequential(
            linear(width, 4 * width, generator), nn.GELU(), linear(4 * width, channels[1], generator)
        )

    def forward(self, values: Float[Tensor, "n channels *grid"]) -> Float[Tensor, "n out *grid"]:
        """Outputs on the grid of the inputs."""
        grid = values.shape[2:]
        if not values.shape[0]:  # which transforms do not take
            return values.new_zeros(0, self.outputs, *grid)
        lines = [torch.arange(g, dtype=values.dtype, device=values.device) / g for g in grid]
        coordinates = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).expand(values.shape[0], *grid, -1)
        lifted = self.lift(torch.cat([values.movedim(1, -1), coordinates], dim=-1))
        return self.project(self.layers(lifted)).movedim(-1, 1)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear map of channels, drawn as torch draws its own: uniform in +-1/sqrt(inputs)."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
    return layer


@lru_cache(maxsize=64)
def _low_frequencies(grid: Sequence[int], modes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the kept frequencies in the flattened real spectrum of a grid, and the places of their weights."""
    places, weights = [], []
    signed = [*range(modes + 1), *range(-modes, 0)]
    for index, frequency in enumerate(product(*([signed] * (len(grid) - 1)), range(modes + 1))):
        # The highest frequency of an even grid stands for two; it is left out.
        if all(2 * abs(k) < g for k, g in zip(frequency, grid, strict=True)):
            place = 0
            for axis, k in enumerate(frequency):
                size = grid[axis] // 2 + 1 if axis == len(grid) - 1 else grid[axis]
                place = place * size + k % grid[axis]
            places.append(place)
            weights.append(index)
    with torch.inference_mode(False):  # what is kept may be needed by a backward pass later
        return torch.tensor(places, device=device), torch.tensor(weights, device=device)
