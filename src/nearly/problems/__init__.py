"""Real expensive things with their own solvers. Each module holds one public function of the module's name.

from nearly.problems import thermal_block
target = thermal_block(cells=50)
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearly.core.target import Target
    from nearly.problems.allen_cahn import allen_cahn as allen_cahn
    from nearly.problems.borehole import borehole as borehole
    from nearly.problems.burgers import burgers as burgers
    from nearly.problems.convection_diffusion import convection_diffusion as convection_diffusion
    from nearly.problems.darcy_flow import darcy_flow as darcy_flow
    from nearly.problems.digits_classifier import digits_classifier as digits_classifier
    from nearly.problems.logistic_posterior import logistic_posterior as logistic_posterior
    from nearly.problems.robot_arm import robot_arm as robot_arm
    from nearly.problems.rosenbrock import rosenbrock as rosenbrock
    from nearly.problems.sentence_encoder import sentence_encoder as sentence_encoder
    from nearly.problems.smooth_function import smooth_function as smooth_function
    from nearly.problems.thermal_block import thermal_block as thermal_block
    from nearly.problems.wing_weight import wing_weight as wing_weight


def available() -> list[str]:
    """The names of all problems, read from the names of their files; imports none of them.

    Example:
        >>> "thermal_block" in available()
        True
    """
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def build(name: str, **arguments: Any) -> Target:
    """A problem from its name and keyword arguments.

    Args:
        name: one of `available()`.
        arguments: of the problem's function, which checks their values.

    Returns:
        The target.

    Raises:
        BadInput: for an unknown name or argument; the message names near ones.

    Example:
        >>> build("smooth_function", dimension=3).domain.dimension
        3
    """
    from nearly.core.errors import BadInput

    if name not in available():
        raise BadInput("problem", f"one of {', '.join(available())}", repr(name), _near(name, available()))
    function = getattr(sys.modules[__name__], name)
    known = list(inspect.signature(function).parameters)
    for argument in arguments:
        if argument not in known:
            raise BadInput(f"arguments of {name}", f"among {', '.join(known)}", repr(argument), _near(argument, known))
    return function(**arguments)


def _near(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"Near: {', '.join(near)}." if near else ""


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in available():
        raise AttributeError(f"module 'nearly.problems' has no attribute {name!r}")
    importlib.import_module(f"nearly.problems.{name}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *available()})


class _Problems(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a problem's module puts that module here, under the name that its function shall have.
        if isinstance(value, ModuleType) and not name.startswith("_"):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Problems
