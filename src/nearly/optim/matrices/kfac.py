"""K-FAC: natural gradients of linear layers by the covariances of their inputs and of the gradients of their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from nearly.core.errors import BadInput
from nearly.linalg.products import hermitian_product
from nearly.optim._matrices import each_matrix, gathered, spread_like
from nearly.optim._ranks import average, first_group, groups_of
from nearly.optim._vectors import dots, scaled
from nearly.optim.matrices._linear import LinearOptimizer, rows, square
from nearly.optim.step import Transform
from nearly.optim.transforms import Momentum
from nearly.optim.transforms.kronecker import refreshes

if TYPE_CHECKING:
    from nearly.optim.optimizer import Options
    from nearly.optim.step import Step

CARD = {
    "name": "KFAC",
    "rows": [12],
    "replaces": "natural gradient descent with the Fisher matrix of all of a layer's weights",
    "cost": "two products of a layer's rows and two of its weight a step; two inverses every so many steps",
    "needs": ["layers"],
    "state": {"matrix": {"mn": 4, "mm": 8, "nn": 8}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "ridge": ["at least", 0, None],
        "damping": ["pair", 0, None],
        "every": ["integer", 1, None],
        "clip": ["optional real", 0, None],
        "weight_decay": ["at least", 0, None],
    },
    "settings": {"clip": 0.01, "rest": {"lr": 0.1}},
    "skips": {},
}

ROUNDINGS = 10.0  # of a Cholesky factor, in epsilons of the trace


@dataclass(frozen=True)
class _NaturalGradient(Transform):
    """Gradients between the inverses of running covariances."""

    decay: float
    ridge: float
    damping: tuple[float, float]
    every: int
    needs: ClassVar[tuple[str, ...]] = ("layers",)

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        group = first_group(updates[0], step.process_group)
        inputs, outputs = step.state("inputs", square(1)), step.state("outputs", square(0))
        for place, seen, gradients in rows(step):
            for moment, part in ((inputs[place], seen), (outputs[place], gradients)):
                share = (1 - self.decay) / len(part)
                hermitian_product(part.mT, part, moment, beta=self.decay, alpha=share, out=moment)
        average([*inputs, *outputs], groups_of(updates[0], step.process_group))
        inverses = step.state("inputs inverse", square(1)), step.state("outputs inverse", square(0))
        if refreshes(step.number, self.every):
            for kept, moments, damping in zip(inverses, (inputs, outputs), self.damping, strict=True):
                found = each_matrix(lambda x: self._inverse(x, damping, step.number), moments, process_group=group)  # noqa: B023
                torch._foreach_copy_(kept, found)
        return [
            spread_like((left @ gathered(update).to(left.dtype) @ right).to(update.dtype), update)
            for update, right, left in zip(updates, *inverses, strict=True)
        ]

    def _inverse(self, moments: Tensor, damping: float, number: int) -> Tensor:
        means = moments / (1 - self.decay**number)
        trace = means.diagonal(dim1=-2, dim2=-1).sum(dim=-1, keepdim=True)
        # At least what rounding leaves positive definite.
        shift = (self.ridge * trace + damping).maximum(ROUNDINGS * torch.finfo(means.dtype).eps * trace)
        means.diagonal(dim1=-2, dim2=-1).add_(torch.where(shift > 0, shift, 1.0))
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(means)[0])


@dataclass(frozen=True)
class _ClipDivergence(Transform):
    """All directions scaled down together so that rate^2 times their inner product with the gradients is at most `most`."""

    most: float

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions, clipped."""
        gradients = [gathered(one) for one in step.gradients]
        size = dots([gathered(one) for one in updates], gradients).sum().clamp(min=0)
        factor = (self.most / (step.group["lr"] ** 2 * size)).sqrt().clamp(max=1.0)
        return scaled(updates, factor)


class KFAC(LinearOptimizer):
    r"""K-FAC: running means of $B^{-1} G A^{-1}$ for the weights G of linear layers, $A = E[a a^T]$ and $B = E[g g^T]$.

    a are a layer's inputs and g the gradients of its outputs, of each row's own loss (the empirical Fisher information,
    $A \otimes B$, for a loss that is a mean over rows); both are running means over steps, unbiased. As the sizes of A and B, and
    their eigenvalues', depend on the width, dampings do too: A gets $\rho\, \mathrm{tr}\,A$ on its diagonal and B $\rho\,
    \mathrm{tr}\,B$, which fits all widths; the pair `damping`, for A and B, is added as it is. All other parameters, biases too,
    go to AdamW (`rest`).

    Departures from Martens and Grosse: (1) the empirical Fisher information, of the targets rather than of targets drawn from the
    model; (2) dampings as above in place of $\pi \sqrt\lambda$ and $\sqrt\lambda / \pi$; (3) no bias in the last column; (4) the
    rate is given, and only bounded, by `clip`, as in later implementations (https://github.com/gpauloski/kfac-pytorch); (5)
    inverses are made anew at the steps 1, 2, 4, ... at first.

    Source: Martens, Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv:1503.05671,
    sections 3 and 5; Ishikawa, Karakida 2023, "On the Parameterization of Second-Order Optimization Effective Towards the Infinite
    Width", arXiv:2312.12226 (dampings).

    Args:
        params: tensors, named tensors or parameter groups.
        lr: rate.
        betas: decay rates of momentum, and of A and B.
        ridge: $\rho$.
        damping: added to A and to B; what `nearly.optim.scaling.maximal_update` scales with width, where it is given there too:
            groups without keep this one at every width. Once the data are fitted B fades, and its ridge with it: on digits, 1,500
            steps, losses came back to 18 or more on four seeds of four without damping, and stayed below 0.12 with 1e-3.
        every: steps between two inverses.
        clip: most of $lr^2 \sum \langle \Delta, G \rangle$ over the group, which is about how far a step moves the model's outputs
            in the Fisher metric; None for no limit. Where that of the targets is far below the loss's curvature, as for mean
            squares over many outputs, it should be, too: 1e-5.
        weight_decay: decoupled.
        options: see `Options`; `module` is needed. With `process_group` covariances are averaged over the ranks, and each inverts
            its share.

    Raises:
        BadInput: for values out of range, by name; without a module that has linear layers.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> settings = {"betas": (0.0, 0.95), "damping": (1e-9, 1e-9), "ridge": 0.0, "clip": None}
        >>> optimizer = KFAC(model.parameters(), module=model, lr=1.0, **settings)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> (model(x) - torch.tensor([[1.0], [1.0]])).mean().backward()
        >>> before = model.weight.detach().clone()
        >>> optimizer.step()
        >>> (before - model.weight.detach()).mul(torch.tensor([3.0, 1.0])).round(decimals=3).tolist()
        [[1.0, 1.0]]
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        ridge: float = 1e-2,
        damping: tuple[float, float] = (1e-3, 1e-3),
        every: int = 10,
        clip: float | None = 1e-3,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Natural gradients, clipped, averaged.

        Raises:
            BadInput: without any damping.
        """
        if group["ridge"] == 0 and min(group["damping"]) == 0:
            raise BadInput("ridge", "above 0, where there is no damping", group["ridge"])
        first, second = group["betas"]
        clips = () if group["clip"] is None else (_ClipDivergence(group["clip"]),)
        direction = _NaturalGradient(second, group["ridge"], tuple(group["damping"]), group["every"])
        return (direction, *clips, Momentum(first, average=True))
