"""How a budget of memory is shared out."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tightrope.errors import ConfigError
from tightrope.stability import MOST_COLUMNS, Probe, allotted


@pytest.mark.parametrize("factor", [50, 60, 110, 1000])
def test_what_is_given_out_is_what_there_is(factor):
    p, itemsize = 10_000, 4
    given = allotted(factor * p * itemsize, p, itemsize)
    vectors = (24 + 2 * given.columns) * p * itemsize
    assert vectors + 2.2 * given.graph == pytest.approx(factor * p * itemsize)
    assert 12 <= given.columns <= MOST_COLUMNS


def test_more_memory_gives_a_longer_basis_until_it_is_of_no_more_use():
    columns = [allotted(factor * 4e4, 10_000, 4).columns for factor in (50, 110, 150, 1000)]
    assert columns == [12, 15, 25, 32]


def test_too_little_for_the_vectors_alone_is_refused():
    with pytest.raises(ConfigError, match=r"must hold 48 vectors of the 10,000 parameters and a graph.*1e\+06"):
        allotted(1e6, 10_000, 4)


@pytest.mark.parametrize("factor", [60, 80, 400])
def test_a_measurement_within_a_budget_is_the_unlimited_one(factor):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 3)).double()
    batch = torch.randn(400, 8).double(), torch.randn(400, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    p = sum(w.numel() for w in model.parameters())

    def half_square(model, batch):
        return (model(batch[0]) - batch[1]).square().sum() / (2 * len(batch[0]))

    whole = Probe(model, half_square, rtol=1e-6).measure(optimizer, batch)
    short = Probe(model, half_square, rtol=1e-6, max_bytes=factor * p * 8)
    for _ in range(2):
        m = short.measure(optimizer, batch)
        assert m.ratio == pytest.approx(whole.ratio, rel=1e-6)
    assert ("rebuilt" in m.route) == (factor < 400)


def test_what_a_measurement_holds_stays_within_its_budget():
    """All tensors that the allocator gives out, on top of those that were there, restarts and first check included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 300), nn.GELU(), nn.Linear(300, 300), nn.GELU(), nn.Linear(300, 10))
    batch = torch.randn(60, 64), torch.randint(10, (60,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def cross_entropy(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    cross_entropy(model, batch).backward()
    optimizer.step()
    max_bytes = 56 * 4 * sum(w.numel() for w in model.parameters())
    probe = Probe(model, cross_entropy, max_bytes=max_bytes)
    for _ in range(2):
        assert most_allocated(lambda: probe.measure(optimizer, batch)) <= max_bytes


def most_allocated(call):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
