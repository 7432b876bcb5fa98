"""Every check of the contract of optimizers rejects the one that is wrong in its way, says why, and rejects no other."""

import pytest

from nearly.testing import optimizer_checks, optimizer_problems
from nearly.testing.broken_optimizers import broken_optimizers, descent_with


@pytest.mark.parametrize("broken", broken_optimizers(), ids=str)
@pytest.mark.parametrize("check", optimizer_checks(), ids=str)
def test_exactly_one_check_rejects_a_broken_optimizer(broken, check):
    if check.name == broken.breaks:
        with pytest.raises(AssertionError) as rejection:
            check.run(broken.member, optimizer_problems())
        assert broken.says in str(rejection.value)
    else:
        check.run(broken.member, optimizer_problems())


@pytest.mark.parametrize("check", optimizer_checks(), ids=str)
def test_the_optimizer_without_a_defect_keeps_the_contract(check):
    check.run(descent_with("nothing"), optimizer_problems())


def test_every_check_has_a_broken_optimizer():
    assert {broken.breaks for broken in broken_optimizers()} == {check.name for check in optimizer_checks()}
