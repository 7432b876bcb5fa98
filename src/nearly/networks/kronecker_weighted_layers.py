"""A network whose layers are replaced by pairs of thin ones, weighted from both sides by what the outputs feel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.core.method import Method
from nearly.networks._replay import moments
from nearly.networks._thin_layers import ThinNetwork, compress_by_data, factorize, refuses

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nearly.core.nouns import Network
    from nearly.core.supply import Supply
    from nearly.core.target import Target
    from nearly.networks._thin_layers import Factors

CARD = {
    "name": "KroneckerWeightedLayers",
    "nouns": ["network"],
    "rows": [],
    "replaces": "a trained network, layer by layer, as its outputs on data feel it",
    "certificate": "Probable",
    "rate": "that of the singular values of the layers' weights between the roots of inputs' and gradients' covariances",
    "cost": "rank (inputs + outputs) instead of inputs x outputs per layer",
    "parameters": {"percent": ["integer", 1, 100], "samples": ["integer", 1, None]},
    "budget": {"parameter": "percent", "start": 10, "factor": 2, "most": 100},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class KroneckerWeightedLayers(Method):
    """Linear and convolutional layers by the pairs of lower rank that change the network's outputs least, to second order.

    A change E of a layer's weight changes the network's error by about `E[(g^T E x)^2]` per position, x the layer's inputs and g
    the gradients at its outputs. With the Fisher information in the Kronecker-factored form `E[x x^T] (x) E[g g^T]` (Martens and
    Grosse 2015, arXiv 1503.05671, section 3) that is `tr(G E C E^T)`, which the truncated singular value decomposition of
    `G^(1/2) W C^(1/2)`, mapped back by both inverse roots, minimizes among all matrices of its rank: the generalized
    Fisher-weighted decomposition (Chekalina et al. 2025, "Generalized Fisher-Weighted SVD", arXiv 2505.17974, section 3). As all
    layers' errors have one unit, that of the network's error, the ranks of all layers follow from one budget. What is kept as
    it is: see `TruncatedLayers`.

    Departures from arXiv 2505.17974:
    1. The Kronecker factors are those of Martens and Grosse, not the nearest Kronecker product by Lanczos iteration.
    2. The gradients are those of a random score of the network's outputs in the target's metric (`Network.score`), which needs
       no labels, in place of the training loss.
    3. C is the covariance of the inputs, and the bias takes up the mean.
    4. Ranks are chosen over all layers at once; they use one ratio.
    5. Positions on which no output depends (padding) are left out; eigenvalues below round-off are raised to it.

    Args:
        percent: parameters kept, of those of the weights that can be factorized; at least rank one is kept of each.
        samples: rows of data used, at most; all fitting rows where there are fewer.

    Example:
        >>> import torch
        >>> from nearly.core.nouns import Network
        >>> data = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = KroneckerWeightedLayers(percent=50).fit(Network(torch.nn.Linear(8, 8), data))
        >>> surrogate.model.ranks
        {'': 2}
    """

    model = ThinNetwork
    percent: int = 50
    samples: int = 3000

    @classmethod
    def refuses(cls, target: Target) -> str | None:
        """Needs layers to factorize."""
        return super().refuses(target) or refuses(target)

    def _fit(self, target: Network, supply: Supply, generator: torch.Generator) -> ThinNetwork:
        def factors(weights: dict[str, Tensor], rows: Tensor) -> dict[str, Factors]:
            return {
                name: factorize(weights[name], left=seen.gradients / len(rows), right=seen.covariance, mean=seen.mean)
                for name, seen in moments(target, rows, generator).items()
            }

        return compress_by_data(self, target, supply, factors)
