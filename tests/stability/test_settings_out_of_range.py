"""A learning rate or second moment that is no number ends in a status, and zero in an edge that is far."""

import math

import pytest
import torch
from torch import nn

import tightrope
from tightrope.optim import freeze
from tightrope.stability import measure

OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1),
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=1e-2),
    "ours": lambda params: tightrope.optim.Adam(params, lr=1e-2),
}
MOMENTS = {"Adam": "exp_avg_sq", "RMSprop": "square_avg", "ours": "nu"}


def loss_fn(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def stepped(optimizer):
    """Model, optimizer after two steps, and batch."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), (torch.randn(6, 3), torch.randn(6, 3))
    chosen = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(2):
        chosen.zero_grad()
        loss_fn(model, batch).backward()
        chosen.step()
    return model, chosen, batch


@pytest.mark.parametrize("lr", [math.nan, -0.1, math.inf])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_that_is_none_has_no_threshold(optimizer, lr):
    model, chosen, batch = stepped(optimizer)
    chosen.param_groups[0]["lr"] = lr
    found = measure(model, chosen, loss_fn, batch)
    assert found.status == "no_threshold"
    assert found.reason
    assert math.isnan(found.ratio)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_of_zero_is_infinitely_far_from_the_edge(optimizer):
    model, chosen, batch = stepped(optimizer)
    chosen.param_groups[0]["lr"] = 0.0
    found = measure(model, chosen, loss_fn, batch)
    assert (found.status, found.ratio, found.threshold) == ("converged", 0.0, math.inf)


@pytest.mark.parametrize("index", [slice(None), 0], ids=["all", "one"])
@pytest.mark.parametrize("nu", [math.nan, -1.0])
@pytest.mark.parametrize("optimizer", MOMENTS)
def test_a_second_moment_that_is_none_has_no_threshold(optimizer, nu, index):
    model, chosen, batch = stepped(optimizer)
    next(iter(chosen.state.values()))[MOMENTS[optimizer]].view(-1)[index] = nu
    found = measure(model, chosen, loss_fn, batch)
    assert found.status == "no_threshold"
    assert "finite" in found.reason or "negative" in found.reason
    assert math.isnan(found.ratio)


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_a_second_moment_that_overflowed_holds_its_coordinate_still(optimizer):
    model, chosen, batch = stepped(optimizer)
    next(iter(chosen.state.values()))[MOMENTS[optimizer]].view(-1)[0] = math.inf
    assert freeze(chosen).D[0] == 0
    assert measure(model, chosen, loss_fn, batch).has_ratio
