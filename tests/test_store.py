"""The run directory: written once, read whole, and read when torn."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from tightrope.errors import StoreError
from tightrope.store import RunWriter, find_runs, read_run


def write_run(path, num_steps=3):
    with RunWriter.new(path, "seed = 1\n") as writer:
        writer.write("start", method="Adam")
        for step in range(1, num_steps + 1):
            writer.write("step", step=step, loss=1 / step, lr=0.1, grad_norm=float("inf"))
        writer.write("measurement", step=2, ratio=float("nan"), threshold=None, status="not_finite", ratios=(1.0,))
        writer.write("end", outcome="completed", step=num_steps)
    return path


def test_what_is_written_is_read(tmp_path):
    record = read_run(write_run(tmp_path / "a"))
    assert record.config == {"seed": 1}
    assert record.start == {"method": "Adam"}
    assert record.outcome == "completed"
    np.testing.assert_array_equal(record.steps["step"], [1, 2, 3])
    np.testing.assert_allclose(record.steps["loss"], [1, 1 / 2, 1 / 3])


def test_numbers_that_are_not_finite_survive(tmp_path):
    record = read_run(write_run(tmp_path / "a"))
    assert np.isposinf(record.steps["grad_norm"]).all()
    assert math.isnan(record.measurements["ratio"][0])
    assert math.isnan(record.measurements["threshold"][0])
    assert record.measurements["status"][0] == "not_finite"
    assert "NaN" not in (tmp_path / "a" / "events.jsonl").read_text()


def test_every_prefix_of_the_events_can_be_read(tmp_path):
    events = write_run(tmp_path / "a") / "events.jsonl"
    whole = events.read_bytes()
    seen = set()
    for size in range(len(whole) + 1):
        events.write_bytes(whole[:size])
        seen.add(len(read_run(tmp_path / "a").steps["step"]))
    assert seen == {0, 1, 2, 3}


def test_a_run_that_was_cut_off_is_unfinished(tmp_path):
    events = write_run(tmp_path / "a") / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:3]) + '{"type": "st')
    record = read_run(tmp_path / "a")
    assert record.outcome == "unfinished"
    assert len(record.steps["step"]) == 2


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    events = write_run(tmp_path / "a") / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    lines[1] = "garbage\n"
    events.write_text("".join(lines))
    with pytest.raises(StoreError, match="line 2 of"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize("line", ["3", "[1]", '"x"', '{"no": "type"}'])
def test_a_line_that_is_json_but_no_event_is_named(tmp_path, line):
    events = write_run(tmp_path / "a") / "events.jsonl"
    events.write_text(f"{line}\n{events.read_text()}")
    with pytest.raises(StoreError, match="line 1 of"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize(("written", "told"), [('"half"', "'half'"), ("1" + 400 * "0", "1" + 39 * "0")])
def test_a_number_that_is_none_or_no_float_is_named(tmp_path, written, told):
    events = write_run(tmp_path / "a") / "events.jsonl"
    events.write_text(events.read_text().replace('"loss": 0.5', f'"loss": {written}'))
    with pytest.raises(StoreError, match=f"loss must be a number, or the text of one; got {told}\\."):
        read_run(tmp_path / "a")


def test_a_directory_that_holds_files_is_never_written_to(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").write_text("x")
    with pytest.raises(StoreError, match="must be new or empty"):
        RunWriter.new(tmp_path / "a", "")
    assert os.listdir(tmp_path / "a") == ["precious.txt"]


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(StoreError, match="must be writable"):
        RunWriter.new(tmp_path / "a", "")
    assert (tmp_path / "a").read_text() == "x"


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(StoreError, match="must be a run directory"):
        read_run(tmp_path / "nope")


@pytest.mark.parametrize(
    ("config", "start", "name"),
    [
        ('[method]\nname = "adam"\n', {"method": "Adam"}, "adam"),
        ('[method]\nname = "foreign"\npath = "a/b.py:Ours"\n', {"method": "Ours"}, "Ours"),
        ("[watch]\nbudget = 0.01\n", {"method": "Lion"}, "Lion"),
        ("[watch]\nbudget = 0.01\n", {}, None),
    ],
)
def test_a_run_names_its_method_in_a_word(tmp_path, config, start, name):
    with RunWriter.new(tmp_path / "run", config) as writer:
        writer.write("start", **start)
    assert read_run(tmp_path / "run").method_name == name


def test_runs_are_found_below_a_folder(tmp_path):
    write_run(tmp_path / "b")
    write_run(tmp_path / "deep" / "a")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_runs(tmp_path)] == ["b", "a"]


def test_runs_behind_links_are_found_once_and_circles_end(tmp_path):
    write_run(tmp_path / "elsewhere" / "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "folder" / "circle").symlink_to(tmp_path / "folder")
    assert find_runs(tmp_path / "folder") == [tmp_path / "folder" / "linked"]
