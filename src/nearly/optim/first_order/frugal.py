"""FRUGAL: Adam on a few rows of every matrix, signs on the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch

from nearly.optim._matrices import gathered, spread_like
from nearly.optim.optimizer import Optimizer, Options
from nearly.optim.step import Transform
from nearly.optim.transforms.moments import adam_directions

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.optim.step import Step

CARD = {
    "name": "Frugal",
    "rows": [307],
    "replaces": "Adam, at a fraction of its memory",
    "cost": "elementwise, two passes over parameters and gradients",
    "needs": [],
    "state": {"matrix": {"mn": 2}, "vector": {"n": 8}},
    "parameters": {
        "lr": ["at least", 0, None],
        "betas": ["pair", 0, 1],
        "eps": ["real", 0, None],
        "weight_decay": ["at least", 0, None],
        "parts": ["integer", 1, None],
        "every": ["integer", 1, None],
    },
    "settings": {"lr": 0.1, "rest": {"lr": 0.1}},
    "skips": {
        "state_declared": "matrices whose rows cannot be cut into equal parts keep up to one row more",
        "groups": "rows are drawn for the matrices of a group in turn",
    },
}


@dataclass(frozen=True)
class SplitRows(Transform):
    """Adam's direction in one part of the rows, drawn anew every so many steps; the sign everywhere else.

    Args:
        parts: that the rows are cut into.
        every: steps with the same rows.
        betas: of Adam.
        eps: of Adam.
    """

    parts: int
    every: int
    betas: tuple[float, float]
    eps: float

    def __call__(self, updates: list[Tensor], step: Step) -> list[Tensor]:
        """The directions."""
        whole = [gathered(update) for update in updates]
        sizes = [-(-len(update) // self.parts) for update in whole]

        def none(parameter: Tensor) -> Tensor:
            given = gathered(parameter)
            return torch.zeros_like(given[: -(-len(given) // self.parts)], memory_format=torch.contiguous_format)

        mean, square = step.state("mean", none), step.state("square", none)
        age = (step.number - 1) % self.every
        if age == 0:
            draw = step.generator()
            places = torch.randint(self.parts, (len(whole),), generator=draw).tolist()
            # Where rows cannot be cut into equal parts, the last ones reach back over those before them.
            ends = [len(update) - size for update, size in zip(whole, sizes, strict=True)]
            step.keep("first", [min(place * size, end) for place, size, end in zip(places, sizes, ends, strict=True)])
            torch._foreach_zero_([*mean, *square])
        rows = [slice(first, first + size) for first, size in zip(step.state("first"), sizes, strict=True)]
        chosen = [update[part] for update, part in zip(whole, rows, strict=True)]
        directions = adam_directions(chosen, mean, square, age + 1, self.betas, self.eps)
        found = torch._foreach_sign(whole)
        torch._foreach_copy_([one[part] for one, part in zip(found, rows, strict=True)], directions)
        return [spread_like(one, update) for one, update in zip(found, updates, strict=True)]


class Frugal(Optimizer):
    r"""Adam with state for one part in `parts` of the rows of every matrix, and sign descent, which keeps none, on all others.

    The rows are drawn anew every so many steps, and their moments start from zero; both updates have the same rate.

    Departure: parts are stretches of consecutive rows rather than any rows or columns, so that their state is one block of
    memory; the paper's results for blocks, columns and projections hardly differ.

    Source: Zmushko, Beznosikov, Takac, Horvath 2025, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
    Training", arXiv:2411.07837, algorithm 1.

    Args:
        params: tensors, named tensors or parameter groups; matrices and convolutions are the member's. The paper leaves embeddings
            and the head to Adam too: give them in a group with `"rest": True`.
        lr: rate.
        betas: of Adam.
        eps: of Adam.
        weight_decay: decoupled.
        parts: that rows are cut into, 4 for state on a quarter of them.
        every: steps with the same rows.
        options: see `Options`.

    Raises:
        BadInput: for values out of range, by name.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(4, 1))
        >>> optimizer = Frugal([x], lr=0.1, weight_decay=0.0)
        >>> (x.flatten() @ torch.tensor([1.0, 2.0, -1.0, 3.0])).backward()
        >>> optimizer.step()
        >>> x.detach().flatten()
        tensor([-0.1000, -0.1000,  0.1000, -0.1000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        parts: int = 4,
        every: int = 200,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), **options)

    def takes(self, parameter: Tensor) -> bool:
        """Matrices and convolutions."""
        return parameter.ndim >= 2

    def recipe(self, group: dict[str, Any]) -> Sequence[Transform]:
        """Adam and signs."""
        return (SplitRows(group["parts"], group["every"], group["betas"], group["eps"]),)
