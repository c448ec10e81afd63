"""With P pinned an optimizer's own steps die below its edge and grow beyond it, and only there."""

from dataclasses import replace

import pytest
import torch

from tests.reference.held import growth, parameters, warmed
from tightrope.errors import UnsupportedOptimizerError
from tightrope.optim import Adafactor, Padam, freeze, pinned_path

from ..studies.own import HandAdam, SignDescent

MADE = {
    "HandAdam": lambda ws: HandAdam(ws, lr=1e-2),
    "Adam": lambda ws: torch.optim.Adam(ws, lr=1e-2, weight_decay=0.1),
    "AdamW": lambda ws: torch.optim.AdamW(ws, lr=1e-2, weight_decay=0.5),
    "SGD": lambda ws: torch.optim.SGD(ws, lr=1e-2),
    "Nesterov": lambda ws: torch.optim.SGD(ws, lr=1e-2, momentum=0.8, nesterov=True),
    "RMSprop": lambda ws: torch.optim.RMSprop(ws, lr=1e-2, momentum=0.5),
    "NAdam": lambda ws: torch.optim.NAdam(ws, lr=1e-2),
    "Adagrad": lambda ws: torch.optim.Adagrad(ws, lr=1e-2),
    "Padam": lambda ws: Padam(ws, lr=1e-2),
    "Adafactor": lambda ws: Adafactor(ws, lr=1e-2),
    "groups": lambda ws: torch.optim.Adam([{"params": ws[:1], "lr": 1e-3}, {"params": ws[1:], "betas": (0.5, 0.99)}]),
}


def made(name, num_steps=60):
    ws = parameters()
    return warmed(MADE[name](ws), ws, num_steps)


@pytest.mark.parametrize("name", MADE)
def test_own_steps_die_below_the_edge_and_grow_beyond(name):
    optimizer = made(name)
    frozen = freeze(optimizer)
    below, beyond = pinned_path(optimizer, frozen, 0.99), pinned_path(optimizer, frozen, 1.01)
    assert (below.has_died, below.has_grown) == (True, False)
    assert (beyond.has_died, beyond.has_grown) == (False, True)


@pytest.mark.parametrize(("factor", "at"), [(1.05, 1.01), (0.95, 0.99)])
def test_an_edge_that_is_said_in_the_wrong_place_shows(factor, at):
    optimizer = made("HandAdam")
    frozen = freeze(optimizer)
    path = pinned_path(optimizer, replace(frozen, D=frozen.D * factor), at)
    assert path.has_died if factor > 1 else path.has_grown


def test_gradient_descent_grows_by_what_its_curvature_says():
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = warmed_one(torch.optim.SGD([w], lr=0.5), w)
    path = pinned_path(optimizer, freeze(optimizer), 1.5)
    assert path.growth == pytest.approx(2.0**path.num_steps)  # |1 - lr h| with lr h = 2 * 1.5
    path = pinned_path(optimizer, freeze(optimizer), 1.2, num_steps=7)
    assert (path.num_steps, path.growth) == (7, pytest.approx(1.4**7))
    assert (path.has_died, path.has_grown) == (False, False)


def warmed_one(optimizer, w):
    w.grad = torch.ones_like(w)
    optimizer.step()
    return optimizer


def test_it_agrees_with_the_plain_way_of_holding_a_second_moment():
    ratios = (0.97, 1.03)
    ours = [pinned_path(made("HandAdam"), freeze(made("HandAdam")), at).has_grown for at in ratios]
    plain = []
    for at in ratios:
        ws = parameters()
        optimizer = warmed(torch.optim.Adam(ws, lr=1e-2), ws)
        plain.append(growth(optimizer, ws, freeze(optimizer), {"exp_avg"}, at) > 1)
    assert ours == plain == [False, True]


def test_the_optimizer_is_left_alone():
    optimizer = made("HandAdam")
    ws = optimizer.param_groups[0]["params"]
    before = repr(optimizer.state_dict()), [w.detach().clone() for w in ws]
    random = torch.get_rng_state()
    pinned_path(optimizer, freeze(optimizer), 1.01)
    assert repr(optimizer.state_dict()) == before[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], ws, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_what_has_no_diagonal_edge_is_refused():
    ws = parameters()
    optimizer = warmed(SignDescent(ws, 1e-2), ws)
    with pytest.raises(UnsupportedOptimizerError, match="needs a diagonal P"):
        pinned_path(optimizer, freeze(optimizer), 1.01)
    frozen = replace(freeze(made("SGD")), ascent=object())
    with pytest.raises(UnsupportedOptimizerError, match="the gradient where the weights are"):
        pinned_path(made("SGD"), frozen, 1.01)
