"""What a run may do to its watcher, or its loss to the data, and what is said of it then."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from tightrope.monitor import watch
from tightrope.monitor.attendance import MAX_IDLE
from tightrope.store import read_events
from tightrope.views import explanation

from .loops import batches, cross_entropy, network


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def steps(model, optimizer, watcher, num, loss_fn=cross_entropy, stream=None):
    for _, batch in zip(range(num), stream or batches(num), strict=False):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        watcher.step(batch, loss)


def made(lr=1e-2):
    model = network()
    return model, torch.optim.AdamW(model.parameters(), lr=lr)


@pytest.mark.parametrize("probe", ["none", "a part of the batch", "the batch"])
def test_a_loss_that_writes_to_its_batch_leaves_the_loops_batch_as_it_was(probe):
    def careless(model, batch):
        batch[0].mul_(1.5)
        return cross_entropy(model, batch)

    model, optimizer = made()
    batch = next(batches(1))
    given = {"none": None, "a part of the batch": (batch[0][:8], batch[1][:8]), "the batch": batch}[probe]
    with watch(model, optimizer, careless, probe=given, every=2) as watcher:
        for _ in range(6):
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
            before = batch[0].clone()
            watcher.step(batch)
            assert torch.equal(batch[0], before)
        found = [watcher.measure(given) for given in (None, None, batch)]
        assert torch.equal(batch[0], before)
        assert len(watcher._watching.readings) == 3
    assert found[0].ratio == pytest.approx(found[1].ratio, rel=0.01)  # not of what the one before has left of its data


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors_in_a_batch_are_no_hindrance(layout):
    adjacency = getattr(torch.eye(32), layout)()
    model, optimizer = made()

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[2] @ batch[0]), batch[1])

    stream = ((*batch, adjacency) for batch in batches(9))
    with watch(model, optimizer, loss_fn, every=3) as watcher:
        steps(model, optimizer, watcher, 9, loss_fn, stream)
        assert [r.is_minibatch for r in watcher._watching.readings] == [True] * 3


def test_a_process_that_forks_has_one_end_and_one_writer():
    model, optimizer = made()
    watcher = watch(model, optimizer, cross_entropy, every=2, run_dir="run")
    steps(model, optimizer, watcher, 4)
    child = os.fork()
    if not child:
        try:
            steps(model, optimizer, watcher, 4)
            watcher.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    steps(model, optimizer, watcher, 2)
    watcher.close()
    events = read_events("run")
    assert [event["step"] for event in events if event["type"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [event["type"] for event in events].count("end") == 1


def test_a_run_too_short_for_its_budget_says_that_nothing_was_read(capsys):
    model, optimizer = made()
    with watch(model, optimizer, cross_entropy) as watcher:
        steps(model, optimizer, watcher, 5)
    [line] = capsys.readouterr().err.splitlines()
    assert "no reading was made in 5 steps" in line
    assert "every=" in line


def test_a_run_without_steps_says_nothing(capsys):
    watch(*made(), cross_entropy).close()
    assert not capsys.readouterr().err


def test_a_rate_of_zero_is_not_taken_for_a_want_of_curvature(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer, cross_entropy, every=3) as watcher:
        steps(model, optimizer, watcher, 6)
    said = capsys.readouterr().err
    assert "the learning rate is 0, so nothing moves" in said
    assert "no positive curvature" not in said


def test_where_there_is_no_ratio_nothing_is_said_of_what_it_understates():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with watch(model, optimizer, cross_entropy, every=2, run_dir="run") as watcher:
        steps(model, optimizer, watcher, 12, lambda model, batch: model(batch[0]).square().sum())
    told = explanation("run")
    assert json.dumps(told.to_dict())
    assert told.measurement["verdict"] == "undecided"
    assert not any("understates" in line or "0 products" in line for line in told.lines)


def test_a_directory_that_is_taken_is_told_of_by_the_name_watch_has_for_it(capsys):
    for _ in range(2):
        model, optimizer = made()
        watcher = watch(model, optimizer, cross_entropy, run_dir="run")
        watcher.close()
    [line] = capsys.readouterr().err.splitlines()
    assert "run directory: must be new or empty" in line
    assert "Choose another directory." in line
    assert "--out" not in line


def test_a_loop_that_went_on_with_another_optimizer_is_told_so_while_it_runs(capsys):
    model, optimizer = made()
    watcher = watch(model, optimizer, cross_entropy, every=3, run_dir="run")
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), watcher, MAX_IDLE - 1)
    assert "in a row" not in capsys.readouterr().err
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), watcher, 20)
    [line] = capsys.readouterr().err.splitlines()
    assert f"called {MAX_IDLE} times in a row without one. If the optimizer was replaced" in line
    watcher.close()
