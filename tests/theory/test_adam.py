"""Adam's closed forms against Adam itself and against the minimisers they claim to be."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tightrope.errors import ConfigError
from tightrope.optim import Adam, AdamW
from tightrope.theory import (
    PENALTIES,
    adam_step_bound,
    adam_worst_gradients,
    adamw_proximal_step,
    gi_adam_warmup,
)

DECAYS = (0.9, 0.999)


def last_step(gradients, eps=0.0):
    """Length of the last step of the library's Adam at lr 1 on these gradients."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([w], lr=1.0, betas=DECAYS, eps=eps)
    before = 0.0
    for g in gradients:
        before = w.item()
        w.grad = torch.full_like(w, float(g))
        optimizer.step()
    return abs(w.item() - before)


def test_the_late_bound_is_seven_and_a_quarter_learning_rates():
    assert adam_step_bound() == pytest.approx(7.27, abs=5e-3)
    assert adam_step_bound(t=20_000) == pytest.approx(adam_step_bound(), rel=1e-6)


@pytest.mark.parametrize(("t", "bound"), [(1, 1.0), (100, 2.24), (1000, 5.78)])
def test_adam_attains_its_bound_on_the_worst_gradients(t, bound):
    assert adam_step_bound(t=t) == pytest.approx(bound, abs=5e-3)
    assert last_step(adam_worst_gradients(t)) == pytest.approx(adam_step_bound(t=t), rel=1e-9)


def test_no_gradients_make_a_longer_step():
    rng = np.random.default_rng(0)
    worst = adam_worst_gradients(100)
    steps = [
        last_step(worst * (1 + spread * rng.standard_normal(100))) for spread in (0.01, 0.1, 1.0) for _ in range(5)
    ]
    assert max(steps) < adam_step_bound(t=100)


@pytest.mark.parametrize(("t", "length"), [(1, 1.0), (10_000, 3.16)])
def test_a_single_spike_moves_it_less(t, length):
    gradients = [0.0] * (t - 1) + [1.0]
    step = last_step(gradients, eps=1e-30)  # so that steps on zero gradients are 0, not 0 / 0
    assert step == pytest.approx(length, abs=5e-3)
    assert step <= adam_step_bound(t=t) + 1e-12


@pytest.mark.parametrize(("t", "factor"), [(1, 0.0316), (100, 0.309), (1000, 0.795)])
def test_a_second_moment_that_starts_from_the_first_gradient_is_a_warmup(t, factor):
    g = 2.5
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([w], lr=1.0, betas=DECAYS, eps=0.0)
    nu0, m0 = torch.full_like(w.detach(), g * g), torch.zeros_like(w.detach())
    optimizer.state[w] = {"step": 0, "preconditioner_step": 0, "nu": nu0, "m": m0}
    for _ in range(t):
        before = w.item()
        w.grad = torch.full_like(w, g)
        optimizer.step()
    assert gi_adam_warmup(t) == pytest.approx(factor, abs=5 * 10 ** -(len(str(factor)) - 1))
    assert before - w.item() == pytest.approx(gi_adam_warmup(t), rel=1e-9)


@pytest.fixture
def point():
    """Weights, averaged gradient and scaling of one step."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(6), rng.standard_normal(6), np.exp(rng.standard_normal(6))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_proximal_step_is_where_its_objective_is_least(point, penalty):
    theta, m, D = point
    lr, wd = 0.3, 0.2
    penalties = {
        "linear": lambda z: wd * z @ (theta / D),
        "preconditioned": lambda z: wd / 2 * z @ (z / D),
        "plain": lambda z: wd / 2 * z @ z,
    }

    def objective(z):
        return m @ (z - theta) + (z - theta) @ ((z - theta) / D) / (2 * lr) + penalties[penalty](z)

    found = minimize(objective, theta, tol=1e-12).x
    step = adamw_proximal_step(theta, m, D, lr=lr, weight_decay=wd, penalty=penalty)
    assert np.abs(step - found).max() < 1e-6


def test_the_linear_penalty_gives_the_step_of_adamw(point):
    theta, g, _ = point
    lr, wd, eps = 0.01, 0.3, 1e-8
    w = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    optimizer = AdamW([w], lr=lr, betas=DECAYS, eps=eps, weight_decay=wd)
    w.grad = torch.from_numpy(g)
    optimizer.step()
    step = adamw_proximal_step(theta, g, 1 / (np.abs(g) + eps), lr=lr, weight_decay=wd)
    assert np.abs(w.detach().numpy() - step).max() < 1e-14


def test_the_other_penalties_differ_from_adamw_by_the_order_stated(point):
    theta, m, D = point

    def gap(penalty, lr):
        steps = [
            adamw_proximal_step(theta, m, D, lr=lr, weight_decay=0.5, penalty=kind) for kind in ("linear", penalty)
        ]
        return np.abs(steps[1] - steps[0]).max()

    assert gap("preconditioned", 1e-3) / gap("preconditioned", 1e-2) == pytest.approx(1e-2, rel=0.05)
    assert gap("plain", 1e-3) / gap("plain", 1e-2) == pytest.approx(1e-1, rel=0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: adam_step_bound(0.99, 0.9),
        lambda: adam_step_bound(t=0),
        lambda: adam_step_bound(t=math.inf),
        lambda: adam_worst_gradients(0),
        lambda: adam_worst_gradients(5, beta1=-0.1),
        lambda: gi_adam_warmup(0),
        lambda: gi_adam_warmup(1, beta2=1.0),
        lambda: adamw_proximal_step(np.ones(1), np.ones(1), np.ones(1), lr=0.0, weight_decay=0.0),
        lambda: adamw_proximal_step(np.ones(1), np.ones(1), np.ones(1), lr=1.0, weight_decay=-1.0),
    ],
)
def test_a_setting_out_of_its_range_is_a_config_error(call):
    with pytest.raises(ConfigError, match="must"):
        call()


def test_an_unknown_penalty_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'plain'"):
        adamw_proximal_step(np.ones(1), np.ones(1), np.ones(1), lr=1.0, weight_decay=0.0, penalty="plane")
