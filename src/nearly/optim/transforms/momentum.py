"""Running means of updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Momentum(Transform):
    r"""$m \leftarrow \beta m + u$, as in `torch.optim.SGD`; with `nesterov` the result is $u + \beta m$.

    Args:
        decay: $\beta$ in [0, 1).
        nesterov: see above.
        average: a running mean instead, $m \leftarrow \beta m + (1 - \beta) u$, and $(1 - \beta) u + \beta m$.
    """

    decay: float
    nesterov: bool = False
    average: bool = False
    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The means, which are the state itself without `nesterov`."""
        if self.decay == 0:
            return updates
        mean = step.state("momentum")
        if self.average:
            torch._foreach_lerp_(mean, updates, 1 - self.decay)
            return list(torch._foreach_lerp(updates, mean, self.decay)) if self.nesterov else mean
        torch._foreach_mul_(mean, self.decay)
        torch._foreach_add_(mean, updates)
        return list(torch._foreach_add(updates, mean, alpha=self.decay)) if self.nesterov else mean
