"""`watch` given what it cannot use: one line that says what to do, and a run that goes on as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tightrope.monitor import watch

from .loops import Unwatched, assert_equal, batches, cross_entropy, network, state_of


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loop(watch, loss_fn, num_steps=5, **settings):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    with watch(model, optimizer, loss_fn(optimizer), **settings) as watcher:
        for batch in batches(num_steps):
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
            optimizer.step()
            watcher.step(batch, loss)
            losses.append(loss.item())
        is_on = getattr(watcher, "is_on", None)
    return state_of(model, optimizer, losses), is_on


def with_backward(optimizer):
    def loss_fn(model, batch):
        loss = cross_entropy(model, batch)
        loss.backward()
        return loss

    return loss_fn


def with_kept_graph(optimizer):
    def loss_fn(model, batch):
        loss = cross_entropy(model, batch)
        loss.backward(retain_graph=True)
        return loss

    return loss_fn


def with_step(optimizer):
    def loss_fn(model, batch):
        optimizer.step()
        return cross_entropy(model, batch)

    return loss_fn


def with_all(optimizer):
    def loss_fn(model, batch):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return loss_fn


def with_projection(optimizer):
    def loss_fn(model, batch):
        with torch.no_grad():
            model[0].weight.mul_(0.9)
        return cross_entropy(model, batch)

    return loss_fn


TRAINING = {
    with_backward: "calls backward()",
    with_kept_graph: "calls backward()",
    with_step: "calls the optimizer",
    with_all: "calls backward()",
    with_projection: "writes to the weights",
}


@pytest.mark.parametrize("loss_fn", TRAINING)
@pytest.mark.parametrize("settings", [{"every": 1}, {"every": 2, "probe": next(batches(1))}])
def test_a_loss_that_trains_is_told_apart_and_moves_nothing(loss_fn, settings, capsys):
    alone, _ = loop(Unwatched, loss_fn)
    watched, is_on = loop(watch, loss_fn, run_dir="run", **settings)
    assert_equal(watched, alone)
    [line] = capsys.readouterr().err.splitlines()
    assert TRAINING[loss_fn] in line
    assert line.endswith("Leave that to the loop and give the part before it. The run goes on unwatched.")
    assert not is_on


LOSSES = {
    "another signature": (
        lambda model, batch, extra: None,
        "must take (model, batch); got one that takes (model, batch, extra)",
    ),
    "no function": ("cross entropy", "must be a function of (model, batch); got str"),
    "nothing": (lambda model, batch: None, "got NoneType. Return the loss alone, as a tensor."),
    "a number": (lambda model, batch: cross_entropy(model, batch).item(), "got float. Return the loss alone"),
    "a tuple": (lambda model, batch: (cross_entropy(model, batch), 1), "got tuple. Return the loss alone"),
    "a dict": (lambda model, batch: {"loss": cross_entropy(model, batch)}, "got dict. Return the loss alone"),
    "a vector": (
        lambda model, batch: model(batch[0]).sum(1),
        "got shape (2,), torch.float32. Average it: loss.mean().",
    ),
    "detached": (lambda model, batch: cross_entropy(model, batch).detach(), "Is it detached"),
    "raising": (lambda model, batch: {}["absent"], "on a tuple of (8, 6), (8,) it raised KeyError: 'absent'."),
    "of another batch": (
        lambda model, batch: model(batch["x"]).mean(),
        "on a tuple of (8, 6), (8,) it raised TypeError",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_none_is_one_line_at_the_first_step_that_knows(name, capsys):
    loss_fn, words = LOSSES[name]
    alone, _ = loop(Unwatched, lambda optimizer: loss_fn)
    data = next(batches(1, size=8))
    watched, is_on = loop(watch, lambda optimizer: loss_fn, every=3, probe=data, run_dir="run")
    assert_equal(watched, alone)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tightrope: watch: ")
    assert words in line
    assert line.endswith(" The run goes on unwatched.")
    assert not is_on


class Empty(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


PROBES = {
    "zero": lambda: 0,
    "less than none": lambda: -3,
    "a half": lambda: 0.5,
    "a truth": lambda: True,
    "an empty tensor": lambda: torch.zeros(0, 6),
    "an empty list": lambda: [],
    "an empty dict": lambda: {},
    "a batch of empty tensors": lambda: (torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)),
    "a dict of empty tensors": lambda: {"x": torch.zeros(0, 6)},
    "batches of nothing": lambda: [(torch.zeros(0, 6), torch.zeros(0))] * 2,
    "a generator that yields nothing": lambda: (batch for batch in ()),
    "a loader of nothing": lambda: torch.utils.data.DataLoader(Empty()),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_of_nothing_in_any_form_is_refused_at_once(name, capsys):
    _, is_on = loop(watch, lambda optimizer: cross_entropy, probe=PROBES[name](), run_dir="run")
    [line] = capsys.readouterr().err.splitlines()
    assert "probe must hold an example or more; got " in line
    assert not is_on


def test_a_probe_that_cannot_be_read_is_refused_with_its_reason(capsys):
    loop(watch, lambda optimizer: cross_entropy, probe=(1 / 0 for _ in range(2)), run_dir="run")
    [line] = capsys.readouterr().err.splitlines()
    assert "reading it raised ZeroDivisionError: division by zero. The run goes on unwatched." in line


def test_a_loss_given_in_the_place_of_the_batch_is_one_line(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    batch = next(batches(1))
    loss = cross_entropy(model, batch)
    loss.backward()
    optimizer.step()
    watcher.step(loss, batch)
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "the loss must be a tensor or a number; got tuple. Call step(batch, loss). The run goes on unwatched." in line
    )


def test_everything_frozen_on_the_way_is_one_line(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for number, batch in enumerate(batches(4)):
        model.requires_grad_(number < 2)
        optimizer.zero_grad()
        if number < 2:
            cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "it moves none. Is all of it frozen? The run goes on unwatched." in last


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "network"}, "model must be a torch module; got str"),
        ({"optimizer": "adam"}, "needs a torch optimizer; got str"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)}, "1 of its 1 are not"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS: its step comes from a history of secants"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(change, words, capsys):
    model = network()
    optimizer = change.get("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = optimizer(model.parameters()) if isinstance(optimizer, type) else optimizer
    watcher = watch(change.get("model", model), optimizer, cross_entropy, run_dir="run")
    assert not watcher.is_on
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.endswith("The run goes on unwatched.")


def test_a_watcher_that_gives_up_inside_a_step_lets_the_step_end(monkeypatch, capsys):
    """Hooks cannot be taken away while torch goes through them."""

    def failing(optimizer):
        raise ValueError("no method today")

    def watching(model, optimizer, *args, **settings):
        watcher = watch(model, optimizer, *args, **settings)
        optimizer.register_step_post_hook(lambda *unused: None)
        monkeypatch.setattr("tightrope.monitor.hooks.freeze", failing)
        return watcher

    _, is_on = loop(watching, lambda optimizer: cross_entropy, every=1, num_steps=6, run_dir="run")
    assert not is_on
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "tightrope: ValueError: no method today. The run goes on unwatched."
