"""The documentation names everything that is public, and the README's code runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

import tightrope
from tightrope import errors
from tightrope.training import PRESETS

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
README = (ROOT / "README.md").read_text()
ROOMS = ("optim", "curvature", "problems", "stability", "store", "theory", "training", "views")


def section(heading):
    """The part of the reference under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def documented(heading):
    return set(re.findall(r"`([\w-]+)`", section(heading)))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_in_the_reference_and_no_other(room):
    names = set(importlib.import_module(f"tightrope.{room}").__all__)
    assert documented(f"`tightrope.{room}`") == names


def test_the_names_at_the_top_are_in_the_reference():
    assert documented("`tightrope`") == set(tightrope._HOMES)


def test_every_error_is_in_the_reference():
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names <= documented("`tightrope.errors`")


def test_every_preset_is_in_the_reference():
    assert documented("Presets") == set(PRESETS)


def test_every_command_is_in_the_reference_and_the_readme():
    from tightrope.cli.app import app

    commands = {name for name in app if not name.startswith("-")}
    assert set(re.findall(r"`tightrope (\w+)`", section("Commands"))) == commands
    assert all(f"tightrope {name}" in README for name in commands)


def test_every_public_name_has_a_docstring():
    for room in ROOMS:
        module = importlib.import_module(f"tightrope.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and not hasattr(value, "__args__"):
                assert value.__doc__, f"{room}.{name}"


def test_the_code_in_the_readme_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(block, names)
    assert "ratio" in printed.getvalue()
    assert "38000" in printed.getvalue()
    assert "the ascent held at" in printed.getvalue()


def test_local_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
