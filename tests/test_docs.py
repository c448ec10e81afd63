"""The documentation names everything that is public, and the README's code runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from pathlib import Path

import pytest
import torch

import tightrope
from tightrope import errors
from tightrope.training import PRESETS

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
README = (ROOT / "README.md").read_text()
ROOMS = (
    "optim",
    "curvature",
    "doctor",
    "monitor",
    "problems",
    "stability",
    "store",
    "studies",
    "theory",
    "training",
    "views",
)


def section(heading):
    """The part of the reference under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def documented(heading):
    return set(re.findall(r"`([\w-]+)`", section(heading)))


@pytest.mark.parametrize("room", [*ROOMS, "integrations"])
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
    assert len(blocks) == 5
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


def test_the_page_on_models_shows_what_the_commands_print(tmp_path, monkeypatch, capsys):
    from tightrope.cli import main

    page = (ROOT / "docs" / "models.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = dict(re.findall(r"```\n\$ tightrope (\w+).*?\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plan.py").write_text(code)
    names = {}
    exec(code, names)
    model, optimizer, loss_fn, batch = names["build"]()
    for _ in range(200):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    commands = {"doctor": [], "measure": ["last.pt", "--layers", "--spectrum", "spectrum.html"]}
    for command, rest in commands.items():
        with pytest.raises(SystemExit) as end:
            main([command, "plan.py:build", *rest])
        assert end.value.code == 0
        assert without_numbers(capsys.readouterr().out) == without_numbers(shown[command])


def without_numbers(text):
    """The words of an output: its numbers are a machine's and a moment's."""
    words = re.sub(r"[-\d.,]*\d(e[+-]?\d+)?", "0", text)
    # What depends on time and chance: whether the cadence is rare, units of size, and the order of layers.
    words = re.sub(r" That is rare\..*", "", words)
    words = re.sub(r"\b[kMG]?B\b", "B", words)
    return sorted(" ".join(line.split()) for line in words.splitlines() if line.strip())
