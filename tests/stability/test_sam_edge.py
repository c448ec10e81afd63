"""The edge of SAM: T(H) = H + c H S H against the optimizer itself, dense matrices and closed forms.

On a quadratic the gradient at w + c S g is T(H) w exactly. SAM's c = rho / ||g|| follows the gradient; to hold it
still, as the frozen method does, rho is set to c ||g|| before each ascent.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.curvature import Hessian
from tightrope.errors import ConfigError
from tightrope.optim import (
    GD,
    SAM,
    Adam,
    AdamW,
    HeavyBall,
    Nesterov,
    RMSprop,
    freeze,
    heavy_ball,
    nesterov,
    none,
    sam_threshold,
)
from tightrope.problems import Quadratic
from tightrope.stability import Probe, asymptotic_growth_factor, periodic_growth

C = 0.7


def bowl(size=5, seed=0):
    """A positive definite matrix, and w' H w / 2 with parameters in two tensors."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    H = Q @ torch.diag(torch.linspace(0.1, 2.0, size, dtype=torch.float64)) @ Q.T
    start = torch.randn(size, dtype=torch.float64, generator=generator)
    return H, [nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())]


def energy(H, parameters):
    w = torch.cat(parameters)
    return w @ H @ w / 2


def linear_step(sam, H, parameters, c):
    """A step of the frozen method: the ascent is c g whatever the length of g."""
    sam.zero_grad()
    energy(H, parameters).backward()
    g = torch.cat([p.grad for p in parameters])
    sam.rule = msgspec.structs.replace(sam.rule, rho=c * float(g.norm()))
    with sam.ascent():
        energy(H, parameters).backward()
    sam.step()


def edge_ratio(frozen, H, S=None):
    """lambda_1(D^1/2 T(H) D^1/2), from the definition of T, as the eigenvalues of the unsymmetric D T(H)."""
    T = H + frozen.ascent.factor * H @ (torch.eye(len(H)).double() if S is None else torch.diag(S)) @ H
    shift = torch.diag(frozen.shift * torch.ones(len(H), dtype=torch.float64))
    D = torch.diag(frozen.D) if frozen.D.ndim == 1 else frozen.D
    return float(torch.linalg.eigvals(D @ (T + shift)).real.max())


METHODS = {
    "gd": lambda p, lr: GD(p, lr=lr),
    "heavy ball": lambda p, lr: HeavyBall(p, lr=lr, beta1=0.9),
    "nesterov": lambda p, lr: Nesterov(p, lr=lr, beta1=0.8),
    "torch sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5, nesterov=True),
    "rmsprop": lambda p, lr: RMSprop(p, lr=lr),
    "adam": lambda p, lr: Adam(p, lr=lr),
}


def diverges(build, times, num_steps):
    """Whether real SAM, P pinned after three steps, grows where its measured ratio is so many times the edge."""
    H, parameters = bowl()
    base = build(parameters, 1e-3)
    sam = SAM(base)
    for _ in range(3):
        linear_step(sam, H, parameters, C)
    if hasattr(base, "freeze_preconditioner"):
        base.freeze_preconditioner()
    # Without decay the ratio is proportional to lr.
    base.param_groups[0]["lr"] *= times / edge_ratio(freeze(sam), H)
    assert edge_ratio(freeze(sam), H) == pytest.approx(times, rel=1e-9)
    assert freeze(sam).ascent.factor == pytest.approx(C, rel=1e-9)
    for _ in range(300):
        linear_step(sam, H, parameters, C)
    early = float(energy(H, parameters).detach())
    for _ in range(num_steps):
        linear_step(sam, H, parameters, C)
        now = float(energy(H, parameters).detach())
        if not 1e-100 < now < 1e100:
            break
    return now > early


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("times", [0.99, 1.01])
def test_the_real_optimizer_diverges_above_the_edge_and_converges_below(name, times):
    assert diverges(METHODS[name], times, num_steps=300) == (times > 1)


