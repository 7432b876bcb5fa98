"""The contract of functions that iterate to a tolerance, to be run on any of them: your own included.

from nearly.testing import check_solver
check_solver(my_solver)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nearly.core.errors import BadInput
from nearly.testing import _iterations
from nearly.testing._checks import Check, checks_in, run_checks
from nearly.testing._iterations import Iteration
from nearly.testing.solver_problems import SolverProblem, solver_problems

if TYPE_CHECKING:
    from nearly.core.solution import Solution


def solver_checks() -> list[Check]:
    """All checks of the contract, in the order in which they are run; each takes an `Iteration` and problems.

    Example:
        >>> [check.name for check in solver_checks()][:2]
        ['card_complete', 'bad_parameters']
    """
    return checks_in(_iterations)


def iteration(solver: Callable[..., Solution], card: Mapping[str, Any] | None = None) -> Iteration:
    """A function with its card, by default the CARD of its module.

    Raises:
        BadInput: where there is none.
    """
    card = getattr(sys.modules.get(solver.__module__), "CARD", None) if card is None else card
    if card is None:
        raise BadInput("card", "given, or the CARD of the function's module", None)
    return Iteration(solver, card)


def check_solver(
    solver: Callable[..., Solution],
    problems: Sequence[SolverProblem] | None = None,
    *,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Run every check that the card does not skip.

    Args:
        solver: a function that returns a `Solution`, called as `solver(**problem.arguments, tolerance=...)`.
        problems: to check it on; by default those of the card's kind.
        card: a literal with `name`, `kind`, `rows`, `replaces`, `residual` (what it is, in which norm), `rate`, `differentiable`
            (arguments whose derivatives are right), `parameters` (name -> constraint), `skips` (check -> reason), and where they
            apply `complex` (arguments that may be complex; all others must refuse it), `order` (a number, measured) and `limit`
            (the parameter that caps the steps, if it is not `iterations`).

    Raises:
        AssertionError: at the first check that fails; it names the check, the problem and what broke.

    Example:
        >>> from nearly.linalg.solve import conjugate_gradients
        >>> check_solver(conjugate_gradients)
    """
    member = iteration(solver, card)
    chosen = solver_problems(member.card["kind"], member.complex_arguments) if problems is None else problems
    run_checks(solver_checks(), member, chosen, name=solver.__name__, skips=list(member.card.get("skips", {})))
