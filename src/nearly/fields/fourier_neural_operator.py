"""The Fourier neural operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.fields._fourier_network import FourierNetwork
from nearly.fields._symmetries import apply_random, find_symmetries
from nearly.linalg.features import apply_features, features_of, fit_features
from nearly.linalg.scaling import binary_scale

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.nouns import Field
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "FourierNeuralOperator",
    "nouns": ["field"],
    "rows": [83],
    "replaces": "a simulation on a grid, from input fields or parameter vectors to fields",
    "certificate": "Probable",
    "rate": "measured, not proven: about samples^(-1/2)",
    "cost": "a Fourier transform and two products of channels per layer",
    "parameters": {
        "samples": ["integer", 8, None],
        "epochs": ["integer", 1, None],
        "width": ["integer", 1, None],
        "modes": ["optional integer", 1, None],
        "layers": ["integer", 1, None],
    },
    "budget": {"parameter": "samples", "start": 32, "factor": 4, "most": 4096},
    "quick": {"epochs": 15},
    "skips": {},
}

BATCH = 20
RATE = 5e-3  # peak learning rate of AdamW with weight decay 1e-4; 2e-3 and 4e-3 learn less in as many steps
FLOOR = 3e-2  # errors of fields smaller than this share of the typical size are taken relative to this share
WARM_UP = 0.15  # share of the steps in which the rate rises, before it falls to zero along a cosine


class FourierModel(Model):
    """`s_y N((x - m_x) / s_x) + m_y`, N a `FourierNetwork`, channel by channel.

    The grid is the longest shape that inputs and outputs end with; what stands before it are channels. Inputs that share no grid
    with the outputs are vectors: their features are constant channels on the outputs' grid.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        grid: list[int],
        vector: bool,
        shape: list[int],
        width: int,
        modes: int,
        layers: int,
        seed: int,
        **tensors: Tensor,
    ) -> None:
        own = {name: value for name, value in tensors.items() if not name.startswith("network.")}
        super().__init__(
            channels=channels,
            grid=grid,
            vector=vector,
            shape=shape,
            width=width,
            modes=modes,
            layers=layers,
            seed=seed,
            **own,
        )
        generator = torch.Generator().manual_seed(seed)
        self.network = FourierNetwork(channels, len(grid), width, modes, layers, generator)
        if len(own) < len(tensors):
            self.network.to(self.output_mean.dtype)
            self.load_state_dict(tensors)
            self.network.requires_grad_(False)

    @property
    def operations(self) -> int:
        """Products of channels, on all grid points and on the frequencies kept, and the transforms."""
        points, log = math.prod(self.grid), max(1, math.prod(self.grid)).bit_length()
        pointwise = sum(p.numel() for name, p in self.network.named_parameters() if "spectral" not in name)
        spectral = sum(p.numel() for name, p in self.network.named_parameters() if "spectral" in name)
        # A complex product is four real ones; a real transform of n points takes 2.5 n log2 n operations.
        return 2 * points * pointwise + 4 * spectral + 5 * points * log * self.width * self.layers

    def encode(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n channels *grid"]:
        """Inputs as scaled channels on the grid: the fitted one, or another for input fields of another resolution."""
        if self.vector:
            features = features_of(self, inputs)
            return features.reshape(*features.shape, *(1 for _ in self.grid)).expand(-1, -1, *self.grid)
        grid = inputs.shape[inputs.ndim - len(self.grid) :]
        values = inputs.reshape(inputs.shape[0], self.channels[0], *grid).to(self.input_mean)
        return (values - self.input_mean) / self.input_scale

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Output fields on the grid of the inputs."""
        outputs = self.network(self.encode(inputs)) * self.output_scale + self.output_mean
        return outputs.reshape(inputs.shape[0], *self.shape, *outputs.shape[2:])


@dataclass(frozen=True, kw_only=True)
class FourierNeuralOperator(Method):
    """A network of Fourier layers `v -> gelu(W v + F^-1 R F v)`, trained on the mean relative L2 error.

    It learns maps from input fields (or parameter vectors) to fields on a regular grid, and answers on grids of other resolution.
    Reflections and exchanges of axes that the pairs seem to have as symmetries (see `find_symmetries`) are applied at random in
    training: on two-dimensional Darcy flow they are worth several times as many samples.

    It is trained in single precision; for data in double precision it then answers in that.

    Departures from the paper: (1) a residual two-layer map of channels in every layer, as in the authors' later code
    (neuraloperator); (2) symmetries; (3) frequencies at half the sampling rate are left out, so that a layer means the same on all
    grids.

    Source: Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar 2021, Fourier neural operator for parametric
    partial differential equations, arXiv 2010.08895, section 4.

    Args:
        samples: pairs to fit.
        epochs: passes over them.
        width: channels inside.
        modes: highest frequency kept along every axis; by default 16 in one dimension, 4 in more.
        layers: Fourier layers.

    Example:
        >>> from nearly.core.nouns import Field
        >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        >>> fit = FourierNeuralOperator(samples=16, epochs=1, width=4).fit(Field.from_data(x, x.cumsum(dim=1)))
        >>> fit.model(x[:3]).shape
        torch.Size([3, 16])
    """

    model = FourierModel
    samples: int = 1000
    epochs: int = 60
    width: int = 32
    modes: int | None = None
    layers: int = 4

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs outputs on a regular grid."""
        scattered = getattr(target, "points", None) is not None
        return super().refuses(target) or ("its unknowns lie on no regular grid" if scattered else None)

    def _fit(self, target: Field, supply: Supply, generator: torch.Generator) -> FourierModel:
        pairs = supply.fitting(self.samples)
        grid, vector = _shared_grid(pairs.inputs.shape[1:], pairs.outputs.shape[1:])
        # Fields of any size come into the range of single precision.
        units = {"output": binary_scale(pairs.outputs.flatten(), 0)}
        if not vector:
            units["input"] = binary_scale(pairs.inputs.flatten(), 0)
        inputs = (pairs.inputs / units.get("input", 1)).to(torch.float32)
        outputs = (pairs.outputs / units["output"]).to(torch.float32)
        outputs = outputs.reshape(len(outputs), -1, *grid)
        tensors, channels = _scales("output", outputs), outputs.shape[1]
        if vector:
            features = fit_features(inputs.flatten(1))
            tensors |= features
            taken = apply_features(inputs, **features).shape[1]
        else:
            taken = inputs[0].numel() // math.prod(grid)
            inputs = inputs.reshape(len(inputs), taken, *grid)
            tensors |= _scales("input", inputs)
        model = FourierModel(
            channels=[taken, channels],
            grid=list(grid),
            vector=vector,
            shape=list(pairs.outputs.shape[1 : pairs.outputs.ndim - len(grid)]),
            width=self.width,
            modes=self.modes or (16 if len(grid) == 1 else 4),
            layers=self.layers,
            seed=int(torch.randint(2**31, (), generator=generator)),
            **tensors,
        ).to(inputs.device)
        symmetries = [] if vector else find_symmetries(inputs, outputs)
        self._train(model, inputs, outputs, symmetries, supply, generator)
        model = model.to(pairs.outputs.dtype)
        for name, unit in units.items():
            for buffer in (model.get_buffer(f"{name}_mean"), model.get_buffer(f"{name}_scale")):
                buffer.mul_(unit)
        return model

    def _train(
        self,
        model: FourierModel,
        inputs: Tensor,
        outputs: Tensor,
        symmetries: list[Any],
        supply: Supply,
        generator: torch.Generator,
    ) -> None:
        batches = math.ceil(len(inputs) / BATCH)
        optimizer = torch.optim.AdamW(model.network.parameters(), lr=RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=self.epochs * batches, pct_start=WARM_UP
        )
        sizes = outputs.double().flatten(1).norm(dim=1)  # symmetries keep them
        sizes = sizes.clamp(min=FLOOR * float(sizes.mean())).to(outputs.dtype)
        for epoch in range(self.epochs):
            for rows in torch.randperm(len(inputs), generator=generator).to(inputs.device).chunk(batches):
                x, y = apply_random(symmetries, (inputs[rows], outputs[rows]), generator)
                difference = (model(x).reshape(y.shape) - y).flatten(1)
                # Divided before it is squared: squares leave the range of single precision sooner.
                loss = (difference / sizes[rows, None]).norm(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            if supply.progress is not None:
                supply.progress("epochs", epoch + 1, self.epochs)
        model.network.requires_grad_(False)


def _shared_grid(inputs: torch.Size, outputs: torch.Size) -> tuple[tuple[int, ...], bool]:
    """The longest shape that both end with; where there is none, the outputs' own, and that the inputs are vectors."""
    shared = 0
    while shared < min(len(inputs), len(outputs)) and inputs[-1 - shared] == outputs[-1 - shared]:
        shared += 1
    return (tuple(outputs[len(outputs) - shared :]), False) if shared else (tuple(outputs), True)


def _scales(name: str, fields: Float[Tensor, "n c *grid"]) -> dict[str, Tensor]:
    """Mean and standard deviation of every channel."""
    over = (0, *range(2, fields.ndim))
    mean, scale = fields.mean(dim=over, keepdim=True), fields.std(dim=over, keepdim=True)
    return {f"{name}_mean": mean[0], f"{name}_scale": torch.where(scale > 0, scale, torch.ones_like(scale))[0]}
