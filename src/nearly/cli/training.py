"""A training for the comparison of optimizers, by name or from a Python file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nearly.core.errors import BadInput

if TYPE_CHECKING:
    from nearly.optim.training import Training

BUILT_IN = ("digits", "characters")


def open_training(path: str) -> Training:
    """Take a training that comes with Nearly, or run a file and take what it defines.

    Args:
        path: "digits" or "characters", or a Python file with `make_model`, `make_data`, `loss` and, if wanted, `validate`.

    Returns:
        The training.

    Raises:
        BadInput: for a file that cannot be run, or lacks one of them.
    """
    from nearly.optim import trainings
    from nearly.optim.training import Training

    if path in BUILT_IN:
        return getattr(trainings, path)()
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise BadInput("TRAIN", f"a Python file, or {' or '.join(BUILT_IN)}", path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:  # as Python does with the files that it runs
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise BadInput("TRAIN", "a file that can be run", f"{type(error).__name__}: {error}") from error
    for name in ("make_model", "make_data", "loss"):
        if not callable(getattr(module, name, None)):
            raise BadInput("TRAIN", f"a file that defines the function {name}", file.name)
    return Training(module.make_model, module.make_data, module.loss, getattr(module, "validate", None))
