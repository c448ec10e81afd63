"""Runs in worker processes: whatever dies, the numbers are those of a run that was left alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from tightrope.errors import ConfigError, DataError
from tightrope.optim import RECIPES
from tightrope.problems import Chebyshev, Cifar10
from tightrope.store import CHECKPOINT, CONFIG, EVENTS, RunWriter, read_run
from tightrope.studies import STUDIES, Case, StudyFolder, check_problems, execute
from tightrope.studies.worker import attempt, carry_out, order_of
from tightrope.training import MeasureConfig, RunConfig, run

from ..training.test_resume import Killed, events_of, killed_at, snapshot

NETWORK = RunConfig(
    problem=Chebyshev(width=20),
    method=RECIPES["gd"](lr=0.1),
    num_steps=1500,
    dtype="float64",
    measure=MeasureConfig(every=100),
    checkpoint_seconds=0.05,
)
CASE = Case("the run", NETWORK)
OTHER = Case("another", msgspec.structs.replace(NETWORK, num_steps=30))


def test_a_device_is_looked_for_here_unless_the_runs_are_carried_out_elsewhere():
    far = Case("far", msgspec.structs.replace(NETWORK, device="cuda:99"))
    with pytest.raises(ConfigError, match="device: must be one that torch has here"):
        check_problems([far])
    check_problems([far], device="cpu")
    too_large = Case("too large", msgspec.structs.replace(far.config, batch_size=21))
    with pytest.raises(ConfigError, match="batch_size"):
        check_problems([too_large], device="cpu")


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "out")


def undisturbed(case, path):
    run(case.config, out=path)
    return events_of(path)


def kill_workers():
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)


def test_a_killed_worker_is_replaced_and_its_run_goes_on_exactly(folder, tmp_path):
    kills, seen = [], []

    def observe(progress):
        seen.append(progress)
        if progress.step > 200 and not kills:
            kills.append(progress.step)
            kill_workers()

    done = execute([CASE], folder, observe=observe)
    assert kills
    assert (done.num_runs, done.num_found, done.failures, done.is_interrupted) == (1, 0, {}, False)
    path = folder.run_path(CASE.key)
    assert read_run(path).num_resumed >= 1
    assert events_of(path) == undisturbed(CASE, tmp_path / "alone")
    assert (seen[-1].num_ended, seen[-1].step, seen[-1].num_steps) == (1, 1500, 1500)
    assert seen[-1].report.outcome == "completed"


def test_a_run_that_fails_is_recorded_and_the_others_go_on_once(folder, tmp_path):
    missing = Case("no data", msgspec.structs.replace(OTHER.config, problem=Cifar10(path=str(tmp_path / "no.npz"))))
    done = execute([missing, OTHER, Case("the same again", OTHER.config)], folder)
    assert done.num_runs == 2
    assert list(done.failures) == ["no data"]
    assert "no.npz" in done.failures["no data"]
    assert folder.state(missing).state == "failed"
    assert folder.outcomes([missing])[0].reason.startswith("failed: ")
    assert folder.state(OTHER).state == "done"
    before = (folder.run_path(OTHER.key) / EVENTS).stat()
    again = execute([OTHER], folder)
    assert (again.num_found, again.failures) == (1, {})
    after = (folder.run_path(OTHER.key) / EVENTS).stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


@pytest.mark.parametrize("error", [RuntimeError, DataError])
def test_an_error_of_several_lines_is_one_line_wherever_it_is_told(folder, monkeypatch, error):
    def fails(*_):
        raise error("boom\n  second line\r\n")

    monkeypatch.setattr("tightrope.studies.worker.carry_out", fails)
    report = attempt(order_of(OTHER, folder), lambda report: False)
    assert report.words == {RuntimeError: "RuntimeError: boom second line", DataError: "boom second line"}[error]


def test_the_reason_of_a_failure_that_an_older_version_stored_is_one_line(folder):
    folder.note_failure(OTHER, "boom\n  second line")
    assert folder.state(OTHER).reason == "boom second line"
    assert folder.outcomes([OTHER])[0].reason == "failed: boom second line"


def test_a_run_whose_configuration_was_edited_is_a_failure_and_stays_as_it_is(folder):
    execute([OTHER], folder)
    config = folder.run_path(OTHER.key) / "config.toml"
    config.write_text(config.read_text().replace("num_steps = 30", "num_steps = 31"))
    done = execute([OTHER], folder)
    assert (done.num_found, list(done.failures)) == (0, ["another"])
    assert "was changed; put it back, or delete" in done.failures["another"]
    config.write_text(config.read_text().replace("num_steps = 31", "num_steps = 30"))
    again = execute([OTHER], folder)
    assert (again.num_found, again.failures) == (1, {})


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbled(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{oops\n", *lines[2:]]))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (EVENTS, halved),
        (EVENTS, garbled),
        (EVENTS, os.unlink),
        (CONFIG, os.unlink),
        (CONFIG, lambda path: path.write_text("= = =")),
        (CHECKPOINT, os.unlink),
        (CHECKPOINT, halved),
    ],
)
def test_a_damaged_run_is_left_as_it_is_and_made_anew_once_it_is_deleted_as_it_was_told(folder, file, damage):
    case = Case("the run", msgspec.structs.replace(OTHER.config, checkpoint_seconds=0.0))
    path = folder.run_path(case.key)
    path.parent.mkdir(parents=True)
    with pytest.raises(Killed):
        run(case.config, out=path, observe=killed_at(20))
    damage(path / file)
    held = snapshot(path)
    state = folder.state(case)
    reason = state.reason if state.is_spoilt else attempt(order_of(case, folder), lambda report: False).words
    assert f" {path} and give `tightrope study run` again" in reason
    assert "tightrope run" not in reason
    assert "\n" not in reason
    assert snapshot(path) == held
    shutil.rmtree(path)
    assert attempt(order_of(case, folder), lambda report: False).outcome == "completed"
    assert folder.state(case).state == "done"


def test_half_a_run_is_a_failure_that_no_worker_touches_and_the_others_go_on(folder):
    half = folder.run_path(CASE.key)
    half.mkdir(parents=True)
    (half / CONFIG).write_text(CASE.config.to_toml())
    done = execute([CASE, OTHER], folder)
    reason = f"{half} lacks its events.jsonl; put it back, or delete {half} and give `tightrope study run` again."
    assert done.failures == {"the run": reason}
    assert folder.state(CASE).reason == reason
    assert [entry.name for entry in half.iterdir()] == [CONFIG]
    assert folder.state(OTHER).state == "done"


def test_a_run_that_was_killed_before_it_stored_anything_is_missing_and_made(folder):
    path = folder.run_path(OTHER.key)
    path.mkdir(parents=True)
    (path / EVENTS).touch()
    assert folder.state(OTHER).state == "missing"
    assert attempt(order_of(OTHER, folder), lambda report: False).outcome == "completed"


def test_a_run_that_an_orphan_still_holds_is_waited_for(folder, tmp_path):
    path = folder.run_path(CASE.key)
    path.parent.mkdir(parents=True)
    with pytest.raises(Killed):
        run(CASE.config, out=path, observe=killed_at(200))
    orphan = RunWriter.reopen(path)
    assert RunWriter.is_held(path)
    threading.Timer(1.0, orphan.close).start()
    assert carry_out(path, CASE.config).outcome == "completed"
    assert not RunWriter.is_held(path)
    assert events_of(path) == undisturbed(CASE, tmp_path / "alone")


def test_a_run_whose_workers_keep_dying_counts_as_failed_with_the_signal(folder, monkeypatch):
    monkeypatch.setattr("tightrope.studies.grid.MOST_DEATHS", 1)
    done = execute([CASE], folder, observe=lambda progress: kill_workers())
    assert "by SIGKILL" in done.failures["the run"]
    state = folder.state(CASE)
    assert (state.state, state.reason) == ("failed", done.failures["the run"])
    assert 0 < state.step < CASE.config.num_steps


@pytest.mark.parametrize("num_workers", [0, -1, 1.5])
def test_workers_are_counted_before_anything_is_done(folder, num_workers):
    with pytest.raises(ConfigError, match="-j: must be a whole number, at least 1"):
        execute([CASE], folder, num_workers=num_workers)
    assert not folder.path.exists()


SETTINGS = ["num_steps=1200", "checkpoint_seconds=0.05", "problem.width=20"]
COMMAND = ["study", "run", "fig1b", "-j", "2", "--out", "out", *(part for each in SETTINGS for part in ("--set", each))]


def start(folder):
    command = [sys.executable, "-m", "tightrope", *COMMAND]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(process, paths, num_bytes):
    def total():
        return sum(path.stat().st_size for path in paths if path.exists())

    while process.poll() is None and total() < num_bytes:
        time.sleep(0.005)


def wait_until_free(paths):
    """Until the orphans noticed that nobody listens any more."""
    import fcntl

    for path in paths:
        if path.exists():
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)


def test_the_command_killed_then_interrupted_then_left_alone_equals_one_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a run stores of the working directory's commit is the same then
    cases = STUDIES["fig1b"].cases("small", SETTINGS)
    folder = StudyFolder(tmp_path / "out")
    paths = [folder.run_path(case.key) / EVENTS for case in cases]
    alone = undisturbed(cases[0], tmp_path / "alone")
    size = (tmp_path / "alone" / EVENTS).stat().st_size

    killed = start(tmp_path)
    wait_for_steps(killed, paths, 0.5 * size)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    wait_until_free(paths)
    assert {folder.state(case).state for case in cases} == {"begun", "missing"}

    interrupted = start(tmp_path)
    wait_for_steps(interrupted, paths, 2.6 * size)
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does: to all processes
    out, _ = interrupted.communicate()
    assert interrupted.returncode == 130
    assert "Interrupted; the same command goes on." in out
    states = [folder.state(case).state for case in cases]
    assert "begun" in states
    finished = [path for path, state in zip(paths, states, strict=True) if state == "done"]
    stamps = [path.stat().st_mtime_ns for path in finished]

    last = start(tmp_path)
    out, _ = last.communicate()
    assert last.returncode == 0
    assert f"4 runs: {len(finished)} there already, {4 - len(finished)} made" in out
    assert [path.stat().st_mtime_ns for path in finished] == stamps
    assert events_of(folder.run_path(cases[0].key)) == alone
    assert sum(read_run(path.parent).num_resumed for path in paths) >= 2


@pytest.mark.slow
def test_a_figure_from_nothing_to_its_claims(tmp_path):
    from tightrope.cli import main

    with contextlib.chdir(tmp_path):
        for command in (["run", "fig1b", "-j", "2"], ["check", "fig1b"]):
            with pytest.raises(SystemExit) as end:
                main(["study", *command])
            assert end.value.code == 0
