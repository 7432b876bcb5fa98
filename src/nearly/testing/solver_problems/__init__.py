"""Problems that iterations are checked on, one file per kind; a card's `kind` names the file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nearly.core.errors import BadInput
from nearly.testing._nested import tensors_of


@dataclass(frozen=True)
class SolverProblem:
    """A problem for iterations of one kind, in double precision.

    Attributes:
        name: for messages.
        arguments: what the iteration is given, by name; it is called as `solver(**arguments, tolerance=..., iterations=...)`.
        residual: recomputes from a value and the arguments, naively, what the iteration calls its residual.
        tolerance: which a correct iteration reaches on this problem within its default number of iterations.
        batched: arguments whose first dimension counts problems, each with the same solution alone; the others are shared.
        impossible: by name, changed arguments for which there is no solution: an error or `converged=False` must come.
        degrees: argument -> d, where the value of that argument times s is s^d times the value; only for tensors of any scale.
        structure: argument -> a map to changes that keep it valid, such as symmetric ones, for finite differences.
        meaning: what of the value is unique (for factors, their product); the value itself by default.
        order: measures the order or rate that a card declares under `order`; None where nothing is declared.
    """

    name: str
    arguments: Mapping[str, Any]
    residual: Callable[[Any, Mapping[str, Any]], Tensor]
    tolerance: float = 1e-8
    batched: tuple[str, ...] = ()
    impossible: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    degrees: Mapping[str, float] = field(default_factory=dict)
    structure: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    meaning: Callable[[Any], Tensor] = lambda value: value
    order: Callable[[Callable[..., Any]], float] | None = None

    @property
    def complex_arguments(self) -> set[str]:
        """Those that are complex tensors, or lists or tuples with one."""
        return {name for name, value in self.arguments.items() if any(one.is_complex() for one in tensors_of(value))}


def solver_problems(kind: str, complex_arguments: Collection[str] = ()) -> list[SolverProblem]:
    """The problems of a kind whose complex arguments, if any, are among those named.

    Raises:
        BadInput: for an unknown kind.

    Example:
        >>> [problem.name for problem in solver_problems("linear")]
        ['three well-conditioned systems', 'a badly scaled system']
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if kind not in known:
        raise BadInput("kind", f"one of {', '.join(known)}", repr(kind))
    found: list[SolverProblem] = importlib.import_module(f"{__name__}.{kind}").problems()
    return [problem for problem in found if problem.complex_arguments <= set(complex_arguments)]
