"""Resume: a run stopped anywhere and taken up again stores what it would have stored undisturbed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

import tightrope as tr
from tightrope.errors import StoreError
from tightrope.optim import RECIPES, Cosine
from tightrope.problems import Chebyshev, Digits
from tightrope.store import CHECKPOINT, CONFIG, DISCARDED, EVENTS, RunWriter, read_events
from tightrope.training import MeasureConfig, RunConfig, StopConfig, resume
from tightrope.training import checkpoint as checkpoint_file

ITS_OWN = {"seconds", "measuring_seconds", "time", "run_id"}


class Killed(BaseException):
    """Leaves the files as a kill does: nothing catches it, so nothing more is written."""


def killed_at(step):
    def observe(progress):
        if progress.step == step:
            raise Killed

    return observe


def minibatch_digits(**more):
    settings = {
        "method": RECIPES["adam"](lr=3e-3),
        "num_steps": 24,
        "batch_size": 16,
        "schedule": Cosine(num_steps=24),
        "measure": MeasureConfig(every=3, audit_every=4),
        "checkpoint_seconds": 0,
        **more,
    }
    return RunConfig(problem=Digits(hidden=(8,), num_examples=60), **settings)


def events_of(path):
    """All events but `resumed`, without what the clock decides and what names the run."""
    return [
        {name: value for name, value in event.items() if name not in ITS_OWN}
        for event in read_events(path)
        if event["type"] != "resumed"
    ]


def kill_at(config, path, step):
    with pytest.raises(Killed):
        tr.run(config, out=path, observe=killed_at(step))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    tr.run(minibatch_digits(), out=path)
    return events_of(path)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 12, 23, 24])
def test_a_run_killed_after_any_step_goes_on_as_if_undisturbed(tmp_path, undisturbed, step):
    kill_at(minibatch_digits(), tmp_path / "run", step)
    record = resume(tmp_path / "run")
    assert record.outcome == "completed"
    assert events_of(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_what_lies_past_the_checkpoint_is_kept_aside(tmp_path, undisturbed, checkpoint_seconds):
    config = minibatch_digits(checkpoint_seconds=checkpoint_seconds)
    kill_at(config, tmp_path / "run", 10)
    before = (tmp_path / "run" / EVENTS).read_text()
    torn = before + '{"type": "step", "st'
    (tmp_path / "run" / EVENTS).write_text(torn)
    resume(tmp_path / "run")
    after = (tmp_path / "run" / EVENTS).read_text().splitlines()
    discarded = (tmp_path / "run" / DISCARDED).read_text()
    resumed = next(i for i, line in enumerate(after) if '"resumed"' in line)
    assert "\n".join(after[:resumed]) + "\n" + discarded == torn + "\n"
    assert json.loads(after[resumed])["discarded_bytes"] == len(discarded) - 1
    assert json.loads(after[resumed])["step"] == (0 if checkpoint_seconds else 10)
    assert events_of(tmp_path / "run")[1:] == undisturbed[1:]


def test_a_run_can_be_killed_again_and_again(tmp_path, undisturbed):
    kill_at(minibatch_digits(), tmp_path / "run", 2)
    for step in (3, 4, 9, 15, 23):
        with pytest.raises(Killed):
            resume(tmp_path / "run", observe=killed_at(step))
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == undisturbed
    assert [event["step"] for event in read_events(tmp_path / "run") if event["type"] == "resumed"] == [
        2,
        3,
        4,
        9,
        15,
        23,
    ]


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"foreign"}))  # see test_foreign_method
def test_every_method_survives_a_kill(tmp_path, name):
    config = RunConfig(
        problem=Chebyshev(width=10),
        method=RECIPES[name](lr=1e-3),
        num_steps=20,
        dtype="float64",
        measure=MeasureConfig(every=4),
        checkpoint_seconds=0,
    )
    tr.run(config, out=tmp_path / "whole")
    kill_at(config, tmp_path / "run", 9)
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "whole")


def test_an_interrupted_run_can_be_resumed_and_its_end_is_set_aside(tmp_path, undisturbed):
    def interrupt(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    record = tr.run(minibatch_digits(), out=tmp_path / "run", observe=interrupt)
    assert record.outcome == "interrupted"
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == undisturbed
    assert '"interrupted"' in (tmp_path / "run" / DISCARDED).read_text()


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "completed"),
        ({"stop": StopConfig(loss=0.6)}, "target_loss"),
        ({"method": RECIPES["gd"](lr=100.0)}, "diverged"),
    ],
)
def test_an_ended_run_stays_as_it_is_and_a_kill_before_its_end_changes_nothing(tmp_path, change, outcome):
    config = minibatch_digits(**change)
    assert tr.run(config, out=tmp_path / "run").outcome == outcome
    whole = (tmp_path / "run" / EVENTS).read_bytes()
    assert resume(tmp_path / "run").outcome == outcome
    assert (tmp_path / "run" / EVENTS).read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    for num_lost in (1, 2):
        copy = tmp_path / f"without {num_lost}"
        shutil.copytree(tmp_path / "run", copy)
        (copy / EVENTS).write_bytes(b"".join(lines[:-num_lost]))
        assert resume(copy).outcome == outcome
        assert events_of(copy) == events_of(tmp_path / "run")


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path, undisturbed):
    kill_at(minibatch_digits(), tmp_path / "run", 1)
    shutil.rmtree((tmp_path / "run" / CHECKPOINT).parent)
    first_line = (tmp_path / "run" / EVENTS).read_text().splitlines(keepends=True)[0]
    (tmp_path / "run" / EVENTS).write_text(first_line[:-20])
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == undisturbed


def test_a_directory_a_killed_run_left_empty_can_be_used(tmp_path, undisturbed):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / EVENTS).touch()
    (tmp_path / "run" / f"{CONFIG}.tmp").write_text("half a conf")
    tr.run(minibatch_digits(), out=tmp_path / "run")
    assert events_of(tmp_path / "run") == undisturbed
    assert not (tmp_path / "run" / f"{CONFIG}.tmp").exists()


def test_the_callers_random_numbers_and_threads_are_left_alone(tmp_path):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    kill_at(minibatch_digits(), tmp_path / "run", 3)
    former = torch.get_num_threads()
    torch.set_num_threads(former + 1)
    try:
        resume(tmp_path / "run")
        assert torch.get_num_threads() == former + 1
        resumed = next(event for event in read_events(tmp_path / "run") if event["type"] == "resumed")
        assert resumed["num_threads"] == former
    finally:
        torch.set_num_threads(former)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_start_event_names_seed_threads_versions_and_the_commit(tmp_path, monkeypatch):
    repository = tmp_path / "code"
    repository.mkdir()
    monkeypatch.chdir(repository)
    tr.run(minibatch_digits(num_steps=1, seed=3), out=tmp_path / "before")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (repository / "model.py").write_text("a = 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    clean = tr.run(minibatch_digits(num_steps=1, seed=3), out=tmp_path / "clean").start
    (repository / "model.py").write_text("a = 2\n")
    changed = tr.run(minibatch_digits(num_steps=1, seed=3), out=tmp_path / "changed").start
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert clean["git"] == {"commit": commit, "has_changes": False}
    assert changed["git"] == {"commit": commit, "has_changes": True}
    assert clean["seed"] == 3
    assert clean["num_threads"] == torch.get_num_threads()
    assert set(clean["versions"]) == {"tightrope", "torch", "python"}
    assert tr.read_run(tmp_path / "before").start["git"] is None


def test_random_numbers_a_model_draws_are_part_of_the_checkpoint(tmp_path, monkeypatch):
    build = Digits.build

    def noisy(self, seed, dtype):
        problem = build(self, seed, dtype)
        return replace(problem, loss_fn=lambda model, batch: problem.loss_fn(model, batch) * (1 + torch.rand(()) / 10))

    monkeypatch.setattr(Digits, "build", noisy)
    tr.run(minibatch_digits(), out=tmp_path / "whole")
    torch.rand(3)
    kill_at(minibatch_digits(), tmp_path / "run", 9)
    torch.rand(2)
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "whole")


# What must not be resumed, and says why.


def snapshot(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def killed(tmp_path):
    kill_at(minibatch_digits(), tmp_path / "run", 6)
    return tmp_path / "run"


def refuses(path, message, **options):
    before = snapshot(path)
    with pytest.raises(StoreError, match=message):
        resume(path, **options)
    assert snapshot(path) == before


def test_a_changed_configuration_is_refused(killed):
    text = (killed / CONFIG).read_text()
    (killed / CONFIG).write_text(text.replace("seed = 0", "seed = 1"))
    assert text != (killed / CONFIG).read_text()
    refuses(killed, "must be as it was when the checkpoint was written")


def test_a_configuration_this_version_does_not_take_is_refused(killed):
    (killed / CONFIG).write_text((killed / CONFIG).read_text() + "\n[futures]\nx = 1\n")
    refuses(killed, "must be a configuration this version takes; futures: not a setting")


def test_other_versions_are_refused_unless_told_otherwise(killed, undisturbed, monkeypatch):
    state = checkpoint_file.load(killed)
    state["identity"]["versions"]["torch"] = "1.0"
    checkpoint_file.save(killed, state)
    refuses(killed, "versions must be those of the checkpoint.*1.0.*--anyway")
    resume(killed, is_strict=False)
    assert events_of(killed) == undisturbed


def test_a_checkpoint_of_another_format_is_refused(killed, monkeypatch):
    state = checkpoint_file.load(killed)
    monkeypatch.setattr(checkpoint_file, "VERSION", "0")
    checkpoint_file.save(killed, state)
    monkeypatch.undo()
    refuses(killed, "must be of version 1; got 0")


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"\xff" * 2000])
def test_a_damaged_checkpoint_is_refused(killed, damage):
    (killed / CHECKPOINT).write_bytes(damage)
    refuses(killed, "checkpoint: .* must be whole")


def test_a_truncated_checkpoint_is_refused(killed):
    whole = (killed / CHECKPOINT).read_bytes()
    (killed / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    refuses(killed, "checkpoint: .* must be whole")


def test_a_checkpoint_with_one_bit_flipped_is_refused(killed):
    whole = bytearray((killed / CHECKPOINT).read_bytes())
    whole[-3] ^= 1
    (killed / CHECKPOINT).write_bytes(whole)
    refuses(killed, "must be whole; its digest does not match")


def test_a_missing_checkpoint_is_refused_once_steps_were_stored(killed):
    (killed / CHECKPOINT).unlink()
    refuses(killed, "must have a checkpoint")


def test_events_that_end_before_their_checkpoint_are_refused(killed):
    (killed / EVENTS).write_bytes((killed / EVENTS).read_bytes()[:200])
    refuses(killed, "the first .* bytes of .* must be whole events")


def test_events_that_were_edited_are_refused_and_nothing_is_cut(killed):
    lines = (killed / EVENTS).read_bytes().splitlines(keepends=True)
    (killed / EVENTS).write_bytes(b"".join(lines[:4] + lines[5:]) + b'{"type": "step", "step": 7}\n' * 9)
    refuses(killed, "must be whole events|must belong to its events")


def test_the_checkpoint_of_another_run_is_refused(killed, tmp_path):
    kill_at(minibatch_digits(), tmp_path / "sibling", 4)
    shutil.copy(tmp_path / "sibling" / CHECKPOINT, killed / CHECKPOINT)
    refuses(killed, "must be whole events|must belong to its events")


def test_a_checkpoint_of_the_same_length_of_events_but_another_run_is_refused(killed):
    state = checkpoint_file.load(killed)
    checkpoint_file.save(killed, {**state, "run_id": "another"})
    refuses(killed, "must belong to its events; it is another run's")


def test_other_data_are_refused(killed, monkeypatch):
    build = Digits.build

    def brighter(self, seed, dtype):
        problem = build(self, seed, dtype)
        return replace(problem, batch=(problem.batch[0] + 1e-3, *problem.batch[1:]))

    monkeypatch.setattr(Digits, "build", brighter)
    refuses(killed, "the data must be what .* was trained on")


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(StoreError, match="must be a run directory with"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["config.toml", "events.jsonl"])
def test_half_a_run_is_told_what_it_lacks(killed, name):
    (killed / name).unlink()
    with pytest.raises(StoreError, match=rf"no {name}\. Put it back, or delete"):
        resume(killed)


def test_a_run_being_written_has_no_second_writer(tmp_path):
    seen = []

    def observe(progress):
        if progress.step == 3:
            for attempt in (lambda: resume(tmp_path / "run"), lambda: tr.run(minibatch_digits(), out=tmp_path / "run")):
                with pytest.raises(StoreError) as error:
                    attempt()
                seen.append(str(error.value))

    record = tr.run(minibatch_digits(), out=tmp_path / "run", observe=observe)
    assert record.outcome == "completed"
    assert "must have one writer; another process writes it now" in seen[0]
    assert "must be new or empty" in seen[1]


def test_of_many_writers_of_one_new_directory_one_wins(tmp_path):
    held, refused, ready = [], [], threading.Barrier(8)

    def claim():
        ready.wait()
        try:
            held.append(RunWriter.new(tmp_path / "run", "seed = 1\n"))
        except StoreError as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)
    held[0].close()


# A disk that fills up.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB that can be filled; skipped where nobody may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(small_disk, undisturbed):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 210_000)
    with pytest.raises(StoreError, match=r"No space left on device.*make room, then `tightrope resume"):
        tr.run(minibatch_digits(), out=small_disk / "run")
    assert (small_disk / "run" / EVENTS).read_bytes().endswith(b"\n")
    assert not list((small_disk / "run").rglob("*.tmp"))
    ballast.unlink()
    assert resume(small_disk / "run").outcome == "completed"
    assert events_of(small_disk / "run") == undisturbed


def test_no_event_is_torn_by_a_disk_that_fills_up(tmp_path, monkeypatch):
    written = os.write

    def half(descriptor, content):
        if b'"step": 4' in content:
            written(descriptor, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, content)

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StoreError, match="No space left on device"):
        tr.run(minibatch_digits(), out=tmp_path / "run")
    assert (tmp_path / "run" / EVENTS).read_bytes().endswith(b"\n")
    assert [event["step"] for event in read_events(tmp_path / "run") if event["type"] == "step"] == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_leaves_the_former_one(killed, monkeypatch):
    before = (killed / CHECKPOINT).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tightrope.store.durable.os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        checkpoint_file.save(killed, {"step": 1})
    assert (killed / CHECKPOINT).read_bytes() == before


# The command.


def test_the_command_resumes_after_a_real_kill(tmp_path, undisturbed):
    (tmp_path / "config.toml").write_text(minibatch_digits().to_toml())
    program = (
        "import os, signal, sys\n"
        "from tightrope.store import RunWriter\n"
        "from tightrope.cli import main\n"
        "write = RunWriter.write\n"
        "def deadly(self, kind, **columns):\n"
        "    if columns.get('step') == 11: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, kind, **columns)\n"
        "RunWriter.write = deadly\n"
        "main(['run', 'config.toml', '--out', 'run'])\n"
    )
    as_here = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, env=as_here)
    assert done.returncode == -9
    command = [sys.executable, "-m", "tightrope", "resume", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Done after 24 steps." in done.stdout
    # The start event names the working directory's commit, which is another one here.
    assert events_of(tmp_path / "run")[1:] == undisturbed[1:]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to resume" in done.stdout


def test_a_checkpoint_of_a_version_without_a_setting_goes_on_with_its_default(tmp_path):
    config = minibatch_digits()
    tr.run(config, out=tmp_path / "alone")
    with pytest.raises(Killed):
        tr.run(config, out=tmp_path / "run", observe=killed_at(10))
    state = checkpoint_file.load(tmp_path / "run")
    lines = state["identity"]["config"].splitlines(keepends=True)
    older = "".join(line for line in lines if not line.startswith("num_eigenvalues"))
    assert older != state["identity"]["config"]
    state["identity"]["config"] = older
    checkpoint_file.save(tmp_path / "run", state)
    (tmp_path / "run" / CONFIG).write_text(older)
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "alone")
