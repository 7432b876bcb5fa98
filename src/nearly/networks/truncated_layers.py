"""A network whose linear layers are replaced by pairs of thin ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearly.core.errors import BadInput
from nearly.core.method import Method
from nearly.core.surrogate import Model
from nearly.core.validate import describe

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearly.core.nouns import Network
    from nearly.core.supply import Supply
    from nearly.core.target import Target

CARD = {
    "name": "TruncatedLayers",
    "nouns": ["network"],
    "rows": [],
    "replaces": "a trained network, layer by layer",
    "certificate": "Probable",
    "rate": "that of the layers' singular values",
    "cost": "rank (inputs + outputs) instead of inputs x outputs per layer",
    "parameters": {"percent": ["integer", 1, 100]},
    "budget": {"parameter": "percent", "start": 6, "factor": 2, "most": 100},
    "skips": {},
}


class ThinPair(nn.Sequential):
    """`x -> W2 (W1 x) + b`, two linear layers in place of one."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        kind = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        first = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False, **kind)
        second = nn.utils.skip_init(nn.Linear, rank, layer.out_features, bias=layer.bias is not None, **kind)
        super().__init__(first, second)

    @torch.no_grad()
    def fill(self, layer: nn.Linear) -> None:
        """Set both layers to the layer's truncated singular value decomposition, its singular values shared evenly."""
        first, second = self[0], self[1]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        u, s, vt = torch.linalg.svd(layer.weight, full_matrices=False)
        rank = first.out_features
        root = s[:rank].sqrt()
        first.weight.copy_(root[:, None] * vt[:rank])
        second.weight.copy_(u[:, :rank] * root)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)


class ThinNetwork(Model):
    """A copy of the module with thin pairs in it."""

    needs_target = True

    def __init__(self, *, ranks: dict[str, int], module: nn.Module) -> None:
        super().__init__(ranks=ranks)
        self.module = module.eval()

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], target: Target | None) -> ThinNetwork:
        """Take the skeleton from the target's module, and all weights from the artifact.

        Raises:
            BadInput: when the target is another network.
        """
        module = copy.deepcopy(getattr(target, "module", None))
        if module is None:
            raise BadInput("target", "a Network of the module that was compressed", describe(target))
        layers = dict(module.named_modules())
        for name, rank in settings["ranks"].items():
            layer = layers.get(name)
            if not isinstance(layer, nn.Linear):
                raise BadInput("target", f"a Network with a linear layer {name!r}", describe(target))
            module = replace_layer(module, name, ThinPair(layer, rank))
        model = cls(**settings, module=module)
        model.load_state_dict(tensors)
        return model

    @property
    def operations(self) -> int:
        """Two per weight of every linear layer, for one row of activations."""
        return sum(2 * m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The thin network's outputs."""
        return self.module(inputs)


@dataclass(frozen=True, kw_only=True)
class TruncatedLayers(Method):
    """Every `nn.Linear` by the best one of lower rank in the 2-norm of its weights; layers that would not shrink stay.

    The baseline of weight compression: it looks at no data, so that directions that matter to the data are cut like any others.

    Args:
        percent: rank kept, of each layer's full rank.

    Example:
        >>> from nearly.core.nouns import Network
        >>> data = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = TruncatedLayers(percent=100).fit(Network(nn.Linear(8, 8), data))
        >>> surrogate.model.ranks
        {}
    """

    model = ThinNetwork
    percent: int = 50

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs linear layers."""
        layers = getattr(target, "module", nn.Identity()).modules()
        return super().refuses(target) or (
            None if any(isinstance(m, nn.Linear) for m in layers) else "it needs linear layers (torch.nn.Linear)"
        )

    def _fit(self, target: Network, supply: Supply, generator: torch.Generator) -> ThinNetwork:
        module = copy.deepcopy(target.module).requires_grad_(False)
        ranks = {}
        for name, layer in list(module.named_modules()):
            if not isinstance(layer, nn.Linear):
                continue
            rank = math.ceil(self.percent / 100 * min(layer.weight.shape))
            if rank * sum(layer.weight.shape) < layer.weight.numel():
                ranks[name] = rank
                pair = ThinPair(layer, rank)
                pair.fill(layer)
                module = replace_layer(module, name, pair.requires_grad_(False))
        return ThinNetwork(ranks=ranks, module=module)


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put a layer at a dotted name; returns the module, or the layer itself where the name is empty."""
    if not name:
        return layer
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
    return module
