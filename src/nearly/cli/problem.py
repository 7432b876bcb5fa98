"""A PROBLEM of the command line: a built-in name, a TOML file, a file of data, or `module:function`."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nearly.cli.stored import QUANTILE, Metric, Statement, Stored, open_stored
from nearly.core.datasource import SUFFIXES
from nearly.core.errors import BadInput, NearlyError
from nearly.problems import available, build

if TYPE_CHECKING:
    from nearly.core.target import Target

Limits = list[float]
_ITSELF = "With lower and upper, the function itself is replaced."


class BuiltIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A problem that comes with Nearly."""

    problem: str
    arguments: dict[str, Any] = {}


class Coded(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function of a module: it returns a target, or with limits it is the function or solver itself."""

    function: str
    arguments: dict[str, Any] = {}
    noun: Literal["function", "field"] = "function"
    lower: Limits | None = None
    upper: Limits | None = None
    log: bool | list[bool] = False
    vectorized: bool | None = None
    metric: Metric = "spread"


def open_problem(text: str, options: dict[str, Any], statement: Statement) -> tuple[Target, float]:
    """The target that a PROBLEM names.

    Args:
        text: a built-in name with arguments (`thermal_block:cells=50`), a path, or `module:function`.
        options: what the command line adds (inputs, outputs, lower, ...); only what was given.
        statement: what shall be certified.

    Returns:
        The target and the quantile to certify.

    Raises:
        BadInput: for a problem that is none of these, or options that do not fit it.
    """
    suffix = Path(text).suffix.lower()
    name, _, rest = text.partition(":")
    if suffix == ".toml":
        problem = _read_toml(Path(text))
        if options:
            raise BadInput("options", "left out with a TOML file, which says it all", ", ".join(options))
    elif suffix in SUFFIXES:
        problem = _convert({"data": text} | options, Stored, "options")
    elif name in available() or (name.isidentifier() and (not rest or "=" in rest)):
        # An unknown name goes the same way: its error lists near ones.
        problem = BuiltIn(problem=name, arguments=parse_arguments(rest))
        if options:
            raise BadInput("options", "left out with a built-in problem", ", ".join(options))
    elif rest:
        problem = _convert({"function": text} | options, Coded, "options")
    else:
        builtin, suffixes = ", ".join(available()), ", ".join(SUFFIXES)
        known = f"a built-in problem ({builtin}), a .toml file, a file of data ({suffixes}) or module:function"
        raise BadInput("PROBLEM", known, repr(text))
    if isinstance(problem, Stored):
        return open_stored(problem, statement)
    target = _from_code(problem) if isinstance(problem, Coded) else build(problem.problem, **problem.arguments)
    return target, QUANTILE if statement.quantile is None else statement.quantile


def parse_arguments(text: str) -> dict[str, Any]:
    """Keyword arguments from text; a bare word is itself.

    Raises:
        BadInput: for anything but `name=value, ...`.

    Example:
        >>> parse_arguments("blocks=(3, 2), kind=kink")
        {'blocks': (3, 2), 'kind': 'kink'}
    """
    if not text:
        return {}
    wrong = BadInput("arguments", "of the form name=value,name=value", repr(text))
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise wrong
        given = {}
        for keyword in call.keywords:
            value = keyword.value
            if keyword.arg is None:
                raise wrong
            given[keyword.arg] = value.id if isinstance(value, ast.Name) else ast.literal_eval(value)
    except (SyntaxError, ValueError) as error:
        raise wrong from error
    return given


def _read_toml(path: Path) -> BuiltIn | Coded | Stored:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput("PROBLEM", "a TOML file that can be read", f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}", "valid TOML", error) from error
    kinds = {"problem": BuiltIn, "function": Coded, "data": Stored}
    present = [key for key in kinds if key in table]
    if len(present) != 1:
        raise BadInput(f"{path}", f"a table with one of the keys {', '.join(kinds)}", ", ".join(table) or "no keys")
    problem = _convert(table, kinds[present[0]], str(path))
    if isinstance(problem, Stored):
        problem.data = str(path.parent / problem.data)
    return problem


def _convert(table: dict[str, Any], kind: type[Any], where: str) -> Any:
    known = kind.__struct_fields__
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2, cutoff=0.4)
            advice = f"Near: {', '.join(near)}." if near else ""
            raise BadInput(f"keys of {where}", f"among {', '.join(known)}", repr(key), advice)
    try:
        return msgspec.convert(table, kind, strict=True)
    except msgspec.ValidationError as error:
        raise BadInput(where, f"a description of a {kind.__name__.lower()} problem", error) from error


def _from_code(problem: Coded) -> Target:
    from nearly.core.domain import Box
    from nearly.core.nouns import Field, Function
    from nearly.core.target import Target

    made = _import(problem.function)
    name = problem.function.rpartition(":")[2]
    if problem.lower is not None and problem.upper is not None:
        if problem.arguments:
            raise BadInput("arguments", "left out with lower and upper, where the function itself is replaced", "some")
        box = Box(problem.lower, problem.upper, log=problem.log)
        if problem.noun == "field":
            return Field(made, box, vectorized=bool(problem.vectorized), name=name)
        vectorized = problem.vectorized is None or problem.vectorized
        return Function(made, box, metric=problem.metric, vectorized=vectorized, name=name)
    if problem.lower is not None or problem.upper is not None:
        raise BadInput("lower and upper", "given both or neither", "one of them")
    if callable(made) and not isinstance(made, Target):
        try:
            made = made(**problem.arguments)
        except NearlyError:
            raise
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
            raise BadInput(problem.function, "a function that returns a target", got, _ITSELF) from error
    if not isinstance(made, Target):
        raise BadInput(
            problem.function,
            "a target or a function that returns one",
            type(made).__name__,
            _ITSELF,
        )
    return made


def _import(text: str) -> Any:
    """An attribute of a module, which is looked for in the current folder too: the user asked for this very module.

    Raises:
        BadInput: when it cannot be had.
        NearlyError: that the module raises.
    """
    module_name, _, attribute = text.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise BadInput("function", "of the form module:function", repr(text))
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except NearlyError:
        raise
    except Exception as error:
        raise BadInput(
            "module", "one that can be imported", f"{module_name} ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=3, cutoff=0.5)
        raise BadInput(
            "function", f"one of {module_name}", repr(attribute), f"Near: {', '.join(near)}." if near else ""
        )
    return getattr(module, attribute)
