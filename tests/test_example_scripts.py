"""The scripts in `examples/` run as their users run them, and the watcher leaves them bit for bit what they are."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tightrope.store import read_run

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
SOURCES = {name: (ROOT / "examples" / f"{name}.py").read_text() for name in SCRIPTS}
NEEDS = {"lora": ("peft", "transformers")}
IMAGES = Path(os.environ.get("TIGHTROPE_DATA") or ROOT.parent / "shared" / "data") / "cifar10-5k.npz"


def started(name, *arguments, folder):
    """The script's run in an empty folder, with no data but what is given."""
    missing = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    environment = {**os.environ, "TIGHTROPE_DATA": str(folder / "no-data"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    environment.pop("TIGHTROPE", None)
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def outcome(name, *arguments, folder):
    """What a run that ended well said, on stdout and stderr."""
    run = started(name, *arguments, folder=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


def final_loss(output):
    """Every digit of it, as text."""
    [loss] = re.findall(r"^final training loss  (\S+), ", output, re.MULTILINE)
    return loss


def test_there_are_the_three_examples():
    assert SCRIPTS == ["char_gpt", "cifar_cnn", "lora"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_final_loss_is_the_same_bit_for_bit_with_and_without_the_watcher(name, tmp_path):
    settings = ("--steps", 6, "--every", 2, "--probe", 8, "--seed", 3)
    watched, said = outcome(name, *settings, "--run-dir", tmp_path / "run", folder=tmp_path)
    plain, silence = outcome(name, *settings, "--no-watch", folder=tmp_path)
    assert final_loss(watched) == final_loss(plain)
    record = read_run(tmp_path / "run")
    assert record.measurements["step"].tolist() == [2, 4, 6]
    assert "a reading every 2 steps; -> " in said
    assert "each reading is of all 8 examples" in said
    assert "tightrope:" not in silence
    assert re.search(r"^process time         \d+\.\d s, \d+\.\d% of it watching$", watched, re.MULTILINE)
    assert f"run directory        {tmp_path / 'run'}" in watched
    assert "run directory        none" in plain


@pytest.mark.parametrize("name", ["char_gpt", "lora"])
def test_any_text_will_do(name, tmp_path):
    text = tmp_path / "text.txt"
    words = "Ναί, καὶ οὐ. " * 20
    text.write_text(words, encoding="utf-8")
    printed, _ = outcome(name, "--text", text, "--steps", 1, "--no-watch", folder=tmp_path)
    assert f"{len(words)} characters, {len(set(words))} different" in printed


def test_images_that_are_none_are_refused_in_one_line(tmp_path):
    run = started("cifar_cnn", "--data", tmp_path / "no.npz", folder=tmp_path)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "there is no file" in run.stderr


def test_without_cifar_the_network_says_that_it_trains_on_digits(tmp_path):
    printed, _ = outcome("cifar_cnn", "--steps", 1, "--no-watch", folder=tmp_path)
    assert "tightrope fetch cifar10" in printed
    assert "1,797 images of digits" in printed


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_a_page_shows_is_one_of_its_script(name):
    flags = {*re.findall(r'add_argument\("(--[\w-]+)"', SOURCES[name]), "--no-watch"}
    pages = [ROOT / "docs" / "examples" / f"{name}.md", ROOT / "docs" / "watching.md"]
    shown = "\n".join([SOURCES[name], *(page.read_text() for page in pages)])
    used = [line.split("#")[0] for line in re.findall(rf"python examples/{name}\.py(.*)", shown)]
    assert len(used) >= 3
    assert {flag for line in used for flag in re.findall(r"(--[\w-]+)", line)} <= flags


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_lines_of_tightrope_are_few_and_marked(name):
    marked = [line for line in SOURCES[name].splitlines() if line.endswith("# tightrope")]
    assert len(marked) == 4  # the import, watch, step, close
    assert all(re.search(r"\btr\b|watcher", line) for line in marked)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_whole_run_keeps_to_its_budget_and_is_read_often_enough(name, tmp_path):
    data = ("--data", IMAGES) if name == "cifar_cnn" and IMAGES.exists() else ()
    watched, _ = outcome(name, *data, "--run-dir", tmp_path / "run", folder=tmp_path)
    plain, _ = outcome(name, *data, "--no-watch", folder=tmp_path)
    assert final_loss(watched) == final_loss(plain)
    record = read_run(tmp_path / "run")
    first, last = record.steps["loss"][0], float(final_loss(watched))
    assert last < 0.7 * first  # it learns
    assert record.end["measuring_seconds"] <= (0.03 + 0.005) * record.end["seconds"]
    assert len(record.measurements["step"]) >= 20
