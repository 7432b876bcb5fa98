"""Every check of the contract rejects the member that is wrong in its way, says why, and rejects no other."""

import pytest

from nearly.testing import method_checks, reference_problems
from nearly.testing.broken import broken_methods


@pytest.mark.parametrize("broken", broken_methods(), ids=str)
@pytest.mark.parametrize("check", method_checks(), ids=str)
def test_exactly_one_check_rejects_a_broken_member(broken, check):
    problems = reference_problems(broken.method_class.card["nouns"])
    if check.name == broken.breaks:
        with pytest.raises(AssertionError) as rejection:
            check.run(broken.method_class, problems)
        assert broken.says in str(rejection.value)
    else:
        check.run(broken.method_class, problems)


def test_every_check_has_a_broken_member():
    assert {broken.breaks for broken in broken_methods()} == {check.name for check in method_checks()}
