"""What a loss holds beside its model is found, and left as it was."""

from functools import partial

import pytest
import torch
from torch import nn

from tightrope.curvature import Hessian, hessian
from tightrope.curvature.bystanders import bystanders
from tightrope.stability import measure

TEACHER = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
NOISE = torch.Generator().manual_seed(3)


def distance(teacher, noise, model, x):
    noisy = x + 0.1 * torch.randn(x.shape, generator=noise)
    return (model(noisy) - teacher(x).detach()).square().mean()


def by_globals(model, x):
    return distance(TEACHER, NOISE, model, x)


def by_closure(teacher=TEACHER, noise=NOISE):
    return lambda model, x: distance(teacher, noise, model, x)


def by_defaults(model, x, teacher=TEACHER, *, noise=NOISE):
    return distance(teacher, noise, model, x)


class Trainer:
    def __init__(self):
        self.teacher, self.noise = TEACHER, NOISE

    def loss(self, model, x):
        return distance(self.teacher, self.noise, model, x)

    def __call__(self, model, x):
        return self.loss(model, x)


def within(loss_fn):
    return lambda model, x: loss_fn(model, x) * 1


LOSSES = {
    "globals": by_globals,
    "closure": by_closure(),
    "defaults": by_defaults,
    "partial": partial(distance, TEACHER, NOISE),
    "method": Trainer().loss,
    "object": Trainer(),
    "a function in its closure": within(by_globals),
}


@pytest.mark.parametrize("name", LOSSES)
def test_modules_and_generators_beside_the_model_are_left_as_they_were(name):
    loss_fn, model = LOSSES[name], nn.Linear(3, 2)
    assert {TEACHER, NOISE} <= set(bystanders(loss_fn))
    ids = [id(buffer) for buffer in TEACHER.buffers()]
    before, noise = {key: x.clone() for key, x in TEACHER.state_dict().items()}, NOISE.get_state()
    m = measure(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, torch.randn(6, 3))
    assert m.has_ratio
    assert [id(buffer) for buffer in TEACHER.buffers()] == ids
    assert all(torch.equal(x, before[key]) for key, x in TEACHER.state_dict().items())
    assert torch.equal(NOISE.get_state(), noise)


def test_a_loss_without_a_module_of_its_own_is_looked_through():
    names = {"teacher": TEACHER}
    exec("loss_fn = lambda model, x: model(x) - teacher(x)", names)
    assert names["loss_fn"].__module__ in (None, "builtins")
    assert bystanders(names["loss_fn"]) == (TEACHER,)


def test_each_product_sees_the_draws_of_construction_of_a_generator_of_the_users_own():
    model, x = nn.Linear(3, 2).double(), torch.randn(6, 3)
    loss_fn = by_closure(nn.Linear(3, 2))

    def doubled(model, x):
        return loss_fn(lambda x: model(x.double()), x)

    H = hessian(model, doubled, x)
    assert H.check.agreement < 1e-6
    rebuilt = hessian(model, doubled, x, route="rebuilt graph")
    v = torch.ones(H.size).double()
    torch.testing.assert_close(rebuilt @ v, H @ v, rtol=1e-12, atol=1e-14)
    NOISE.manual_seed(4)
    torch.testing.assert_close(rebuilt @ v, H @ v, rtol=1e-12, atol=1e-14)


def test_buffers_are_seen_as_they_are_and_written_as_copies():
    teacher = nn.BatchNorm1d(3).eval()
    teacher.running_mean.fill_(2.0)
    model, x = nn.Linear(3, 3), torch.randn(6, 3)
    H = Hessian(model, lambda model, x: (model(x) - teacher(x)).square().mean(), x)
    expected = (model(x) - (x - 2.0) / (1 + teacher.eps) ** 0.5).square().mean()
    assert H.loss == pytest.approx(float(expected.detach()), rel=1e-5)
