"""Every optimizer keeps the contract of optimizers."""

import pytest

from nearly.core.registry import optimizer_cards, optimizer_class
from nearly.testing import optimizer_checks, optimizer_problems


@pytest.mark.parametrize("check", optimizer_checks(), ids=str)
@pytest.mark.parametrize("name", optimizer_cards())
def test_optimizer_keeps_the_contract(name, check):
    card = optimizer_cards()[name]
    if check.name in card["skips"]:
        pytest.skip(card["skips"][check.name])
    check.run(optimizer_class(name), optimizer_problems(card.get("kind", "training")))
