"""First and second moments of updates, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from nearly.optim._vectors import wide
from nearly.optim.step import Transform

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step


@dataclass(frozen=True)
class Moments(Transform):
    r"""Adam's direction $\hat m / (\sqrt{\hat v} + \epsilon)$ of running means m of updates and v of their squares, unbiased.

    One pass over memory by torch's fused kernel.

    Source: Kingma, Ba 2015, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1.

    Args:
        betas: decay of m, and of v.
        eps: see above.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        return adam_directions(updates, step.state("mean"), step.state("square"), step.number, self.betas, self.eps)

    def descend(self, updates: list[Tensor], step: Step) -> None:
        """Move the parameters, in the same pass."""
        rate, decay = step.group["lr"], step.group.get("weight_decay", 0.0)
        states = step.state("mean"), step.state("square")
        _fused(step.parameters, updates, *states, step.number, self.betas, self.eps, rate, decay)


def adam_directions(
    updates: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    number: int,
    betas: tuple[float, float],
    eps: float,
) -> list[Tensor]:
    """Adam's directions, after the means have taken up these updates, the `number`-th."""
    # The kernel moves parameters by -lr times the direction: zeros, moved with lr = -1, become the direction.
    found = [torch.zeros_like(update) for update in updates]
    _fused(found, updates, mean, square, number, betas, eps, -1.0, 0.0)
    return found


def _fused(
    moved: list[Tensor],
    updates: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    number: int,
    betas: tuple[float, float],
    eps: float,
    rate: float,
    decay: float,
) -> None:
    counts = [torch.tensor(float(number), device=updates[0].device)] * len(updates)
    first, second = betas
    given: tuple[list[Tensor], ...] = (moved, updates, mean, square)
    odd = []
    if not all(all(map(torch.Tensor.is_contiguous, part)) for part in given):
        odd = [i for i, four in enumerate(zip(*given, strict=True)) if not _lie_alike(four)]
        given = tuple([one.contiguous() if i in odd else one for i, one in enumerate(part)] for part in given)
    torch._fused_adamw_(
        given[0], given[1], given[2], given[3], [], counts,
        lr=rate, beta1=first, beta2=second, weight_decay=decay, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip
    for i in odd:
        for whole, part in zip((moved, mean, square), (given[0], *given[2:]), strict=True):
            whole[i].copy_(part[i])


def _lie_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether their entries lie in memory in one order and without gaps: the kernel goes by places in memory."""
    first = tensors[0]
    extent = 1 + sum((side - 1) * stride for side, stride in zip(first.shape, first.stride(), strict=True))
    return extent == first.numel() and all(other.stride() == first.stride() for other in tensors)


@dataclass(frozen=True)
class SecondMoment(Transform):
    r"""$u / (\sqrt{\hat v} + \epsilon)$, v the running mean of $u^2$, as in RMSprop; `unbiased` divides v by $1 - \beta^t$.

    The mean is kept in single precision at least.

    Args:
        decay: $\beta$ of v.
        eps: see above.
        unbiased: see above.
    """

    decay: float = 0.999
    eps: float = 1e-8
    unbiased: bool = True
    elementwise: ClassVar[bool] = True

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The updates, divided."""
        kind = wide(updates[0].dtype)  # squares of small numbers are zero in half precision
        square = step.state("square", lambda parameter: torch.zeros_like(parameter, dtype=kind))
        given = [update.to(kind) for update in updates]
        torch._foreach_mul_(square, self.decay)
        torch._foreach_addcmul_(square, given, given, 1 - self.decay)
        root = torch._foreach_sqrt(square)
        if self.unbiased:
            torch._foreach_div_(root, (1 - self.decay**step.number) ** 0.5)
        torch._foreach_add_(root, self.eps)
        return [one.to(update.dtype) for one, update in zip(torch._foreach_div(given, root), updates, strict=True)]
