"""A network whose layers are replaced by pairs of thin ones that are best on the layers' own inputs."""

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
    "name": "WhitenedLayers",
    "nouns": ["network"],
    "rows": [],
    "replaces": "a trained network, layer by layer, on the data it is asked about",
    "certificate": "Probable",
    "rate": "that of the singular values of the layers' weights times the root of their inputs' covariance",
    "cost": "rank (inputs + outputs) instead of inputs x outputs per layer",
    "parameters": {"percent": ["integer", 1, 100], "samples": ["integer", 1, None]},
    "budget": {"parameter": "percent", "start": 10, "factor": 2, "most": 100},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class WhitenedLayers(Method):
    """Linear and convolutional layers by the pairs of lower rank that change the layers' outputs on data least.

    For a layer `W x + b` whose inputs have mean m and covariance C, the pair `W2 (W1 x) + b + (W - W2 W1) m` minimizes
    `E ||W x - W' x - c||_2^2 = tr((W - W') C (W - W')^T)` over all W' of rank r and constants c: the truncated singular value
    decomposition of `W C^(1/2)`, mapped back by `C^(-1/2)` (theorem 1 of Chen, Yu, Dhillon and Hsieh 2021, "DRONE: Data-aware
    Low-rank Compression for Large NLP Models", NeurIPS 34; sections 3.1 and theorem 3.2 of Wang, Zheng, Wan and Zhang 2024,
    "SVD-LLM", arXiv 2403.07378). What is kept as it is: see `TruncatedLayers`.

    Departures from these:
    1. C is the covariance and the bias takes up the mean; they take second moments and keep the bias, which is never better.
    2. Ranks are chosen over all layers at once, with each layer's error weighted by the mean square of the gradient at its
       outputs (of a random score of the network's outputs, see `Network.score`); they give every layer one ratio.
    3. Positions on which no output depends (padding) are left out.
    4. The singular values are computed from the symmetric root of C, with eigenvalues below round-off raised to it.

    Args:
        percent: parameters kept, of those of the weights that can be factorized; at least rank one is kept of each.
        samples: rows of data used, at most; all fitting rows where there are fewer.

    Example:
        >>> import torch
        >>> from nearly.core.nouns import Network
        >>> data = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = WhitenedLayers(percent=50).fit(Network(torch.nn.Linear(8, 8), data))
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
                name: factorize(
                    weights[name],
                    right=seen.covariance,
                    scale=float(seen.gradients.trace()) / len(seen.gradients),
                    mean=seen.mean,
                )
                for name, seen in moments(target, rows, generator).items()
            }

        return compress_by_data(self, target, supply, factors)
