"""The contract of methods, to be run on any member: your own included.

from nearly.testing import check_method
check_method(MyMethod)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearly.testing import _accuracy, _conduct, _entry, _module
from nearly.testing._problems import Problem, reference_problems

if TYPE_CHECKING:
    from nearly.core.method import Method


@dataclass(frozen=True)
class MethodCheck:
    """One check of the contract.

    Attributes:
        name: under which a card may skip it, with the reason.
        says: what must hold, in one line.
        run: raises an AssertionError that says what broke, on which problem.
    """

    name: str
    says: str
    run: Callable[[type[Method], Sequence[Problem]], None]

    def __str__(self) -> str:
        return self.name


def method_checks() -> list[MethodCheck]:
    """All checks of the contract, in the order in which they are run.

    Example:
        >>> [check.name for check in method_checks()][:2]
        ['card_complete', 'bad_parameters']
    """
    return [
        MethodCheck(name.removeprefix("check_"), (function.__doc__ or "").partition("\n")[0], function)
        for room in (_entry, _conduct, _module, _accuracy)
        for name, function in vars(room).items()
        if name.startswith("check_")
    ]


def check_method(method_class: type[Method], problems: Sequence[Problem] | None = None) -> None:
    """Run every check that the card does not skip.

    Args:
        method_class: a concrete `Method`.
        problems: to check it on; by default the reference problems of the card's nouns.

    Raises:
        AssertionError: at the first check that fails; it names the check, the problem and what broke.

    Example:
        >>> from nearly.measures import RandomSubsample
        >>> check_method(RandomSubsample)
    """
    if problems is None:
        problems = reference_problems(method_class.card.get("nouns"))
    skips = method_class.card.get("skips", {})
    for check in method_checks():
        if check.name not in skips:
            try:
                check.run(method_class, problems)
            except AssertionError as error:
                raise AssertionError(f"{method_class.__name__} breaks {check.name}: {error}") from error
