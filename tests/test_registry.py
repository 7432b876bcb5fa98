"""The catalogue: cards come from source text alone, fast, without torch; other packages add theirs; errors say which and why."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearly.core import registry
from nearly.core.errors import BadInput
from nearly.core.method import Method

# A module like a member's, heavy to import: it would load torch, and fail.
SOURCE = '''"""A method."""
import torch
raise RuntimeError("imported")

CARD = {{
    "name": "Method{number}",
    "nouns": ["field"],
    "rows": [{number}],
    "replaces": "a simulation",
    "certificate": "Probable",
    "rate": "none",
    "cost": "none",
    "parameters": {{"rank": ["integer", 1, None]}},
    "budget": {{"parameter": "rank", "start": 4, "factor": 2, "most": 256}},
    "skips": {{}},
}}

''' + "\n".join(f"def helper_{i}(x):\n    return x + {i}\n" for i in range(40))


@pytest.fixture
def catalogue(monkeypatch):
    """The registry with an empty memory before and after; the returned function sets the entry points that it finds."""
    registry.cards.cache_clear()

    def set_entry_points(*points):
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "nearly.methods" else ())

    yield set_entry_points
    monkeypatch.undo()
    registry.cards.cache_clear()


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_nearly_and_listing_methods_load_no_torch():
    run("import sys, nearly; assert 'torch' not in sys.modules; nearly.cards(); assert 'torch' not in sys.modules")


def test_two_hundred_cards_are_read_once_each_without_importing(tmp_path, monkeypatch, catalogue):
    room = tmp_path / "fields"
    room.mkdir()
    for number in range(200):
        (room / f"method_{number:03}.py").write_text(SOURCE.format(number=number))
    opened = []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **kw: opened.append(path) or read_text(path, **kw))
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "core" / "registry.py"))
    catalogue()
    modules = set(sys.modules)
    start = time.process_time()
    cards = registry.cards()
    seconds = time.process_time() - start
    assert [cards[f"fields.Method{n}"]["rows"] for n in range(200)] == [[n] for n in range(200)]
    assert cards["fields.Method7"]["module"] == "nearly.fields.method_007"
    assert sorted(opened) == sorted(room.glob("*.py"))
    assert set(sys.modules) == modules
    assert registry.cards() is cards
    assert len(opened) == 200
    # Measured at 0.02 s; what may fail here is work per card that grew tenfold, not a slow machine.
    assert seconds < 1.0


def test_files_without_a_card_are_no_methods(tmp_path):
    path = tmp_path / "helper.py"
    path.write_text('"""Speaks of a CARD = {} only."""\n')
    assert registry.read_card(path) is None


@pytest.mark.parametrize(
    "text",
    [
        'CARD = {\n    "name": open("x"),\n}\n',
        'CARD = {\n    "name": "A",\n',
        'CARD = {\n    "nouns": [],\n}\n',
        "CARD = {\n    1, 2,\n}\n",
    ],
    ids=["not a literal", "not closed", "no name", "a set"],
)
def test_a_malformed_card_is_named(tmp_path, text):
    path = tmp_path / "sorry_method.py"
    path.write_text(f'"""A method."""\n{text}')
    with pytest.raises(BadInput, match=r"CARD of sorry_method\.py"):
        registry.read_card(path)


def plugin(tmp_path, monkeypatch, text):
    (tmp_path / "their_method.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.metadata.EntryPoint(name="theirs", value="their_method", group="nearly.methods")


def test_entry_points_add_methods_without_importing_them(tmp_path, monkeypatch, catalogue):
    catalogue(plugin(tmp_path, monkeypatch, SOURCE.format(number=3)))
    cards = registry.cards()
    assert cards["their_method:Method3"]["module"] == "their_method"
    assert "their_method" not in sys.modules
    assert "fields.ReducedBasis" in cards


def test_entry_points_that_lead_nowhere_are_named(tmp_path, monkeypatch, catalogue):
    catalogue(importlib.metadata.EntryPoint(name="lost", value="no_such_module_here", group="nearly.methods"))
    with pytest.raises(BadInput, match="entry point lost"):
        registry.cards()
    catalogue(plugin(tmp_path, monkeypatch, '"""No card."""\n'))
    with pytest.raises(BadInput, match="entry point theirs"):
        registry.cards()


def test_an_unknown_id_names_near_ones():
    with pytest.raises(BadInput, match=r"fields\.ReducedBases.*Near: .*fields\.ReducedBasis"):
        registry.method_class("fields.ReducedBases")
    with pytest.raises(BadInput, match="installed method"):
        registry.method_class("")


def test_every_card_leads_to_its_class():
    for name, card in registry.cards().items():
        found = registry.method_class(name)
        assert issubclass(found, Method)
        assert found.id() == name
        assert found.card == {key: value for key, value in card.items() if key != "module"}


def test_methods_of_a_noun_are_those_whose_cards_say_so():
    found = {method.id() for method in registry.methods_for("function")}
    assert found == {name for name, card in registry.cards().items() if "function" in card["nouns"]}
    assert registry.methods_for("no such noun") == []
