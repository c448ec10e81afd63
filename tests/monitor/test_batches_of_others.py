"""Batches as other people make them: mappings with attributes, dataclasses, objects that cannot be looked into."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from itertools import repeat

import pytest
import torch
from torch import Tensor, nn

from tightrope.curvature import MicroBatches
from tightrope.monitor import watch

from .loops import batches, network


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Encoding(UserDict):
    """Like transformers' BatchEncoding: a mapping that is no dict, with its tensors as attributes too."""

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Record:
    x: Tensor
    y: Tensor


class Graph:
    """Tensors that nobody but its loss finds."""

    def __init__(self, x, y):
        self.x, self.y = x, y


KINDS = {"a mapping": lambda x, y: Encoding(x=x, y=y), "a dataclass": Record, "an object": Graph}


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch.x), batch.y)


def trained(stream, loss_fn=loss_fn, num_steps=12, is_told=True, **settings):
    """The watcher's readings after a run, and whether it was still on."""
    model = settings.pop("model", None) or network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with watch(model, optimizer, loss_fn, **{"every": 3, **settings}) as watcher:
        for _, batch in zip(range(num_steps), stream, strict=False):
            optimizer.zero_grad()
            parts = batch if isinstance(batch, list) else batch.batches if isinstance(batch, MicroBatches) else [batch]
            loss = sum(loss_fn(model, part) for part in parts) / len(parts)
            loss.backward()
            optimizer.step()
            watcher.step(batch if is_told else None, loss)
        return (watcher._watching.readings if watcher._watching else []), watcher.is_on


def of(kind, num=99, size=32):
    return (KINDS[kind](*batch) for batch in batches(num, size=size))


@pytest.mark.parametrize("probe", ["none", "a batch", "batches"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_any_kind_reads_as_the_tuple_does(kind, probe):
    def reading(make, loss_fn):
        given = {"none": None, "a batch": make(*next(batches(1, 64, seed=5)))}.get(probe)
        if probe == "batches":
            given = [make(*batch) for batch in batches(2, seed=5)]
        found, is_on = trained((make(*batch) for batch in batches(12)), loss_fn, probe=given)
        assert is_on
        assert found
        return found

    ours = reading(KINDS[kind], loss_fn)
    plain = reading(lambda *parts: parts, lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert [r.measurement.ratio for r in ours] == [r.measurement.ratio for r in plain]
    assert [r.is_minibatch for r in ours] == [r.is_minibatch for r in plain]


@pytest.mark.parametrize("kind", ["a mapping", "a dataclass"])
def test_examples_of_such_batches_are_counted_and_kept(kind, capsys):
    found, _ = trained(of(kind), probe=48)
    assert found
    assert "all 48 examples (1.54 kB kept)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_does_not_follow_what_becomes_of_the_batch_it_was_given_as(kind):
    def first_ratio(is_changed):
        x, y = next(batches(1, 64, seed=5))
        probe = KINDS[kind](x, y)
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with watch(model, optimizer, loss_fn, probe=probe, every=3) as watcher:
            if is_changed:
                x.zero_()
            for batch in of(kind, 3):
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
                watcher.step(batch)
            return watcher._watching.readings[0].measurement.ratio

    assert first_ratio(True) == first_ratio(False)


def test_examples_that_cannot_be_counted_are_one_line(capsys):
    _, is_on = trained(of("an object"), probe=48)
    [line] = capsys.readouterr().err.splitlines()
    assert "probe=48 needs batches whose examples can be counted; got a Graph" in line
    assert "unwatched" in line
    assert not is_on


def test_what_cannot_be_counted_is_not_called_one_example(capsys):
    trained(of("an object"))
    assert "each reading is of its step's own batch\n" in capsys.readouterr().err


def test_a_number_of_examples_without_batches_is_one_line(capsys):
    _, is_on = trained(batches(40), tuple_loss, num_steps=30, is_told=False, probe=64)
    [line] = capsys.readouterr().err.splitlines()
    assert "there must be data to measure on; got none" in line
    assert not is_on


def test_nothing_is_read_before_all_the_examples_asked_for_are_there(capsys):
    found, _ = trained(batches(12), tuple_loss, probe=160)
    assert [r.step for r in found] == [6, 9, 12]
    assert "all 160 examples" in capsys.readouterr().err


def test_more_examples_than_there_are_are_not_the_same_ones_again(capsys):
    found, _ = trained(repeat(next(batches(1))), tuple_loss, probe=256)
    assert len(found) == 4
    assert "all 32 examples" in capsys.readouterr().err


def tuple_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_batches_that_differ_in_few_places_only_are_told_apart():
    torch.manual_seed(0)
    images = torch.zeros(64, 28, 28)
    images[:, 8:20, 8:20] = torch.rand(64, 12, 12)  # as digits are: nothing but zeros at the border
    stream = (images[torch.randint(64, (8,))].flatten(1) for _ in range(12))
    model = nn.Sequential(nn.Linear(784, 4), nn.Tanh(), nn.Linear(4, 784))
    found, _ = trained(stream, lambda model, x: (model(x) - x).square().mean(), model=model)
    assert all(r.is_minibatch for r in found)


def test_micro_batches_that_are_bare_tensors_are_told_how_to_be_given(capsys):
    def square(model, x):
        return model(x).square().mean()

    def run(make):
        return trained((make([x, x + 1]) for x, _ in batches(12)), square)

    _, is_on = run(list)
    [line] = capsys.readouterr().err.splitlines()
    assert "tr.curvature.MicroBatches(batch)" in line
    assert not is_on
    found, is_on = run(MicroBatches)
    assert found
    assert is_on
