"""The probe against dense linear algebra, and what it leaves behind."""

from __future__ import annotations

import copy
import math
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.curvature import Hessian
from tightrope.optim import GD, Adam, AdamW, freeze
from tightrope.stability import Probe


def half_square(model, batch):
    x, y = batch
    return (model(x) - y).square().sum() / (2 * len(x))


@pytest.fixture
def trained():
    """A small network after 20 steps of AdamW in two groups, and its batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    batch = torch.randn(15, 3).double(), torch.randn(15, 2).double()
    groups = [{"params": model[0].parameters(), "lr": 3e-3}, {"params": model[2].parameters(), "weight_decay": 0.1}]
    optimizer = AdamW(groups, lr=1e-3)
    for _ in range(20):
        step(model, optimizer, batch)
    return model, optimizer, batch


def step(model, optimizer, batch):
    optimizer.zero_grad()
    half_square(model, batch).backward()
    optimizer.step()


def dense(model, batch):
    H = Hessian(model, half_square, batch)
    return H @ torch.eye(H.size).double()


def dense_ratio(model, optimizer, batch):
    half = freeze(optimizer).D.sqrt()
    return float(torch.linalg.eigvalsh(half[:, None] * dense(model, batch) * half)[-1])


def test_ratio_is_the_top_eigenvalue_of_the_scaled_hessian_with_mixed_groups(trained):
    model, optimizer, batch = trained
    m = tr.measure(model, optimizer, half_square, batch, rtol=1e-6)
    truth = dense_ratio(model, optimizer, batch)
    assert abs(m.ratio - truth) <= m.residual
    assert m.lower <= truth <= m.upper
    assert m.threshold is None
    assert m.preconditioned_sharpness is None


def test_sharpness_is_the_top_eigenvalue_of_the_raw_hessian(trained):
    model, optimizer, batch = trained
    m = tr.measure(model, optimizer, half_square, batch, rtol=1e-6)
    assert m.sharpness == pytest.approx(float(torch.linalg.eigvalsh(dense(model, batch))[-1]), abs=m.sharpness_residual)


def test_for_gradient_descent_the_ratio_is_lr_times_sharpness_over_two(trained):
    model, _, batch = trained
    m = tr.measure(model, GD(model.parameters(), lr=0.3), half_square, batch, rtol=1e-8)
    assert m.ratio == pytest.approx(0.15 * m.sharpness, rel=1e-6)
    assert m.threshold == pytest.approx(2 / 0.3)
    assert m.preconditioned_sharpness == pytest.approx(m.sharpness, rel=1e-6)


def test_coupled_decay_shifts_the_hessian(trained):
    model, _, batch = trained
    plain = tr.measure(model, torch.optim.SGD(model.parameters(), lr=0.3), half_square, batch, rtol=1e-8)
    decayed = tr.measure(
        model, torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=0.5), half_square, batch, rtol=1e-8
    )
    assert decayed.ratio == pytest.approx(plain.ratio + 0.15 * 0.5, rel=1e-6)


def test_k_ratios_are_the_top_of_the_spectrum(trained):
    model, optimizer, batch = trained
    m = tr.measure(model, optimizer, half_square, batch, k=3, rtol=1e-6)
    half = freeze(optimizer).D.sqrt()
    truth = torch.linalg.eigvalsh(half[:, None] * dense(model, batch) * half).flip(0)[:3]
    assert torch.allclose(torch.tensor(m.ratios).double(), truth, rtol=1e-5)


def test_participation_counts_the_coordinates_of_the_top_direction():
    model = nn.Linear(4, 1, bias=False).double()
    optimizer = GD(model.parameters(), lr=1.0)
    one = tr.measure(model, optimizer, half_square, (torch.eye(4).double()[:1], torch.zeros(1, 1).double()), rtol=1e-9)
    all_ = tr.measure(model, optimizer, half_square, (torch.ones(1, 4).double(), torch.zeros(1, 1).double()), rtol=1e-9)
    assert one.participation == pytest.approx(1)
    assert all_.participation == pytest.approx(4)


def test_growth_is_one_at_the_edge():
    model = nn.Linear(1, 1, bias=False).double()
    batch = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    m = tr.measure(model, tr.optim.HeavyBall(model.parameters(), lr=3.8), half_square, batch)
    assert m.ratio == pytest.approx(1)
    assert m.growth == pytest.approx(1)


def test_measuring_at_given_weights_equals_measuring_there(trained):
    model, optimizer, batch = trained
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    there = Probe(model, half_square).measure(optimizer, batch)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3)
    back = Probe(model, half_square).measure(optimizer, batch, w=before)
    assert (back.ratio, back.sharpness, back.loss) == (there.ratio, there.sharpness, there.loss)


def test_adam_before_its_first_step_has_a_status_and_no_number():
    model = nn.Linear(2, 1)
    m = tr.measure(model, torch.optim.Adam(model.parameters()), half_square, (torch.ones(1, 2), torch.ones(1, 1)))
    assert m.status == "not_stepped"
    assert "step()" in m.reason
    assert math.isnan(m.ratio)


def test_a_loss_that_is_nan_is_a_status_and_no_number():
    model = nn.Linear(2, 1)
    batch = torch.full((1, 2), float("nan")), torch.ones(1, 1)
    m = tr.measure(model, GD(model.parameters(), lr=0.1), half_square, batch)
    assert m.status == "not_finite"
    assert not m.has_ratio


def test_audits_come_first_at_the_cadence_and_where_the_last_audit_is_contradicted():
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = GD(model.parameters(), lr=1.0)
    probe = Probe(model, half_square, audit_every=6)
    audits = []
    for ratio in (0.5, 0.55, 0.88, 0.92, 0.89, 0.8, 0.7, 0.92, 1.19, 1.21, 1.0, 0.97, 0.96):
        x = torch.tensor([[(2 * ratio) ** 0.5]]).double()
        audits.append(probe.measure(optimizer, (x, torch.zeros(1, 1).double())).is_audit)
    first, arrives, leaves, due, arrives_again, beyond, back, due_again = 0, 3, 5, 6, 7, 9, 10, 12
    audited = {first, arrives, leaves, due, arrives_again, beyond, back, due_again}
    assert {i for i, is_audit in enumerate(audits) if is_audit} == audited


def test_an_audit_bounds_the_ratio_to_five_percent_with_its_confidence():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    batch = torch.randn(40, 8).double(), torch.randn(40, 3).double()
    m = Probe(model, half_square).measure(GD(model.parameters(), lr=0.1), batch)
    assert m.is_audit
    assert m.upper_kind == "probabilistic"
    assert m.confidence == 0.95
    assert m.ratio < m.upper <= 1.05 * m.ratio


def test_the_warm_probe_spends_at_most_five_products_while_the_top_direction_persists():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    batch = torch.randn(60, 8).double(), torch.randn(60, 3).double()
    optimizer = Adam(model.parameters(), lr=1e-3)
    probe = Probe(model, half_square, has_sharpness=False, audit_every=0)
    for _ in range(200):
        step(model, optimizer, batch)
    spent = []
    for _ in range(30):
        for _ in range(5):
            step(model, optimizer, batch)
        m = probe.measure(optimizer, batch)
        assert m.ratio == pytest.approx(dense_ratio(model, optimizer, batch), abs=m.residual)
        spent.append(m.num_products)
    assert sum(spent[1:]) / len(spent[1:]) <= 5


def test_a_probe_for_other_parameters_than_the_optimizers_is_refused(trained):
    model, optimizer, batch = trained
    with pytest.raises(tr.errors.ShapeError, match="must hold the 18 measured parameters"):
        Probe(model, half_square, params=[model[0].weight]).measure(optimizer, batch)


def test_a_one_shot_measurement_is_an_audit_with_an_upper_bound(trained):
    model, optimizer, batch = trained
    m = tr.measure(model, optimizer, half_square, batch)
    assert m.is_audit
    assert m.ratio <= dense_ratio(model, optimizer, batch) + 1e-12 <= m.upper <= 1.05 * m.ratio + m.residual


def test_a_loss_of_nothing_has_a_status_and_no_number():
    model = nn.Linear(2, 1)
    m = tr.measure(model, GD(model.parameters(), lr=0.1), nn_mean, (torch.zeros(0, 2), torch.zeros(0, 1)))
    assert m.status == "not_finite"
    assert not m.has_ratio


def nn_mean(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def test_an_optimizer_of_another_copy_of_the_model_is_refused(trained):
    model, optimizer, batch = trained
    with pytest.raises(tr.errors.ShapeError, match="depends on none of them"):
        tr.measure(copy.deepcopy(model), optimizer, half_square, batch)


def test_a_probe_starts_anew_when_a_layer_is_frozen_between_measurements(trained):
    model, optimizer, batch = trained
    probe = Probe(model, half_square)
    probe.measure(optimizer, batch)
    model[0].requires_grad_(False)
    m = probe.measure(optimizer, batch)
    assert m.is_audit
    assert m.ratio == pytest.approx(dense_ratio(model, optimizer, batch), abs=m.residual)


def test_an_optimizer_of_frozen_parameters_has_a_reason():
    model = nn.Linear(2, 1).requires_grad_(False)
    m = tr.measure(model, torch.optim.SGD(model.parameters(), 0.1), half_square, (torch.ones(1, 2), torch.ones(1, 1)))
    assert m.status == "no_threshold"
    assert "requires a gradient" in m.reason


def test_the_check_of_the_first_use_is_told_and_kept(trained, monkeypatch):
    model, optimizer, batch = trained
    probe = Probe(model, half_square)
    words = probe.measure(optimizer, batch).check
    assert words.startswith("products agree with differences of gradients")
    heir = Probe(model, half_square)
    heir.load_state_dict(probe.state_dict())
    monkeypatch.setattr("tightrope.curvature.routes._checks", WeakKeyDictionary())
    monkeypatch.setattr("tightrope.curvature.routes.self_check", None)
    assert heir.measure(optimizer, batch).check == words


def test_a_budget_of_memory_is_kept_and_named(trained):
    model, optimizer, batch = trained
    batch = tuple(part.repeat(20, 1) for part in batch)
    whole, short = (Probe(model, half_square, max_bytes=n).measure(optimizer, batch) for n in (None, 24_000))
    assert whole.route == "kept graph"
    assert short.route.startswith("rebuilt graph")
    assert "max_bytes=" in short.route
    assert short.ratio == pytest.approx(whole.ratio, rel=1e-9)


def test_a_learning_rate_of_zero_is_a_ratio_of_zero_at_the_cost_of_one_product(trained):
    model, _, batch = trained
    m = Probe(model, half_square, has_sharpness=False).measure(GD(model.parameters(), lr=0.0), batch)
    assert (m.ratio, m.num_products, m.status) == (0.0, 1, "converged")
    assert m.threshold == math.inf


def test_growth_is_told_only_where_all_groups_follow_one_method():
    a, b = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    heavy_ball = {"params": [b], "lr": 0.15, "momentum": 0.5}

    def growth(*groups):
        optimizer = torch.optim.SGD(groups, lr=0.1)
        model = torch.nn.Module()
        model.a, model.b = a, b
        return tr.measure(model, optimizer, lambda model, batch: 15 * (a.square() + b.square()).sum(), None).growth

    assert growth({"params": [a]}, {"params": [b]}) == pytest.approx(2.0)
    assert growth({"params": [a]}, heavy_ball) is None
