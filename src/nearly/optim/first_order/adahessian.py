"""AdaHessian: Adam with the Hessian's diagonal in place of squared gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms.hutchinson import hutchinson

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "AdaHessian",
    "rows": [389],
    "replaces": "Adam, where curvature differs between parameters",
    "cost": "one Hessian-vector product every so many steps, and nine elementwise passes",
    "needs": ["curvature"],
    "state": {"matrix": {"mn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
        "power": ["real", 0, None],
        "block": ["integer", 1, None],
        "every": ["integer", 1, None],
    },
    "settings": {"lr": 0.3, "eps": 0.03},
    "skips": {"groups": "random signs are drawn for the parameters of a group in turn"},
}


@dataclass(frozen=True)
class HessianMoments(Transform):
    """Adam's direction with the root mean square of estimated Hessian diagonals."""

    betas: tuple[float, float]
    eps: float
    power: float
    block: int
    every: int
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def wants(self, number: int) -> tuple[str, ...]:
        """The product at the first of every so many steps."""
        return self.needs if (number - 1) % self.every == 0 else ()

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        first, second = self.betas
        mean, square = step.state("mean"), step.state("square")
        if (step.number - 1) % self.every == 0:
            diagonal = [_averaged(one, self.block) for one in hutchinson(step)]
            torch._foreach_mul_(square, second)
            torch._foreach_addcmul_(square, diagonal, diagonal, 1 - second)
        torch._foreach_lerp_(mean, updates, 1 - first)
        taken = 1 + (step.number - 1) // self.every
        # Both corrections of bias in one factor: four passes over memory.
        root = (1 - second**taken) ** (self.power / 2)
        divisor = torch._foreach_pow(square, self.power / 2)
        torch._foreach_add_(divisor, self.eps * root)
        directions = torch._foreach_div(mean, divisor)
        torch._foreach_mul_(directions, root / (1 - first**step.number))
        return list(directions)


def _averaged(diagonal: Tensor, block: int) -> Tensor:
    """With sizes averaged over a convolution's places, or over stretches of `block` inputs of a matrix that can be cut so."""
    if diagonal.ndim > 2:
        return diagonal.abs().mean(dim=tuple(range(2, diagonal.ndim)), keepdim=True).expand_as(diagonal)
    if diagonal.ndim == 2 and block > 1 and diagonal.shape[1] % block == 0:
        cut = diagonal.abs().unflatten(1, (-1, block))
        return cut.mean(dim=2, keepdim=True).expand_as(cut).flatten(1)
    return diagonal


class AdaHessian(Optimizer):
    r"""$p \leftarrow (1 - lr \lambda) p - lr\, \hat m / (\hat v^{k/2} + \epsilon)$, v the running mean of $D^2$.

    D, the Hessian's diagonal, is estimated by one product with random signs and averaged over space: a convolution's places, or
    stretches of a matrix's inputs. For quadratics with a diagonal Hessian and k = 1 this is Newton's method with momentum.

    Source: Yao et al. 2021, "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning", arXiv:2006.00719, algorithm 1.

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate.
        betas: decay of the means of gradients, and of squared diagonals.
        eps: $\epsilon$.
        weight_decay: $\lambda$, decoupled.
        power: k, the Hessian's power.
        block: inputs averaged over in matrices, where they can be cut into such stretches.
        every: steps with the same estimate; the others cost what Adam's do.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name; without a closure that returns the loss and does not call `backward`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = AdaHessian([x], lr=1.0)
        >>> loss = optimizer.step(lambda: 0.5 * (x.square() * torch.tensor([100.0, 1.0])).sum())
        >>> bool(x.abs().max() < 1e-3)
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        power: float = 1.0,
        block: int = 1,
        every: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Moments of gradients and of the Hessian's diagonal."""
        return (HessianMoments(group["betas"], group["eps"], group["power"], group["block"], group["every"]),)
