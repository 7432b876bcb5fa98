"""A network whose layers are replaced by pairs of thin ones, the rows of their weights weighted by Fisher information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearly.core.method import Method
from nearly.networks._replay import replay
from nearly.networks._thin_layers import ThinNetwork, compress_by_data, factorize, refuses

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearly.core.nouns import Network
    from nearly.core.supply import Supply
    from nearly.core.target import Target
    from nearly.networks._thin_layers import Factors

CARD = {
    "name": "FisherWeightedLayers",
    "nouns": ["network"],
    "rows": [137],
    "replaces": "a trained network, layer by layer, rows of weights by their importance",
    "certificate": "Probable",
    "rate": "that of the singular values of the layers' weights with rows scaled by the root of their Fisher information",
    "cost": "rank (inputs + outputs) instead of inputs x outputs per layer",
    "parameters": {"percent": ["integer", 1, 100], "samples": ["integer", 1, None]},
    "budget": {"parameter": "percent", "start": 10, "factor": 2, "most": 100},
    "skips": {},
}


@dataclass(frozen=True, kw_only=True)
class FisherWeightedLayers(Method):
    """Linear and convolutional layers by pairs of lower rank that spare the weights with much Fisher information.

    With `F_ij = mean over rows of data of (d score / d W_ij)^2` and `D = diag(sqrt(sum_j F_ij))`, the pair minimizes
    `||D W - D W2 W1||_F^2` among all of rank r: the truncated singular value decomposition of `D W`, mapped back by `D^(-1)` (Hsu,
    Hua, Chang, Lou, Shen and Jin 2022, "Language model compression with weighted low-rank factorization", arXiv 2207.00112,
    section 3). What is kept as it is: see `TruncatedLayers`.

    Departures from the paper:
    1. The gradients are those of a random score of the network's outputs in the target's metric (`Network.score`): for "kl" and
       "top1" the log-likelihood of a label drawn from the network's own probabilities, where the paper takes the training loss.
    2. Ranks are chosen over all layers at once, for the error `sum_ij (mean_j F_ij) E_ij^2`; the paper takes one ratio.
    3. Calls of a shared layer count as if each had weights of its own; rows of no Fisher information are raised to round-off.
    4. No training follows.

    Args:
        percent: parameters kept, of those of the weights that can be factorized; at least rank one is kept of each.
        samples: rows of data used, at most; all fitting rows where there are fewer.

    Example:
        >>> from nearly.core.nouns import Network
        >>> data = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = FisherWeightedLayers(percent=50).fit(Network(torch.nn.Linear(8, 8), data))
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
            sums = {name: torch.zeros(len(w), dtype=torch.float64, device=w.device) for name, w in weights.items()}

            def see(name: str, x: Tensor, g: Tensor) -> None:
                sums[name] += row_information(x, g)

            replay(target, rows, generator, see)
            return {
                name: factorize(w, left=torch.diag(sums[name] / len(rows)), scale=1 / w[0].numel())
                for name, w in weights.items()
            }

        return compress_by_data(self, target, supply, factors)


def row_information(x: Float[Tensor, "n t i"], g: Float[Tensor, "n t o"]) -> Float[Tensor, " o"]:
    """Squared gradients of a weight, summed over the columns and over n rows of data, without forming the n gradients.

    The gradient of row n is `g_n^T x_n`, so that its squares sum along the columns to the diagonal of `g^T (x x^T) g`.
    """
    x, g = x.double(), g.double()  # squares leave the range of lower precisions
    return ((x @ x.transpose(1, 2) @ g) * g).sum(dim=(0, 1))
