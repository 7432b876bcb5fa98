"""What tests of the command line share."""

import json
from pathlib import Path

import pytest

BLOCK = "thermal_block:blocks=(2,2),cells=8"


def json_of(result):
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())
