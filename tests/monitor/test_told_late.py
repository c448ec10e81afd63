"""Steps that take their gradient in a closure, and loops that drop it before they tell of the step."""

from __future__ import annotations

import math

import pytest
import torch

from tightrope.monitor import watch
from tightrope.store import read_events

from .loops import batches, cross_entropy, network


def events(kind):
    return [event for event in read_events("run") if event["type"] == kind]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_gradient_of_a_step_with_a_closure_is_the_one_it_took():
    model, norms = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=2, run_dir="run")
    for batch in [next(batches(1))] * 4:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
            norms.append(float(torch.cat([w.grad.flatten() for w in model.parameters()]).norm()))
            return loss

        watcher.step(batch, optimizer.step(closure))
    watcher.close()
    assert [step["grad_norm"] for step in events("step")] == pytest.approx(norms, rel=1e-5)
    assert [reading["step"] for reading in events("measurement")] == [2, 4]


def test_a_clipped_step_with_a_closure_is_read_as_clipped():
    """The ratio is that of the unclipped step times what clipping left of it."""
    ratios = []
    for limit in (None, 0.01):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watcher = watch(model, optimizer, cross_entropy, every=1, run_dir=f"run{limit}", clip_norm=limit)
        batch = next(batches(1))

        def closure(model=model, limit=limit, batch=batch):
            loss = cross_entropy(model, batch)
            loss.backward()
            closure.norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf)
            return loss

        watcher.step(batch, optimizer.step(closure))
        watcher.close()
        ratios += [e["ratio"] for e in read_events(f"run{limit}") if e["type"] == "measurement"]
    assert ratios[1] < ratios[0] * 0.5


def test_a_gradient_that_is_not_finite_is_named_though_the_loop_dropped_it():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=100, run_dir="run")
    for batch in batches(3):
        cross_entropy(model, batch).backward()
        model[2].weight.grad[0, 0] = math.nan
        optimizer.step()
        optimizer.zero_grad()
        watcher.step(batch)
    watcher.close()
    [found] = events("not_finite")[:1]
    assert (found["what"], found["step"], found["parameter"]) == ("gradient", 1, "2.weight")
