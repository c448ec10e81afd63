"""A model that keeps count in Python: a watched run leaves its count as an unwatched one does."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque

import pytest
import torch
from torch import nn

from tightrope.monitor import watch
from tightrope.monitor.attributes import attributes_kept
from tightrope.store import read_events

from .loops import Unwatched, batches, cross_entropy


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Layer(nn.Module):
    """Hands what it finds to a list that its parent reads, as layers of experts do with their losses."""

    def __init__(self, shared):
        super().__init__()
        self.linear, self.extra = nn.Linear(6, 3), shared

    def forward(self, x):
        self.extra.append(self.linear.weight.square().mean())
        return self.linear(x)


class Counting(nn.Module):
    """Counts, notes and keeps in every way a plain attribute can."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.extra = []
        self.layer = Layer(self.extra)
        self.calls, self.name, self.last = 0, "none", None
        self.notes = {"means": [], "calls": 0}
        self.recent, self.sizes, self.counts = deque(maxlen=3), set(), defaultdict(int)
        self.order, self.pair = OrderedDict(first=0, second=1), ([], 1)
        self.average = torch.zeros(3)

    def forward(self, x):
        self.extra.clear()
        y = self.layer(x)
        self.calls += 1
        self.name = f"call {self.calls}"
        self.last = y
        self.notes["means"].append(float(y.detach().mean()))
        self.notes["calls"] += 1
        self.recent.append(self.calls)
        self.sizes.add(float(x.sum()))
        self.counts[len(x)] += 1
        self.order.move_to_end("first" if self.calls % 2 else "second")
        self.pair[0].append(self.calls)
        self.average.mul_(0.9).add_(y.detach().mean(0))
        if self.calls == 1:
            self.cache = x.mean(0)
        return y


def loss_fn(model, batch):
    return cross_entropy(model, batch) + 0.01 * sum(model.extra)


def left_by(watching, num_steps=12):
    """The model after a loop, and the losses of that."""
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with watching(model, optimizer) as watcher:
        for batch in batches(num_steps):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimizer.step()
            watcher.step(batch, loss)
            losses.append(loss.item())
    return model, losses


def readings():
    return [event for event in read_events("run") if event["type"] == "measurement"]


def plainly(model):
    names = ("calls", "name", "notes", "recent", "sizes", "counts", "pair")
    held = {name: getattr(model, name) for name in names}
    tensors = {"average": model.average.tolist(), "last": model.last.tolist(), "cache": model.cache.tolist()}
    return {**held, **tensors, "order": list(model.order), "extra": [each.item() for each in model.extra]}


def test_what_a_model_counts_in_python_is_what_it_counts_unwatched():
    model, losses = left_by(lambda *parts: Unwatched())
    probe = next(batches(1, size=16, seed=5))
    watched, its_losses = left_by(
        lambda *parts: watch(*parts, loss_fn, probe=probe, every=2, run_dir="run", clip_norm=1.0)
    )
    assert len(readings()) == 6
    assert its_losses == losses
    assert plainly(watched) == plainly(model)
    assert watched.layer.extra is watched.extra


def test_a_loss_that_modules_hand_over_in_a_list_is_measured_whole():
    """Copies of the list, one a module, would leave a part of the loss out."""
    _, losses = left_by(lambda *parts: watch(*parts, loss_fn, every=4, run_dir="run"))
    assert [reading["loss"] for reading in readings()] == pytest.approx(losses[3::4], rel=1e-6)


def test_attributes_made_exchanged_or_deleted_inside_are_as_before():
    model = Counting()
    average, thing = model.average, object()
    model.thing = thing
    with attributes_kept(model):
        model(torch.ones(4, 6))
        model.average, model.notes, model.thing = torch.ones(1), None, None
        del model.calls
    assert model.average is average
    assert average.tolist() == [0, 0, 0]
    assert (model.calls, model.last, model.notes) == (0, None, {"means": [], "calls": 0})
    assert model.thing is None, "what is not plain is the user's own to change"
    assert not hasattr(model, "cache")
    assert model.layer.linear.weight.requires_grad


def test_what_torch_keeps_for_itself_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    with attributes_kept(model):
        model.append(nn.ReLU())
        model.register_buffer("late", torch.ones(1))
        model.eval()
    assert len(model) == 2
    assert "late" in dict(model.named_buffers())
    assert not model.training
