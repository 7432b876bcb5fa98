"""Every member keeps the contract of methods."""

import pytest

from nearly.core.registry import cards, method_class
from nearly.testing import method_checks, reference_problems


@pytest.mark.parametrize("check", method_checks(), ids=str)
@pytest.mark.parametrize("name", cards())
def test_member_keeps_the_contract(name, check):
    card = cards()[name]
    if check.name in card["skips"]:
        pytest.skip(card["skips"][check.name])
    check.run(method_class(name), reference_problems(card["nouns"]))
