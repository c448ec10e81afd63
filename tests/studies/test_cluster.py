"""Runs on a Ray cluster: the same numbers, whatever dies; and one line where no cluster is."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest

from tightrope.cli import main
from tightrope.errors import ConfigError
from tightrope.store import read_run
from tightrope.studies import STUDIES, StudyFolder, connected
from tightrope.studies.cluster import Board
from tightrope.studies.worker import Report

from ..training.test_resume import events_of
from .test_execution import SETTINGS, undisturbed, wait_for_steps

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
OPEN = {"RAY_AUTH_MODE": "disabled"}
"""A cluster of the test's own, on this machine alone: no token is made or asked for."""
HERE = [part for each in SETTINGS for part in ("--set", each)]


def start(folder, *arguments):
    """The command in a session and with a mark of its own, by which its Ray processes can be told."""
    environment = {**os.environ, "TIGHTROPE_TEST": uuid.uuid4().hex, "OMP_NUM_THREADS": "1", **OPEN}
    command = [sys.executable, "-m", "tightrope", "study", "run", "fig1b", "--out", "out", *HERE, *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process, environment["TIGHTROPE_TEST"]


def tasks_of(mark):
    """Processes of Ray that carry out a task of the command with a mark."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as title, open(f"/proc/{name}/environ", "rb") as environment:
                if title.read().startswith(b"ray::beta1") and mark.encode() in environment.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


@needs_ray
@pytest.mark.slow
def test_an_interrupted_grid_goes_on_and_a_killed_task_is_taken_up_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = STUDIES["fig1b"].cases("small", SETTINGS)
    folder = StudyFolder(tmp_path / "out")
    paths = [folder.run_path(case.key) / "events.jsonl" for case in cases]
    alone = undisturbed(cases[0], tmp_path / "alone")
    size = (tmp_path / "alone" / "events.jsonl").stat().st_size

    first, mark = start(tmp_path, "--ray", "local", "-j", "2")
    wait_for_steps(first, paths, 1.2 * size)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does: to all processes
    began = time.monotonic()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (130, "")
    assert time.monotonic() - began < 20  # they were told, not waited for
    assert "Interrupted; the same command goes on." in out
    states = {folder.state(case).state for case in cases}
    assert "begun" in states
    assert "failed" not in states
    assert tasks_of(mark) == []

    last, mark = start(tmp_path, "--ray", "local", "-j", "2")
    wait_for_steps(last, paths, 2.2 * size)
    victims = tasks_of(mark)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    out, err = last.communicate(timeout=120)
    assert (last.returncode, err) == (0, "")
    assert "4 runs:" in out
    assert ", 0 failed" in out
    assert {folder.state(case).state for case in cases} == {"done"}
    assert events_of(folder.run_path(cases[0].key)) == alone
    assert sum(read_run(path.parent).num_resumed for path in paths) >= 2
    assert list((tmp_path / "out").glob("seen-by-*")) == []


@needs_ray
@pytest.mark.slow
def test_runs_go_to_a_cluster_that_is_there_by_its_address_and_by_auto(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
         "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **OPEN},
    )  # fmt: skip
    try:
        for number, address in enumerate((f"127.0.0.1:{port}", "auto")):
            out, err, process = as_soon_as_it_answers(tmp_path, address, number)
            assert (process.returncode, err) == (0, "")
            assert "4 runs: 0 there already, 4 made" in out
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=30)


def as_soon_as_it_answers(folder, address, number):
    for _ in range(5):
        process, _ = start(folder, "--ray", address, "--set", f"seed={number}", "--set", "num_steps=60")
        out, err = process.communicate(timeout=120)
        if process.returncode != 2:
            break
        time.sleep(2)
    return out, err, process


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "must be HOST:PORT, auto or local; got 'ray://127.0.0.1:10001'"),
        ("somewhere", "must be HOST:PORT, auto or local; got 'somewhere'"),
        ("127.0.0.1:99999", "nothing answers at 127.0.0.1:99999"),
    ],
)
@needs_ray
def test_where_no_cluster_is_it_is_said_in_one_line_soon_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, address, words
):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(SystemExit) as end:
        main(["study", "run", "fig1b", "--ray", address])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert words in err
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


@needs_ray
def test_a_port_where_something_else_answers_is_no_cluster(monkeypatch):
    monkeypatch.setattr("tightrope.studies.connection.SECONDS_TO_ANSWER", 2.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        began = time.monotonic()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster can be joined at {address}"), connected(address):
            pass
        assert time.monotonic() - began < 10


def test_without_ray_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Install tightrope\[ray\]"), connected("local"):
        pass


def test_a_board_keeps_the_latest_report_of_each_run_and_passes_the_wish_to_stop_on():
    board = Board()
    assert board.tell("a", Report(1)) is False
    assert board.tell("a", Report(2)) is False
    assert board.tell("b", Report(7)) is False
    assert board.take() == {"a": Report(2), "b": Report(7)}
    assert board.take() == {}
    board.stop()
    assert board.tell("a", Report(3)) is True


@needs_ray
@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named_and_nothing_runs(tmp_path):
    script = """
import json, sys
from pathlib import Path
import tightrope.studies.cluster as cluster
from tightrope.errors import StoreError
from tightrope.studies import STUDIES, StudyFolder, connected, execute
cluster.sees = lambda path: False
with connected("local", 1) as joined:
    try:
        execute(STUDIES["fig1b"].cases("small"), StudyFolder("out"), cluster=joined)
    except StoreError as error:
        print(json.dumps(str(error)))
print(json.dumps(sorted(str(path) for path in Path("out").rglob("*"))))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=90)
    message, left = (json.loads(line) for line in done.stdout.splitlines())
    assert "must be a folder that every node of the cluster sees; " in message
    assert (left, done.stderr) == ([], "")
