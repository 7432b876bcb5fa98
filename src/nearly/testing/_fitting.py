"""What the checks share: the problems that a method takes, a method at a small budget, fits, fresh errors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from nearly.core import registry
from nearly.core.supply import Supply
from nearly.testing._problems import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from nearly.core.method import Method
    from nearly.core.surrogate import Surrogate
    from nearly.core.target import Pairs, Target

RUNGS = 4  # budgets tried when errors are to fall
MOST_SAMPLES = 320  # fitting samples at most: what every reference problem can give


def accepted(method_class: type[Method], problems: Sequence[Problem]) -> Iterator[tuple[Problem, Target]]:
    """The problems that the method takes, each with a target of its own.

    Raises:
        AssertionError: when it takes none of them.
    """
    some = False
    for problem in problems:
        target = problem.build()
        if target.noun in method_class.card["nouns"] and method_class.refuses(target) is None:
            some = True
            yield problem, target
    assert some, f"{method_class.__name__} takes none of the problems: {', '.join(p.name for p in problems)}"


def ladder(method_class: type[Method], target: Target) -> list[Method]:
    """The method at its first few budgets, with what its card says to be quick."""
    method = method_class(**method_class.card.get("quick", {}))
    available = min(Supply(target, 0).available, MOST_SAMPLES)
    return [method if b is None else method.with_budget(b) for b in method.budgets(target, available)[:RUNGS]]


def at_reference(method_class: type[Method], target: Target) -> Method:
    """The method at its reference budget: the second of its card, or the only one."""
    return ladder(method_class, target)[:2][-1]


def fitted(method_class: type[Method], problem: Problem) -> Surrogate:
    """A copy of the method's surrogate of a problem at its reference budget; several checks share the fit."""
    return copy.deepcopy(_fitted(method_class, problem))


@lru_cache(maxsize=16)
def _fitted(method_class: type[Method], problem: Problem) -> Surrogate:
    target = problem.build()
    return at_reference(method_class, target).fit(target)


def inside(surrogate: Surrogate, pairs: Pairs) -> Pairs:
    """The pairs whose inputs lie in the surrogate's domain: a domain that data tell refuses a stated share of fresh rows."""
    from nearly.core.target import Pairs

    kept = surrogate.domain.contains(pairs.inputs)
    return Pairs(pairs.inputs[kept], pairs.outputs[kept])


def ask(surrogate: Surrogate, inputs: Tensor) -> Tensor:
    """Predictions on a copy of the inputs, all in one batch, without gradients."""
    with torch.no_grad():
        return surrogate(inputs.clone())


def fresh_errors(surrogate: Surrogate, problem: Problem, target: Target, n: int, seed: int) -> tuple[Tensor, Pairs]:
    """Errors on fresh pairs in the domain, and the pairs."""
    pairs = inside(surrogate, problem.fresh(target, n, seed))
    return target.error(pairs.outputs, ask(surrogate, pairs.inputs)), pairs


@contextlib.contextmanager
def installed(method_class: type[Method]) -> Iterator[None]:
    """Let `nearly.load` know a method that is not installed; undone at the end."""
    catalogue, name = registry.cards(), method_class.id()
    if name in catalogue:
        yield
        return
    catalogue[name] = method_class.card | {"module": method_class.__module__}
    try:
        yield
    finally:
        del catalogue[name]


def tensors_of(surrogate: Surrogate) -> dict[str, Tensor]:
    """Copies of all tensors of a surrogate, those that are not saved included."""
    return {name: t.detach().clone() for name, t in (*surrogate.named_buffers(), *surrogate.named_parameters())}


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether shape, dtype and every bit agree (NaN equals the same NaN)."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    a, b = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (first, second))
    return torch.equal(a, b)
