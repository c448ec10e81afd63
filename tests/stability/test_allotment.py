"""How a budget of memory is shared out."""

import pytest
import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.stability import MOST_COLUMNS, Probe, allotted


@pytest.mark.parametrize("factor", [40, 60, 100, 1000])
def test_what_is_given_out_is_what_there_is(factor):
    p, itemsize = 10_000, 4
    given = allotted(factor * p * itemsize, p, itemsize)
    vectors = (14 + 2 * given.columns) * p * itemsize
    assert vectors + 2.2 * given.graph == pytest.approx(factor * p * itemsize)
    assert 11 <= given.columns <= MOST_COLUMNS


def test_more_memory_gives_a_longer_basis_until_it_is_of_no_more_use():
    columns = [allotted(factor * 4e4, 10_000, 4).columns for factor in (40, 100, 150, 1000)]
    assert columns == [11, 18, 30, 32]


def test_too_little_for_the_vectors_alone_is_refused():
    with pytest.raises(ConfigError, match=r"must hold 36 vectors of the 10,000 parameters and a graph.*1e\+06"):
        allotted(1e6, 10_000, 4)


@pytest.mark.parametrize("factor", [45, 80, 400])
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
