"""The contract of optimizers, to be run on any of them: your own included.

from nearly.testing import check_optimizer
check_optimizer(MyOptimizer)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nearly.testing import _descents
from nearly.testing._checks import Check, checks_in, run_checks
from nearly.testing.optimizer_problems import OptimizerProblem, optimizer_problems

if TYPE_CHECKING:
    from nearly.optim.optimizer import Optimizer


def optimizer_checks() -> list[Check]:
    """All checks of the contract, in the order in which they are run; each takes a class and problems.

    Example:
        >>> [check.name for check in optimizer_checks()][:2]
        ['card_complete', 'bad_parameters']
    """
    return checks_in(_descents)


def check_optimizer(member: type[Optimizer], problems: Sequence[OptimizerProblem] | None = None) -> None:
    """Run every check that the member's card does not skip.

    Args:
        member: a subclass of `nearly.optim.Optimizer` with a CARD in its module.
        problems: to check it on; by default those of the card's kind.

    Raises:
        AssertionError: at the first check that fails; it names the check, the problem and what broke.

    Example:
        >>> from nearly.optim import AdamW
        >>> check_optimizer(AdamW)
    """
    chosen = optimizer_problems(member.card.get("kind", "training")) if problems is None else problems
    run_checks(optimizer_checks(), member, chosen, name=member.__name__, skips=list(member.card.get("skips", {})))