@pytest.mark.parametrize("settings", [{}, {"adaptive": True, "eta": 0.3}, {"sparsity": 0.4}, {"rho": 0.0}])
def test_the_second_gradient_on_a_quadratic_is_the_transformed_hessian_times_w(settings):
    H, parameters = bowl()
    sam = SAM(GD(parameters, lr=0.1), **{"rho": 0.4, **settings})
    w = torch.cat(parameters).detach().clone()

    def closure():
        sam.zero_grad()
        loss = energy(H, parameters)
        loss.backward()
        return loss

    sam.step(closure)
    ascent = freeze(sam).ascent
    if sam.rule.rho == 0:
        assert ascent is None
        T = H
    else:
        S = torch.eye(5).double() if ascent.scale is None else torch.diag(ascent.scale)
        T = H + ascent.factor * H @ S @ H
        assert (ascent.scale is None) == (settings == {})
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), T @ w, rtol=1e-13, atol=1e-14)


def test_normalised_sam_on_a_parabola_oscillates_exactly_at_its_edge():
    """x - lr a (x + rho sign x) has the 2-cycle |x| = lr a rho / (2 - lr a); where a + a^2 rho / |a x| = 2 / lr."""
    a, lr, rho = 3.0, 0.25, 0.1
    problem = Quadratic(curvatures=(a,), start=(1.0,)).build(0, torch.float64)
    sam = SAM(GD([problem.w], lr=lr), rho)
    for _ in range(200):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        with sam.ascent():
            problem.loss_fn(problem.model, problem.batch).backward()
        sam.step()
    assert abs(float(problem.w.detach())) == pytest.approx(lr * a * rho / (2 - lr * a), rel=1e-9)
    m = Probe(problem.model, problem.loss_fn, params=problem.parameters).measure(sam, problem.batch)
    assert m.ratio == pytest.approx(1, rel=1e-9)
    assert m.growth == pytest.approx(1, rel=1e-9)
    assert m.sharpness == pytest.approx(a)
    assert m.sharpness == pytest.approx(sam_threshold(2 / lr, rho, sam.grad_norm), rel=1e-9)


# The probe


def half_square(model, batch):
    x, y = batch
    return (model(x) - y).square().sum() / (2 * len(x))


