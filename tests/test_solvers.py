"""Every function that iterates to a tolerance keeps the contract of iterations."""

import pytest

from nearly.core.registry import solver, solver_cards
from nearly.testing import solver_checks, solver_problems
from nearly.testing.solver_contract import iteration


@pytest.mark.parametrize("check", solver_checks(), ids=str)
@pytest.mark.parametrize("name", solver_cards())
def test_iteration_keeps_the_contract(name, check):
    card = solver_cards()[name]
    if check.name in card["skips"]:
        pytest.skip(card["skips"][check.name])
    member = iteration(solver(name))
    check.run(member, solver_problems(card["kind"], member.complex_arguments))
