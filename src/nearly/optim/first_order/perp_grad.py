"""Gradients without the part that only scales the weights, and a softmax that floating point does not collapse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch

from nearly.optim._vectors import dots
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform, norms, times
from nearly.optim.transforms import Moments

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "PerpGrad",
    "kind": "classifier",
    "rows": [369],
    "replaces": "AdamW with weight decay, where a network is to generalize after it has fitted",
    "cost": "five elementwise passes",
    "needs": [],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"lr": 0.1},
    "skips": {},
}


@dataclass(frozen=True)
class Perpendicular(Transform):
    r"""$u - \frac{\langle p, u \rangle}{\langle p, p \rangle} p$ for every parameter p, of the length that u had.

    Where nothing is left but rounding, as for a parameter of one number, u is as it was: it has no other direction.
    """

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, turned."""
        lengths, sizes = norms(updates), norms(step.parameters)
        unit = times(step.parameters, torch.where(sizes > 0, 1 / sizes, 0.0))
        found = list(updates)
        for _ in range(2):  # the second pass takes off what the first one's rounding left
            found = list(torch._foreach_sub(found, times(unit, dots(unit, found))))
        left = norms(found)
        resolved = left > 1e3 * torch.finfo(left.dtype).eps * lengths
        turned = times(found, torch.where(resolved, lengths / torch.where(left > 0, left, 1.0), 0.0))
        kept = times(updates, (~resolved).to(left.dtype))
        return list(torch._foreach_add(turned, kept))


class PerpGrad(Optimizer):
    r"""Adam on $g_\perp = g - \frac{\langle p, g \rangle}{\langle p, p \rangle} p$, perpendicular to p, of the length of g.

    Once a network classifies all its data, gradients mostly scale the weights along themselves, which lowers the loss and
    changes no decision, delays generalization and ends where the softmax's rounding leaves no gradient at all. Without that part
    networks generalize ("grok") soon, with no weight decay.

    Departure: where a gradient has no perpendicular part but rounding, it is kept as it is; the published code blows the rounding
    up to the gradient's length.

    Source: Prieto, Barsbey, Mediano, Birdal 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697, section 5.2.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate.
        betas: of Adam.
        eps: of Adam.
        weight_decay: decoupled.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> optimizer = PerpGrad([x], lr=0.1)
        >>> (x * torch.tensor([3.0, 4.0])).sum().backward()
        >>> optimizer.step()
        >>> x.detach()
        tensor([ 1.0000, -0.1000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Perpendicular gradients, and Adam."""
        return (Perpendicular(), Moments(group["betas"], group["eps"]))


def log_stablemax(scores: Tensor, dim: int = -1) -> Tensor:
    r"""$\log (s(x_i) / \sum_j s(x_j))$ with $s(x) = x + 1$ for $x \ge 0$ and $1 / (1 - x)$ below: in place of `log_softmax`.

    s grows linearly where exp overwhelms all other classes: scores have to be some $10^7$ apart, not 17, before single precision
    loses the others, and with them the gradient.

    Source: Prieto et al. 2025, arXiv:2501.04697, equation 6.

    Args:
        scores: any shape.
        dim: along which they compete.

    Returns:
        Logarithms of probabilities.

    Example:
        >>> log_stablemax(torch.tensor([1.0, 0.0, -1.0])).exp()
        tensor([0.5714, 0.2857, 0.1429])
    """
    # Of both branches' logarithms, so that neither's derivative is infinite where the other is taken.
    logarithms = torch.where(scores >= 0, torch.log1p(scores.clamp(min=0)), -torch.log1p((-scores).clamp(min=0)))
    return logarithms - torch.logsumexp(logarithms, dim=dim, keepdim=True)


def stablemax_cross_entropy(scores: Tensor, classes: Tensor) -> Tensor:
    """The mean negative `log_stablemax` of the classes: in place of `torch.nn.functional.cross_entropy`.

    Args:
        scores: shape (rows, classes).
        classes: integers, shape (rows,).

    Returns:
        A scalar.

    Example:
        >>> stablemax_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """
    return torch.nn.functional.nll_loss(log_stablemax(scores), classes)
