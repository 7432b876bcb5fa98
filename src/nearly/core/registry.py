"""The catalogue: cards are read from source text, so that listing methods imports none of them, nor torch."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nearly.core.method import Method
    from nearly.core.solution import Solution
    from nearly.core.target import Target
    from nearly.optim.optimizer import Optimizer

ROOMS = ("matrices", "functions", "fields", "networks", "measures", "decisions", "graphs")
SOLVER_ROOMS = ("linalg", "calculus")
OPTIMIZER_ROOMS = ("optim",)


@cache
def cards() -> dict[str, dict[str, Any]]:
    """All cards by method id, each with its `module` added; the package's own, then those of the entry points `nearly.methods`.

    An entry point's value is a module that holds one CARD and one method.

    Returns:
        id -> card, in alphabetical order of the ids within each source.

    Raises:
        BadInput: for an entry point without a card.
    """
    found = _cards_in(ROOMS)
    for point in entry_points(group="nearly.methods"):
        spec = find_spec(point.value)
        if spec is None or spec.origin is None:
            raise BadInput(f"entry point {point.name}", "a module that can be found", point.value)
        card = read_card(Path(spec.origin))
        if card is None:
            raise BadInput(f"entry point {point.name}", "a module with a CARD", point.value)
        found[f"{point.value}:{card['name']}"] = card | {"module": point.value}
    return found


@cache
def solver_cards() -> dict[str, dict[str, Any]]:
    """The cards of all functions that iterate to a tolerance, by room and name, each with its `module` added.

    Example:
        >>> solver_cards()["linalg.conjugate_gradients"]["kind"]
        'positive_definite'
    """
    return _cards_in(SOLVER_ROOMS)


@cache
def optimizer_cards() -> dict[str, dict[str, Any]]:
    """The cards of all optimizers, by room and name, each with its `module` added.

    Example:
        >>> optimizer_cards()["optim.AdamW"]["needs"]
        []
    """
    return _cards_in(OPTIMIZER_ROOMS)


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of an optimizer's id; imports its module.

    Raises:
        BadInput: for an unknown id.
    """
    card = optimizer_cards().get(name)
    if card is None:
        raise BadInput("optimizer", f"one of {', '.join(optimizer_cards())}", repr(name))
    return getattr(importlib.import_module(card["module"]), card["name"])


def _cards_in(rooms: Sequence[str]) -> dict[str, dict[str, Any]]:
    root = Path(__file__).resolve().parent.parent
    found: dict[str, dict[str, Any]] = {}
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            card = read_card(path)
            if card is not None:
                module = ".".join(("nearly", *path.relative_to(root).with_suffix("").parts))
                found[f"{room}.{card['name']}"] = card | {"module": module}
    return found


def solver(name: str) -> Callable[..., Solution]:
    """The function of a solver's id; imports its module and no other.

    Raises:
        BadInput: for an unknown id.
    """
    card = solver_cards().get(name)
    if card is None:
        raise BadInput("solver", f"one of {', '.join(solver_cards())}", repr(name))
    return getattr(importlib.import_module(card["module"]), card["name"])


def read_card(path: Path) -> dict[str, Any] | None:
    """The literal after `CARD = ` at the start of a line of a source file, or None; only that text is parsed.

    Raises:
        BadInput: when it is no literal dictionary with a name.
    """
    text = path.read_text(encoding="utf-8")
    start = text.find("\nCARD = {")
    if start < 0:
        return None
    end = text.find("\n}", start)
    try:
        card = ast.literal_eval(text[start + len("\nCARD = ") : end + 2])
        card["name"]
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise BadInput(
            f"CARD of {path.name}", "a literal dictionary with a name, closed by } at the start of a line", error
        ) from error
    return card


def method_class(name: str) -> type[Method]:
    """The method class of an id; imports its module and no other.

    Raises:
        BadInput: for an unknown id; the message names near ones.
    """
    card = cards().get(name)
    if card is None:
        import difflib

        near = difflib.get_close_matches(name, cards(), n=3, cutoff=0.4)
        raise BadInput(
            "method",
            "an installed method (see `nearly methods`)",
            repr(name),
            f"Near: {', '.join(near)}." if near else "",
        )
    return getattr(importlib.import_module(card["module"]), card["name"])


def methods_for(noun: str) -> list[type[Method]]:
    """All methods that fit a noun."""
    return [method_class(name) for name, card in cards().items() if noun in card["nouns"]]


def resolve(target: Target, methods: Sequence[Method | str] | None) -> list[Method]:
    """Methods as instances that can fit the target; all of its noun, at their defaults, by default.

    Args:
        target: what is fitted.
        methods: methods or ids.

    Returns:
        At least one method.

    Raises:
        BadInput: for what is no method, is unknown, or cannot fit the target.
    """
    from nearly.core.method import Method

    if isinstance(methods, str | Method):
        raise BadInput("methods", "a list of methods or ids", repr(methods))
    if methods is None:
        chosen = [cls() for cls in methods_for(target.noun) if cls.refuses(target) is None]
    else:
        chosen = [method_class(method)() if isinstance(method, str) else method for method in methods]
    for method in chosen:
        if not isinstance(method, Method):
            raise BadInput("method", "a method such as nearly.fields.ReducedBasis(rank=20), or its id", repr(method))
        reason = method.refuses(target)
        if reason is not None:
            raise BadInput("method", f"able to fit {target.name}", f"{method.id()}: {reason}")
    if not chosen:
        raise BadInput("methods", f"at least one that fits {target.name}", "none")
    return chosen
