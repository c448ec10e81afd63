"""What a watched run is told beside the ratio: on quadratics, where every number is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.optim import freeze
from tightrope.parameters import flatten
from tightrope.stability import (
    BatchLook,
    attribution,
    batch_look,
    batch_margin,
    floored,
    landmark,
    measure,
    shared_transfer,
    step_curvature,
)

LAM = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)


class Bowl(nn.Module):
    """sum(lam w^2) / 2, plus a slope that comes with the batch."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=dtype))

    def forward(self, slope):
        return (LAM.to(self.w) * self.w.square()).sum() / 2 + (slope.to(self.w) @ self.w).mean()


def loss_fn(model, slope):
    return model(slope)


NONE = torch.zeros(1, 3, dtype=torch.float64)


def stepped(optimizer, model, slope=NONE):
    optimizer.zero_grad()
    loss_fn(model, slope).backward()
    before = flatten([w.detach() for w in model.parameters()])
    optimizer.step()
    return before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_curvature_along_a_step_is_the_rayleigh_quotient_of_the_step(dtype):
    model = Bowl(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = stepped(optimizer, model)
    found = step_curvature(model, loss_fn, NONE, [model.w], w, freeze(optimizer))
    d = (model.w.detach() - w).double()
    smoothness = float((LAM * d * d).sum() / (d @ d))
    assert found.smoothness == pytest.approx(smoothness, rel=1e-5 if dtype == torch.float32 else 1e-9)
    assert found.ratio == pytest.approx(smoothness * 0.1 / 2, rel=1e-5)
    assert found.loss == pytest.approx(float((LAM * w.double() ** 2).sum() / 2), rel=1e-6)


def test_the_curvature_along_a_step_is_at_most_the_ratio_and_leaves_the_weights():
    model = Bowl()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        w = stepped(optimizer, model)
    after = model.w.detach().clone()
    along = step_curvature(model, loss_fn, NONE, [model.w], w, freeze(optimizer))
    assert 0 < along.ratio <= measure(model, optimizer, loss_fn, NONE).ratio + 1e-12
    assert torch.equal(model.w.detach(), after)


def test_no_step_has_no_curvature():
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    w = stepped(optimizer, model)
    found = step_curvature(model, loss_fn, NONE, [model.w], w, freeze(optimizer))
    assert math.isnan(found.ratio)
    assert math.isnan(found.smoothness)


def test_dormant_coordinates_are_held_at_a_tenth_of_the_median():
    model = nn.Linear(5, 1, bias=False).double()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1, eps=0.0)
    optimizer.state[model.weight] = {
        "step": torch.tensor(1.0),
        "square_avg": torch.tensor([[1e-8, 1.0, 4.0, 9.0, 1e-12]], dtype=torch.float64),
    }
    frozen = freeze(optimizer)
    held, num_dormant = floored(frozen)
    assert num_dormant == 2
    assert held.P.tolist() == pytest.approx([0.1, 1.0, 2.0, 3.0, 0.1])
    assert torch.allclose(held.P * held.D, frozen.P * frozen.D)
    assert "2 dormant coordinates held at 0.1 of the median of P" in held.condition


def test_where_nothing_is_dormant_the_method_is_the_same_object():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(4))], lr=0.1)
    frozen = freeze(optimizer)
    assert floored(frozen) == (frozen, 0)


def looked_at(slopes):
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    stepped(optimizer, model)
    frozen = freeze(optimizer)
    return model, frozen, [batch_look(model, loss_fn, slope[None], slopes, frozen) for slope in slopes]


def test_a_look_at_a_batch_is_the_curvature_its_gradient_meets():
    slopes = torch.tensor([[3.0, 0.0, 0.0], [0.0, -2.0, 5.0]], dtype=torch.float64)
    model, frozen, looks = looked_at(slopes)
    for slope, look in zip(slopes, looks, strict=True):
        g = LAM * model.w.detach() + slope
        q = frozen.D.sqrt() * g
        curvature = float((frozen.D * LAM * q * q).sum())
        assert (look.on_batch, look.on_probe) == pytest.approx((curvature, curvature))
        assert look.length == pytest.approx(float(q @ q))


def test_where_batch_and_data_agree_the_margin_is_the_full_batch_ratio_along_the_gradient():
    _, frozen, looks = looked_at(torch.tensor([[3.0, 0.0, 0.0], [0.0, -2.0, 5.0]], dtype=torch.float64))
    margin = batch_margin(looks, shared_transfer(frozen))
    assert margin.margin == pytest.approx(margin.gradient_sharpness) == pytest.approx(margin.batch_sharpness)
    low, high = margin.margin_interval
    assert low <= margin.margin <= high


