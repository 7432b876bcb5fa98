"""Checks of what a method lets in: cards that tell all, parameters, targets and inputs refused by name."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import nearly
from nearly.core.certificate import KINDS
from nearly.core.domain import Anywhere
from nearly.core.errors import BadInput, OutOfDomain, OutsideDomainWarning
from nearly.core.registry import read_card
from nearly.testing._cards import bad_values, require_constraints, require_keys, require_skips
from nearly.testing._fitting import accepted, ask, at_reference, fitted, inside
from nearly.testing._problems import reference_problems

if TYPE_CHECKING:
    from nearly.core.method import Method
    from nearly.core.surrogate import Surrogate
    from nearly.testing._problems import Problem

KEYS = {
    "name": str,
    "nouns": list,
    "rows": list,
    "replaces": str,
    "certificate": str,
    "rate": str,
    "cost": str,
    "parameters": dict,
    "skips": dict,
}


def check_card_complete(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """The card is a literal that can be read without importing its module, says all it must, and fits the class."""
    from nearly.testing.method_contract import method_checks

    card = method_class.card
    require_keys(card, KEYS)
    source = inspect.getsourcefile(method_class)
    assert source is not None, "the class has no source file, so no card can be read"
    assert read_card(Path(source)) == card, f"the literal CARD in {Path(source).name} is not the card of the class"
    assert card["name"] == method_class.__name__, (
        f"the card is named {card['name']!r}, the class {method_class.__name__!r}"
    )
    known = {p.noun for p in reference_problems()}
    strange = [noun for noun in card["nouns"] if noun not in known]
    assert card["nouns"], "the card's 'nouns' name nothing"
    assert not strange, f"the card's nouns {strange} are none of {sorted(known)}"
    assert card["certificate"] in KINDS, f"the card's certificate {card['certificate']!r} is none of {sorted(KINDS)}"
    have = {field.name for field in fields(method_class)}
    assert set(card["parameters"]) == have, f"the card's parameters {sorted(card['parameters'])} are not {sorted(have)}"
    require_constraints(card)
    growth = card.get("budget")
    if growth is not None:
        lacking = {"parameter", "start", "factor", "most"} - set(growth)
        assert not lacking, f"the card's budget lacks {', '.join(sorted(lacking))}"
        assert growth["parameter"] in card["parameters"], f"the card's budget {growth['parameter']!r} is no parameter"
    require_skips(card, method_checks())
    method_class()  # the defaults keep the card's own constraints, or this raises


def check_bad_parameters(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Every value that the card's constraints forbid is refused with a `BadInput` that names the parameter.

    Raises:
        AssertionError: otherwise.
    """
    for name, constraint in method_class.card["parameters"].items():
        for value in bad_values(constraint):
            got: str
            try:
                method_class(**{name: value})
                got = "accepted"
            except BadInput as error:
                if error.argument == name:
                    continue
                got = f"refused as {error.argument!r}"
            except Exception as error:  # any other is a refusal that names nothing
                got = f"met with {type(error).__name__}: {error}"
            raise AssertionError(f"{name}={value!r} breaks {constraint} and is {got}, not refused by name")


def check_bad_targets(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """Things that are no target, targets of other nouns and seeds that are none are refused with a `BadInput`.

    Raises:
        AssertionError: otherwise.
    """
    _, good = next(accepted(method_class, problems))
    method = at_reference(method_class, good)
    cases: list[tuple[str, str, Any, Any]] = [
        ("target", "no target", thing, 0) for thing in (None, 3, "matrix", torch.eye(3), lambda x: x)
    ]
    seen = set(method_class.card["nouns"])
    for problem in reference_problems():
        if problem.noun not in seen:
            seen.add(problem.noun)
            cases.append(("method", f"a {problem.noun}", problem.build(), 0))
    cases += [("seed", f"a seed {seed!r}", good, seed) for seed in (-1, 1.5, "0", None, True)]
    for argument, what, target, seed in cases:
        for fit in (method.fit, partial(nearly.fit, method=method)):
            try:
                fit(target, seed=seed)
                got = "accepted"
            except BadInput as error:
                if error.argument == argument:
                    continue
                got = f"refused as {error.argument!r}"
            except Exception as error:  # any other is a refusal that names nothing
                got = f"met with {type(error).__name__}: {error}"
            raise AssertionError(f"{what} is {got}, not refused as a bad {argument}")


def check_bad_inputs(method_class: type[Method], problems: Sequence[Problem]) -> None:
    """NaN, wrong shapes and inputs out of the domain are refused by name when the surrogate is asked."""
    for problem, target in accepted(method_class, problems):
        surrogate = fitted(method_class, problem)
        good = inside(surrogate, problem.fresh(target, 8, 0)).inputs[:4]
        for what, value in (("NaN", math.nan), ("infinite entries", math.inf)):
            spoiled = good.clone()
            spoiled[1, 0] = value
            _refused(surrogate, spoiled, BadInput, f"{problem.name}: inputs with {what}")
        narrow = torch.ones(4, good.shape[1] + 1, dtype=good.dtype)
        for what, shape in (("too wide", narrow), ("too narrow", good[:, :-1]), ("of one dimension", good[0])):
            _refused(surrogate, shape, BadInput, f"{problem.name}: inputs {what}")
        if isinstance(target.domain, Anywhere):
            continue
        far = good.clone()
        far[1] = 1e3 * (1 + far[1].abs())
        _refused(surrogate, far, OutOfDomain, f"{problem.name}: inputs out of the domain")
        _check_warning(surrogate, target, far, problem)


def _refused(surrogate: Surrogate, inputs: Any, kind: type[Exception], what: str) -> None:
    try:
        with torch.no_grad():
            surrogate(inputs)
        got = "answered"
    except kind:
        return
    except Exception as error:
        got = f"met with {type(error).__name__}: {error}"
    raise AssertionError(f"{what} are {got}, not refused with {kind.__name__}")


def _check_warning(surrogate: Surrogate, target: Any, far: torch.Tensor, problem: Problem) -> None:
    nearly.certify(surrogate, target)
    assert surrogate.certificate is not None
    surrogate.outside = "warn"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = ask(surrogate, far)
    warned = any(issubclass(w.category, OutsideDomainWarning) for w in caught)
    assert warned, f"{problem.name}: outside='warn' does not warn"
    assert len(answers) == len(far), f"{problem.name}: outside='warn' does not answer every input"
    assert surrogate.certificate is None, f"{problem.name}: outside='warn' leaves the certificate standing"
