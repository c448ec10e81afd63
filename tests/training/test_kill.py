"""kill -9 at random moments: every run that is killed and resumed equals the one that was left alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time

import pytest

from tightrope.optim import RECIPES
from tightrope.problems import Digits
from tightrope.store import CONFIG, EVENTS, read_events, read_run
from tightrope.training import MeasureConfig, RunConfig

from .test_resume import events_of

NUM_KILLS = 50
CONFIGURATION = RunConfig(
    problem=Digits(hidden=(32, 32)),
    method=RECIPES["adam"](lr=1e-3),
    num_steps=150,
    batch_size=256,
    measure=MeasureConfig(every=5, audit_every=6, num_examples=300),
    checkpoint_seconds=0.05,
)


def command(folder, *arguments):
    """What a process of its own does: the command, in a folder, on one thread."""
    import torch

    from tightrope.cli import main

    os.chdir(folder)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    main(list(arguments))


@pytest.fixture(scope="module")
def start():
    """Start a command in a process that has everything imported and has computed nothing."""
    context = multiprocessing.get_context("forkserver")
    rooms = ["tightrope.cli.app", "tightrope.cli.progress", "tightrope.training", "sklearn.datasets"]
    context.set_forkserver_preload(rooms)

    def begin(folder, *arguments):
        process = context.Process(target=command, args=(folder, *arguments))
        process.start()
        return process

    return begin


def wait_until_stored(events, num_bytes, process):
    while process.is_alive() and not (events.exists() and events.stat().st_size >= num_bytes):
        time.sleep(0.0005)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_give_fifty_identical_continuations(tmp_path, start):
    (tmp_path / "config.toml").write_text(CONFIGURATION.to_toml())
    start(tmp_path, "run", "config.toml", "--out", "undisturbed").join()
    expected = events_of(tmp_path / "undisturbed")
    assert read_run(tmp_path / "undisturbed").outcome == "completed"
    size = (tmp_path / "undisturbed" / EVENTS).stat().st_size
    moment = random.Random(0)
    num_torn, num_checkpoints = 0, set()
    for number in range(NUM_KILLS):
        run = tmp_path / f"run-{number}"
        process = start(tmp_path, "run", "config.toml", "--out", run.name)
        # By what is stored rather than by the clock: how fast a process goes depends on what else the machine does.
        wait_until_stored(run / EVENTS, moment.uniform(0, size), process)
        time.sleep(moment.uniform(0, 0.03))
        with contextlib.suppress(ProcessLookupError):  # it may have ended just before
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not (run / CONFIG).exists():
            again = start(tmp_path, "run", "config.toml", "--out", run.name)
        else:
            num_torn += read_run(run).outcome == "unfinished"
            again = start(tmp_path, "resume", run.name)
        again.join()
        assert again.exitcode == 0
        assert events_of(run) == expected, run
        num_checkpoints |= {event["step"] for event in read_events(run) if event["type"] == "resumed"}
    # Else the kills came too early or too late to mean anything.
    assert num_torn >= NUM_KILLS * 3 // 4
    assert len(num_checkpoints) >= NUM_KILLS // 4