def test_noise_counts_without_the_momentum_rules_help():
    """R = AG + (BS - AG) / F(-1): for Adam with beta1 0.9, F(-1) = 1/19."""
    looks = [BatchLook(on_batch=0.5, on_probe=0.1, length=1.0), BatchLook(on_batch=1.5, on_probe=0.3, length=3.0)]
    margin = batch_margin(looks, 1 / 19)
    assert (margin.batch_sharpness, margin.gradient_sharpness) == pytest.approx((0.5, 0.1))
    assert margin.margin == pytest.approx(0.1 + 19 * 0.4)
    assert margin.num_batches == 2


def test_the_interval_covers_the_mean_of_many_batches_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(100):
        lengths = torch.rand(24, generator=generator) + 0.5
        looks = [BatchLook(float(x * (1 + e)), 0.0, float(x)) for x, e in zip(lengths, _noise(generator), strict=True)]
        low, high = batch_margin(looks, 1.0).batch_sharpness_interval
        hits += low <= 1.0 <= high
    assert 85 <= hits <= 99


def _noise(generator):
    return torch.randn(24, generator=generator) * 0.5


def test_one_look_is_no_margin():
    with pytest.raises(ConfigError, match="two batches or more"):
        batch_margin([BatchLook(1.0, 1.0, 1.0)], 1.0)


def test_the_factors_of_a_change_multiply_to_it_and_each_is_named():
    """Curvature rises to 2.4 times, the second moment falls to a quarter, the learning rate rises by half."""
    model, scale = nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()

    def quadratic(model, s):
        return (s * model.weight.square()).sum() / 2

    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1, alpha=0.9, eps=0.0)
    optimizer.state[model.weight] = {"step": torch.tensor(1.0), "square_avg": torch.full((1, 1), 4.0).double()}
    before = freeze(optimizer)
    first = measure(model, optimizer, quadratic, scale)
    then = landmark(7, first.ratio, torch.ones(1).double(), before)
    optimizer.state[model.weight]["square_avg"] /= 4
    optimizer.param_groups[0]["lr"] = 0.15
    second = measure(model, optimizer, quadratic, 2.4 * scale)
    found = attribution(then, second.ratio, float(then.x @ then.x) * 2.4, freeze(optimizer))
    assert found.factors == pytest.approx(
        {"curvature": 2.4, "preconditioner": 2.0, "learning rate": 1.5, "clipping": 1.0, "direction": 1.0}
    )
    assert (found.since, found.before, found.after) == (7, first.ratio, second.ratio)
    assert found.words == (
        "The ratio went from 0.025 at step 7 to 0.18: the curvature rose 2.4 times (44% of the push), the "
        "preconditioner shrank 2 times (35% of the push), the learning rate rose 1.5 times (21% of the push)."
    )


def attributed(curvatures, former, *, lrs=(0.1, 0.1)):
    """Of a quadratic with two coordinates under SGD, from the curvatures `former` along the first to `curvatures`."""
    model = nn.Linear(2, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lrs[0])
    then = landmark(1166, lrs[0] * max(former) / 2, torch.eye(2).double()[former.index(max(former))], freeze(optimizer))
    optimizer.param_groups[0]["lr"] = lrs[1]
    along = float((then.x.square() * torch.tensor(curvatures).double()).sum())
    return attribution(then, lrs[1] * max(curvatures) / 2, along, freeze(optimizer))


def test_a_direction_that_is_no_longer_the_sharpest_is_told_as_one_change_of_the_curvature():
    """Along the former direction the curvature falls to a seventh; another one is a little sharper than that was."""
    found = attributed([2.0, 16.0], [14.0, 1.0], lrs=(0.1, 0.125))
    assert found.factors == pytest.approx(
        {"curvature": 1 / 7, "preconditioner": 1.0, "learning rate": 1.25, "clipping": 1.0, "direction": 8.0}
    )
    assert found.words == (
        "The ratio went from 0.7 at step 1,166 to 1: the learning rate rose 1.25 times (63% of the push), the "
        "curvature rose 1.14 times, now along another direction (37% of the push)."
    )


def test_what_worked_against_a_change_is_told_with_its_factor_and_takes_no_share():
    assert attributed([7.0, 1.0], [14.0, 1.0], lrs=(0.1, 0.4)).words == (
        "The ratio went from 0.7 at step 1,166 to 1.4: the learning rate rose 4 times; against it the curvature fell "
        "2 times."
    )
    assert attributed([2.0, 7.0], [14.0, 1.0], lrs=(0.1, 0.4)).words.endswith(
        "; against it the curvature fell 2 times, now along another direction."
    )


def test_a_change_of_nothing_in_particular_names_no_cause():
    assert attributed([14.2, 1.0], [14.0, 1.0]).words.endswith("; no one cause stands out.")
