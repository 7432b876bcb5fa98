"""What methods share that ask the target at points of their own choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nearly.core.domain import Box

if TYPE_CHECKING:
    from nearly.core.target import Target

SHARE = 8  # such a method spends at most this part of a race's evaluations: they serve no other method
MOST_IN_A_RACE = 5000  # evaluations of one budget; more are spent when the method is asked for by name


def refuses_own_points(target: Target) -> str | None:
    """Why a method that asks the target at points of its own choice on a box cannot, or None."""
    if target.rows is not None:
        return "it chooses where to evaluate, and a target made from data answers its rows alone"
    return None if isinstance(target.domain, Box) else "it needs a Box to choose points in"


def affordable(budgets: Sequence[int | None], evaluations: Callable[[int], int], available: int) -> list[int | None]:
    """The first budgets that a race can afford.

    Args:
        budgets: growing.
        evaluations: what a budget costs; grows with it.
        available: evaluations left to all methods together.

    Returns:
        Budgets of at most 5,000 evaluations each and an eighth of those available together.
    """
    kept: list[int | None] = []
    spent = 0
    for budget in budgets:
        assert budget is not None
        cost = evaluations(budget)
        spent += cost
        if cost > MOST_IN_A_RACE or spent > available // SHARE:
            break
        kept.append(budget)
    return kept
