"""A network whose layers are replaced by pairs of thin ones, by the singular values of their weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.networks._thin_layers import ThinNetwork, compress, factorize, refuses, weights_of

if TYPE_CHECKING:
    import torch

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
    "budget": {"parameter": "percent", "start": 10, "factor": 2, "most": 100},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class TruncatedLayers(Method):
    """Linear and convolutional layers by the best ones of lower rank in the Frobenius norm of their weights.

    The baseline of weight compression: it looks at no data, so that directions that matter to the data are cut like any others.
    A layer `x -> W x + b` becomes `x -> W2 (W1 x) + b`; a convolution one to r channels and a 1 x 1 convolution. Ranks are chosen
    over all layers at once for a budget of parameters, layers whose pair would not be smaller stay dense, and so do those that
    are better left alone. The error that is shared out is `sum over layers of ||W - W2 W1||_F^2 / mean(W^2)`: every layer's
    weights count as if their root mean square were one, as nothing else tells layers apart without data.

    Shared weights stay shared; a weight that a module of another kind holds too (an embedding's, tied to an output head),
    grouped convolutions and layers inside `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` are left alone. Pairs are plain
    torch layers: what `torch.export` makes of `surrogate.model.module` loads where Nearly is not installed.

    Args:
        percent: parameters kept, of those of the weights that can be factorized; at least rank one is kept of each.

    Example:
        >>> import torch
        >>> from nearly.core.nouns import Network
        >>> data = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = TruncatedLayers(percent=50).fit(Network(torch.nn.Linear(8, 8), data))
        >>> surrogate.model.ranks
        {'': 2}
    """

    model = ThinNetwork
    percent: int = 50

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs layers to factorize."""
        return super().refuses(target) or refuses(target)

    def _fit(self, target: Network, supply: Supply, generator: torch.Generator) -> ThinNetwork:
        key = self.id()
        if key not in supply.kept:
            # The smallest normal number keeps a layer of zeros out of trouble.
            supply.kept[key] = {
                name: factorize(w, scale=1 / max(float(w.double().square().mean()), 1e-300))
                for name, w in weights_of(target.module).items()
            }
        return compress(target, supply.kept[key], self.percent)
