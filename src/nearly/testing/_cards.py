"""What the cards of all members must say, and values that they forbid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearly.testing._checks import Check


def require_keys(card: Mapping[str, Any], keys: Mapping[str, type]) -> None:
    """A card has these keys, of these types, and no empty text."""
    for key, kind in keys.items():
        assert key in card, f"the card lacks {key!r}"
        assert isinstance(card[key], kind), f"the card's {key!r} is no {kind.__name__}"
        assert kind is not str or card[key], f"the card's {key!r} is empty"


def require_skips(card: Mapping[str, Any], checks: Sequence[Check]) -> None:
    """What a card skips is a check, and skipped for a reason."""
    names = {check.name for check in checks}
    for name, reason in card["skips"].items():
        assert name in names, f"the card skips {name!r}, which is no check: {', '.join(sorted(names))}"
        assert isinstance(reason, str), f"the card gives no reason to skip {name!r}"
        assert len(reason.split()) >= 3, f"the card gives no reason to skip {name!r}"


def require_constraints(card: Mapping[str, Any]) -> None:
    """The parameters' constraints are ones that can be checked."""
    for name, (kind, *limits) in card["parameters"].items():
        plain = kind.removeprefix("optional ")
        assert plain in ("integer", "real", "at least", "pair", "choice"), (
            f"the card's parameter {name!r} has the unknown kind {kind!r}"
        )
        assert plain == "choice" or len(limits) == 2, (
            f"the card's parameter {name!r} needs two limits, None for no limit"
        )
        assert limits, f"the card's parameter {name!r} has no choices"


def bad_values(constraint: list[Any]) -> list[Any]:
    """Values that a card's constraint forbids.

    Example:
        >>> bad_values(["integer", 1, 3])
        [0, 4, nan, inf, 1.5, '3', True, [1], None]
    """
    kind, *limits = constraint
    optional = kind.startswith("optional ")
    kind = kind.removeprefix("optional ")
    values: list[Any]
    if kind == "integer":
        least, most = limits
        values = [least - 1] if least is not None else []
        values += [most + 1] if most is not None else []
        values += [math.nan, math.inf, 1.5, "3", True, [1]]
    elif kind == "real":
        values = [limit for limit in limits if limit is not None]
        values += [math.nan, math.inf, -math.inf, "0.5", True, [1.0]]
    elif kind in ("at least", "pair"):
        least, below = limits
        values = [least - 1, math.nan, math.inf, -math.inf, "0.5", True, [1.0]] + ([below] if below is not None else [])
        if kind == "pair":
            values = [*values, *((value, least) for value in values), (least, least, least)]
    else:
        values = ["no such choice", math.nan, ["no such choice"]]
    return values if optional else [*values, None]