def trained(settings, build):
    """A network after 20 steps of SAM, the weights before the last step, and its dense Hessian there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    batch = torch.randn(15, 3).double(), torch.randn(15, 2).double()
    sam = SAM(build(model), **settings)

    def closure():
        sam.zero_grad()
        loss = half_square(model, batch)
        loss.backward()
        return loss

    for _ in range(20):
        w = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        sam.step(closure)
    now = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(w, model.parameters())
    operator = Hessian(model, half_square, batch)
    dense = operator @ torch.eye(operator.size).double()
    nn.utils.vector_to_parameters(now, model.parameters())
    return model, sam, batch, w, dense, operator.gradient


def adamw_in_groups(model):
    groups = [{"params": model[0].parameters(), "lr": 3e-3}, {"params": model[2].parameters(), "weight_decay": 0.1}]
    return AdamW(groups, lr=1e-3)


def sgd_with_decay(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.5)


@pytest.mark.parametrize("build", [adamw_in_groups, sgd_with_decay])
@pytest.mark.parametrize("settings", [{}, {"adaptive": True, "eta": 0.1}, {"sparsity": 0.5}], ids=str)
def test_the_ratio_is_the_top_eigenvalue_of_the_dense_transform(settings, build):
    model, sam, batch, w, H, g = trained({"rho": 0.1, **settings}, build)
    T = w.abs() + 0.1 if "adaptive" in settings else torch.ones_like(w)
    S = freeze(sam).ascent.scale if "sparsity" in settings else T**2
    assert freeze(sam).ascent.factor == pytest.approx(0.1 / float((T * g).norm()), rel=1e-12)
    truth = edge_ratio(freeze(sam), H, S)
    m = Probe(model, half_square, rtol=1e-6, max_products=300).measure(sam, batch, w=w)
    assert abs(m.ratio - truth) <= m.residual + 1e-12 * truth
    assert m.lower <= truth * (1 + 1e-12)
    assert truth <= m.upper * (1 + 1e-12)
    assert m.sharpness == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
    plain = Probe(model, half_square).measure(sam.base, batch, w=w)
    assert m.ratio > 1.02 * plain.ratio


def test_every_product_with_the_hessian_is_counted(monkeypatch):
    model, sam, batch, w, *_ = trained({"rho": 0.1}, sgd_with_decay)
    tr.measure(model, sam, half_square, batch)  # the check of the first use is not counted
    products, plain = [], Hessian.apply
    monkeypatch.setattr(Hessian, "apply", lambda self, v: (products.append(1), plain(self, v))[1])
    for has_sharpness in (False, True):
        probe = Probe(model, half_square, has_sharpness=has_sharpness, max_products=16)
        for _ in range(2):  # cold, then warm
            products.clear()
            m = probe.measure(sam, batch, w=w)
            assert m.num_products == len(products) <= 16 * (1 + has_sharpness)


def test_a_warm_measurement_of_sam_finds_what_a_cold_one_does():
    model, sam, batch, w, H, _ = trained({"rho": 0.1}, sgd_with_decay)
    probe = Probe(model, half_square, has_sharpness=False, rtol=1e-6)
    cold, warm = probe.measure(sam, batch, w=w), probe.measure(sam, batch, w=w)
    assert cold.is_audit
    assert not warm.is_audit
    assert warm.upper_kind == "residual"
    assert warm.ratio == pytest.approx(edge_ratio(freeze(sam), H), abs=warm.residual)
    assert warm.num_products < cold.num_products


def test_the_growth_is_that_of_the_frozen_method_along_the_top_direction():
    H, parameters = bowl()
    sam = SAM(GD(parameters, lr=0.1))
    linear_step(sam, H, parameters, C)
    top = float(torch.linalg.eigvalsh(H)[-1])

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ParameterList(parameters)

    m = tr.measure(Bowl(), sam, lambda model, matrix: energy(matrix, list(model.parts)), H)
    assert m.growth == pytest.approx(abs(1 - 0.1 * (top + C * top**2)), rel=1e-6)


# What freeze says


def stepped(**settings):
    H, parameters = bowl()
    sam = SAM(GD(parameters, lr=0.1), **settings)

    def closure(_=0):
        sam.zero_grad()
        loss = energy(H, parameters)
        loss.backward()
        return loss

    sam.step(closure)
    return sam


def test_the_threshold_of_sam_is_its_bases_on_the_transformed_hessian():
    assert freeze(stepped()).stability_threshold() == pytest.approx(20)


def test_before_an_ascent_the_status_says_so():
    frozen = freeze(SAM(GD([nn.Parameter(torch.ones(2))], lr=0.1)))
    assert (frozen.status, frozen.stability_threshold()) == ("not_stepped", pytest.approx(20))
    assert "take one step" in frozen.reason
    adam = freeze(SAM(torch.optim.Adam([nn.Parameter(torch.ones(2))])))
    assert adam.status == "not_stepped"
    assert "preconditioner" in adam.reason


@pytest.mark.parametrize(("settings", "said"), [({"every": 2}, "every=2"), ({"micro_batches": 3}, "micro_batches=3")])
def test_where_no_one_operator_has_the_edge_there_is_a_reason_and_no_number(settings, said):
    frozen = freeze(stepped(**settings))
    assert frozen.status == "no_threshold"
    assert said in frozen.reason
    assert (frozen.D, frozen.P, frozen.ascent) == (None, None, None)
    with pytest.raises(tr.errors.UnsupportedOptimizerError, match=said):
        frozen.stability_threshold()


@pytest.mark.parametrize("settings", [{}, {"every": 2}, {"micro_batches": 3}])
def test_an_ascent_of_no_length_leaves_the_base_as_it_is(settings):
    sam = stepped(rho=0.0, **settings)
    assert freeze(sam).ascent is None
    assert freeze(sam).status == "linear"
    assert torch.equal(freeze(sam).D, freeze(sam.base).D)


def test_a_base_without_a_threshold_gives_sam_none():
    w = nn.Parameter(torch.ones(2, 2))
    frozen = freeze(SAM(torch.optim.Rprop([w])))
    assert frozen.status == "no_threshold"
    assert "Rprop" in frozen.reason


# Closed forms


@pytest.mark.parametrize("rho", [1e-9, 0.02, 0.05, 3.0])
@pytest.mark.parametrize("grad_norm", [None, 1e-3, 2.0])
def test_the_closed_form_is_where_the_transform_meets_the_base_threshold(rho, grad_norm):
    K = 20.0
    edge = sam_threshold(K, rho, grad_norm)
    assert edge + rho / (1.0 if grad_norm is None else grad_norm) * edge**2 == pytest.approx(K, rel=1e-13)
    c = rho if grad_norm is None else rho / grad_norm
    if c > 1e-3:
        assert edge == pytest.approx((math.sqrt(1 + 4 * K * c) - 1) / (2 * c), rel=1e-12)


def test_without_an_ascent_the_closed_form_is_the_base_threshold():
    assert sam_threshold(20.0, 0.0, 0.1) == 20.0
    assert sam_threshold(math.inf, 0.1, 0.1) == math.inf


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0.0, 0.1, 1.0), "base_threshold must be positive"), ((1.0, -1, 1.0), "rho"), ((1.0, 0.1, 0.0), "grad_norm")],
)
def test_the_closed_form_refuses_what_has_no_edge(arguments, said):
    with pytest.raises(ConfigError, match=said):
        sam_threshold(*arguments)


@pytest.mark.parametrize("momentum", [none(), heavy_ball(0.9, ema=False), nesterov(0.8, ema=True)], ids=str)
@pytest.mark.parametrize("times", [0.99, 1.01])
def test_unnormalised_sam_diverges_above_its_closed_form_and_converges_below(momentum, times):
    lr, rho = 0.1, 0.3
    a = times * sam_threshold(momentum.stability_threshold(lr), rho)
    x, m = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    for _ in range(1000):
        x = x - lr * momentum.direction(m, a * (x + rho * a * x), 1)
    early = abs(x)
    for _ in range(1000):
        x = x - lr * momentum.direction(m, a * (x + rho * a * x), 1)
    assert 0 < abs(x) < 1e300
    assert (abs(x) > early) == (times > 1)


# Ascents between plain steps


@pytest.mark.parametrize(
    ("build", "momentum", "decay"),
    [
        (lambda p: GD(p, lr=0.3, weight_decay=0.2), none(), 0.2),
        (lambda p: Nesterov(p, lr=0.3, beta1=0.8), nesterov(0.8, ema=False), 0.0),
        (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), heavy_ball(0.9, ema=False), 0.0),
    ],
)
@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("curvature", [0.3, 2.0, 9.0])
def test_periodic_growth_is_that_of_the_real_optimizer(build, momentum, decay, every, curvature):
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    sam = SAM(build([w]), every=every)
    sizes = []
    for step in range(600):
        sam.zero_grad()
        (curvature * w.square().sum() / 2).backward()
        if sam.is_ascent_due:
            sam.rule = msgspec.structs.replace(sam.rule, rho=C * abs(float(w.grad)))
            with sam.ascent():
                (curvature * w.square().sum() / 2).backward()
        sam.step()
        if step % every == every - 1:
            momenta = [v for v in sam.state[w].values() if isinstance(v, torch.Tensor) and v.ndim]
            sizes.append(math.log(float(w.detach().square() + sum(v.square() for v in momenta)) + 1e-300) / 2)
            if abs(sizes[-1]) > 200:
                break
    half = len(sizes) // 2
    found = math.exp((sizes[-1] - sizes[half]) / (len(sizes) - 1 - half) / every)
    known = periodic_growth(momentum, 0.3, curvature, ascent_factor=C, every=every, weight_decay=decay)
    assert known == pytest.approx(found, rel=0.02)


def test_an_ascent_at_every_step_grows_as_the_transformed_curvature_does():
    for momentum in (none(), heavy_ball(0.9, ema=True), nesterov(0.9, ema=False)):
        for a in np.linspace(0.1, 30, 7):
            known = asymptotic_growth_factor(momentum, 0.1, a + C * a**2, 0.05)
            got = periodic_growth(momentum, 0.1, a, ascent_factor=C, every=1, weight_decay=0.05)
            assert got == pytest.approx(known, rel=1e-6)


def test_curvatures_stable_under_periodic_ascent_need_not_form_an_interval():
    growths = [periodic_growth(none(), 1.0, a, ascent_factor=100.0, every=2) for a in (0.1, 0.3, 1.0, 1.5)]
    assert [growth < 1 for growth in growths] == [True, False, True, False]
