"""Thresholds against independent companion matrices, against running methods, and against the closed forms.

Legend: b = beta, c = discount, k = gain, wd = decoupled decay, s = eigenvalue of P^-1 H, D = edge scaling,
H = Hessian, P = preconditioner.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tightrope.errors import ConfigError
from tightrope.optim import (
    GD,
    RMS,
    SGD,
    Adam,
    AdamW,
    FixedDense,
    FixedDiagonal,
    GradientMethod,
    HeavyBall,
    Momentum,
    Nesterov,
    freeze,
    heavy_ball,
    nesterov,
    none,
)
from tightrope.stability.recurrence import asymptotic_growth_factor, growth_at_ratio, recurrence

checked = settings(max_examples=200, deadline=None, derandomize=True, database=None)
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
betas = st.floats(0, 0.999)
momenta = st.builds(Momentum, beta=betas, discount=st.floats(0, 1), gain=st.floats(0.01, 100))
rates = st.floats(1e-4, 10)
damping = st.floats(0, 1.99)  # lr * wd
seeds = st.integers(0, 10**6)


def companion(momentum, lr, s, wd=0.0):
    """One step of (w, m / s) along an eigenvector, written from the method's definition."""
    b, c, k = momentum.beta, momentum.discount, momentum.gain
    average = np.array([1 - b, b])
    direction = k * s * ((1 - c) * np.array([1.0, 0.0]) + c * average)
    return np.array([np.array([1 - lr * wd, 0.0]) - lr * direction, average])


def radius(matrix):
    return np.abs(np.linalg.eigvals(matrix)).max()


@checked
@given(momenta, rates, damping)
def test_the_spectral_radius_crosses_one_at_the_threshold(momentum, lr, lr_wd):
    wd = lr_wd / lr
    s = momentum.stability_threshold(lr, wd)
    assert radius(companion(momentum, lr, s * (1 - 1e-9), wd)) < 1
    assert radius(companion(momentum, lr, s * (1 + 1e-9), wd)) > 1


@checked
@given(momenta, rates, damping)
def test_the_first_mode_to_be_lost_has_period_two(momentum, lr, lr_wd):
    roots = np.linalg.eigvals(companion(momentum, lr, momentum.stability_threshold(lr, lr_wd / lr), lr_wd / lr))
    assert np.abs(roots + 1).min() <= 1e-12


@checked
@given(momenta, rates, damping, st.floats(0.001, 0.999))
def test_everything_positive_below_the_threshold_is_stable(momentum, lr, lr_wd, fraction):
    s = fraction * momentum.stability_threshold(lr, lr_wd / lr)
    assert radius(companion(momentum, lr, s, lr_wd / lr)) < 1


@checked
@given(momenta, rates, damping, st.floats(-1, 3))
def test_the_growth_factor_is_the_spectral_radius(momentum, lr, lr_wd, ratio):
    wd = lr_wd / lr
    s = ratio * momentum.stability_threshold(lr, wd)
    expected = radius(companion(momentum, lr, s, wd))
    assert asymptotic_growth_factor(momentum, lr, s, wd) == pytest.approx(expected, rel=1e-6)
    assert growth_at_ratio(momentum, lr, ratio, wd) == pytest.approx(expected, rel=1e-6)


@checked
@given(momenta, rates, damping)
def test_the_threshold_is_the_transfer_function_at_minus_one(momentum, lr, lr_wd):
    expected = (2 - lr_wd) / (lr * momentum.transfer(-1).real)
    assert momentum.stability_threshold(lr, lr_wd / lr) == pytest.approx(expected, rel=1e-11)


def test_decay_that_diverges_by_itself_leaves_no_threshold():
    with pytest.raises(ConfigError, match=r"lr \* weight_decay must be below 2; got 2.0"):
        none().stability_threshold(0.1, weight_decay=20.0)


# Each case: the rule, and lr times its threshold as the papers print it.
CLOSED_FORMS = {
    "gradient descent": (lambda b: none(), lambda b: 2),
    "heavy ball": (lambda b: heavy_ball(b, ema=False), lambda b: 2 + 2 * b),
    "EMA heavy ball": (lambda b: heavy_ball(b, ema=True), lambda b: (2 + 2 * b) / (1 - b)),
    "Nesterov": (lambda b: nesterov(b, ema=False), lambda b: (2 + 2 * b) / (1 + 2 * b)),
    "EMA Nesterov": (lambda b: nesterov(b, ema=True), lambda b: (2 + 2 * b) / ((1 - b) * (1 + 2 * b))),
    "SGD": (lambda b: Momentum.of_sgd(b, 0.0, False), lambda b: 2 + 2 * b),
    "SGD dampening": (lambda b: Momentum.of_sgd(b, 0.3, False), lambda b: (2 + 2 * b) / 0.7 if b else 2),
    "SGD nesterov": (lambda b: Momentum.of_sgd(b, 0.0, True), lambda b: (2 + 2 * b) / (1 + 2 * b)),
    "quasi-hyperbolic": (lambda b: Momentum(b, 0.7), lambda b: 2 / (0.3 + 0.7 * (1 - b) / (1 + b))),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("b", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("lr", [0.01, 1.0, 3.0])
def test_the_threshold_is_its_closed_form(name, b, lr):
    rule, expected = CLOSED_FORMS[name]
    assert rule(b).stability_threshold(lr) == pytest.approx(expected(b) / lr, rel=1e-13)


@pytest.mark.parametrize("b", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("wd", [0.0, 0.1, 5.0])
def test_decay_lowers_the_threshold_of_adamw_by_more_than_itself(b, wd):
    expected = (1 + b) * (2 - 0.01 * wd) / ((1 - b) * 0.01)
    assert heavy_ball(b, ema=True).stability_threshold(0.01, wd) == pytest.approx(expected, rel=1e-13)


def test_the_threshold_of_adam_with_beta_nine_tenths_is_38_over_lr():
    assert heavy_ball(0.9, ema=True).stability_threshold(1e-3) == pytest.approx(38 / 1e-3, rel=1e-13)


@pytest.mark.parametrize(
    ("rule", "growth"),
    [(none(), 1.2), (nesterov(0.9, ema=False), 1.2823), (heavy_ball(0.9, ema=False), 1.7721)],
)
def test_a_tenth_above_the_threshold_growth_is_that_of_the_paper(rule, growth):
    assert growth_at_ratio(rule, lr=0.01, ratio=1.1) == pytest.approx(growth, abs=5e-5)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("make", [heavy_ball, nesterov])
def test_growth_at_a_ratio_does_not_depend_on_the_gain_or_the_rate(make, ema):
    expected = growth_at_ratio(make(0.9, ema=False), lr=1.0, ratio=1.3)
    assert growth_at_ratio(make(0.9, ema=ema), lr=0.02, ratio=1.3) == pytest.approx(expected, rel=1e-12)


def test_negative_curvature_grows_without_oscillating_and_is_not_the_edge():
    rule = heavy_ball(0.9, ema=True)
    roots = np.linalg.eigvals(companion(rule, lr=1.0, s=-0.05))
    assert asymptotic_growth_factor(rule, lr=1.0, s=-0.05) == pytest.approx(1.038, abs=5e-4)
    assert roots[np.abs(roots).argmax()] == pytest.approx(1.038, abs=5e-4)


@checked
@given(momenta, rates, damping.filter(lambda x: x > 1e-3))
def test_decay_damps_negative_curvature_down_to_minus_decay_over_the_gain(momentum, lr, lr_wd):
    limit = -(lr_wd / lr) / momentum.transfer(1).real
    assert asymptotic_growth_factor(momentum, lr, 0.999 * limit, lr_wd / lr) < 1
    assert asymptotic_growth_factor(momentum, lr, 1.001 * limit, lr_wd / lr) > 1


def bowl(curvatures, start=1.0):
    """A diagonal quadratic as (parameter, function that fills its gradient)."""
    w = torch.nn.Parameter(torch.full((len(curvatures),), start, dtype=torch.float64))
    h = torch.tensor(curvatures, dtype=torch.float64)

    def fill():
        w.grad = h * w.detach()

    return w, fill


def walk(optimizer, fill, num_steps):
    for _ in range(num_steps):
        fill()
        optimizer.step()


@few
@given(momenta, st.floats(1e-3, 10), damping, st.floats(0.01, 1.5), st.floats(0.1, 10))
def test_the_recurrence_predicts_the_running_method(momentum, lr, lr_wd, ratio, p):
    wd = lr_wd / lr
    s = ratio * momentum.stability_threshold(lr, wd)
    w, fill = bowl([s * p])
    P = FixedDiagonal(torch.tensor([p], dtype=torch.float64))
    optimizer = GradientMethod([w], lr, momentum=momentum, preconditioner=P, weight_decay=wd)
    path = [w.item()]
    for _ in range(6):
        walk(optimizer, fill, 1)
        path.append(w.item())
    a0, a1 = recurrence(momentum, lr, s, wd)
    for before, now, after in zip(path[1:], path[2:], path[3:], strict=False):
        size = abs(a0 * now) + abs(a1 * before) + abs(now)
        assert after == pytest.approx(a0 * now + a1 * before, rel=0, abs=1e-12 * size)


@pytest.mark.parametrize(
    "rule",
    [none(), nesterov(0.9, ema=False), heavy_ball(0.9, ema=False), heavy_ball(0.9, ema=True), Momentum(0.9, 0.7)],
)
def test_a_running_method_grows_by_its_growth_factor(rule):
    lr = 0.1
    w, fill = bowl([1.1 * rule.stability_threshold(lr)])
    optimizer = GradientMethod([w], lr, momentum=rule)
    walk(optimizer, fill, 200)
    before = w.item()
    walk(optimizer, fill, 1)
    assert w.item() / before == pytest.approx(-growth_at_ratio(rule, lr, 1.1), rel=1e-6)


@pytest.mark.parametrize(("lr", "is_stable"), [(37.9, True), (38.1, False)])
def test_ema_heavy_ball_on_the_unit_parabola_is_stable_up_to_a_rate_of_38(lr, is_stable):
    w, fill = bowl([1.0])
    walk(HeavyBall([w], lr, 0.9, ema=True), fill, 400)
    assert (abs(w.item()) < 1e-6) if is_stable else (abs(w.item()) > 1e6)


def spd(seed, size):
    """Random positive definite matrix with condition number below about 10."""
    A = np.random.default_rng(seed).normal(size=(size, size))
    return A @ A.T / size + 0.3 * np.eye(size)


def random_directions(num, *shape):
    return torch.tensor(np.random.default_rng(9).normal(size=(num, *shape)))


def at_ratio(frozen, H, ratio):
    """H scaled so that lambda_1(D^1/2 (H + shift) D^1/2) is `ratio`, with the shift held."""
    L = frozen.half_scaling()
    L = torch.diag(L) if L.ndim == 1 else L
    shift = torch.diag(frozen.shift * torch.ones(len(H), dtype=H.dtype))

    def edge(scale):
        return torch.linalg.eigvalsh(L.T @ (scale * H + shift) @ L)[-1].item()

    low, high = 0.0, 1.0
    while edge(high) < ratio:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if edge(middle) < ratio else (low, middle)
    return high * H


def growth(optimizer, parameters, H, num_steps=1200):
    """Factor by which the weights grow under the running optimizer on w'Hw / 2."""
    start = random_directions(1, len(H))[0]
    sizes = [w.numel() for w in parameters]
    for w, part in zip(parameters, start.split(sizes), strict=True):
        w.data.copy_(part.view(w.shape))
    for _ in range(num_steps):
        flat = torch.cat([w.detach().reshape(-1) for w in parameters])
        for w, part in zip(parameters, (H @ flat).split(sizes), strict=True):
            w.grad = part.view(w.shape)
        optimizer.step()
    return (torch.cat([w.detach().reshape(-1) for w in parameters]).norm() / start.norm()).item()


def warm(optimizer, parameters):
    """A few steps on random gradients, after which P no longer moves."""
    for g in random_directions(5, 6):
        for w, part in zip(parameters, g.split([w.numel() for w in parameters]), strict=True):
            w.grad = part.view(w.shape).clone()
        optimizer.step()
    if isinstance(optimizer, GradientMethod):
        optimizer.freeze_preconditioner()


def zeros(*shapes):
    return [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]


DIAGONAL = torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
RUNS = {
    "gradient descent": lambda p: GD(p, 0.1),
    "gradient descent, decay": lambda p: GD(p, 0.1, weight_decay=3.0),
    "heavy ball": lambda p: HeavyBall(p, 0.1, 0.9),
    "EMA heavy ball": lambda p: HeavyBall(p, 0.1, 0.9, ema=True),
    "EMA heavy ball, decay": lambda p: HeavyBall(p, 0.1, 0.9, ema=True, weight_decay=3.0),
    "Nesterov": lambda p: Nesterov(p, 0.1, 0.9),
    "EMA Nesterov, decay": lambda p: Nesterov(p, 0.1, 0.9, ema=True, weight_decay=3.0),
    "dampening": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "momentum, L2": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=3.0),
    "Adam": lambda p: Adam(p, 0.1),
    "Adam uncorrected": lambda p: Adam(p, 0.1, bias_correction=False),
    "Adam, L2": lambda p: Adam(p, 0.1, weight_decay=3.0),
    "AdamW": lambda p: AdamW(p, 0.1, weight_decay=3.0),
    "eps inside": lambda p: GradientMethod(
        p, 0.1, momentum=nesterov(0.9, ema=True), preconditioner=RMS(eps=0.1, eps_inside_root=True)
    ),
    "fixed diagonal": lambda p: GradientMethod(
        p, 0.1, momentum=heavy_ball(0.9, ema=False), preconditioner=FixedDiagonal(DIAGONAL), weight_decay=3.0
    ),
    "fixed dense": lambda p: GradientMethod(
        p, 0.1, momentum=heavy_ball(0.9, ema=True), preconditioner=FixedDense(torch.tensor(spd(5, 6))), weight_decay=3.0
    ),
    "torch SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=3.0),
    "torch SGD, dampening": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_frozen_method_converges_below_its_edge_and_diverges_above(name):
    H = torch.tensor(spd(6, 6))
    parameters = zeros(6)
    optimizer = RUNS[name](parameters)
    warm(optimizer, parameters)
    frozen = freeze(optimizer)
    below, above = (growth(optimizer, parameters, at_ratio(frozen, H, ratio)) for ratio in (0.99, 1.01))
    assert below < 1e-2
    assert above > 1e2


@pytest.mark.parametrize("name", ["gradient descent", "EMA Nesterov, decay", "Adam", "AdamW", "fixed dense"])
def test_the_edge_is_where_the_preconditioned_sharpness_meets_the_threshold(name):
    parameters = zeros(6)
    optimizer = RUNS[name](parameters)
    warm(optimizer, parameters)
    frozen = freeze(optimizer)
    H = at_ratio(frozen, torch.tensor(spd(6, 6)), 1.0)
    P = frozen.P if frozen.P.ndim == 2 else torch.diag(frozen.P)
    preconditioned_sharpness = torch.linalg.eigvals(torch.linalg.solve(P, H)).real.max().item()
    assert preconditioned_sharpness == pytest.approx(frozen.stability_threshold(), rel=1e-10)


MIXES = {
    "rates": ({"lr": 0.5}, {"lr": 0.02}),
    "momenta": ({"momentum": heavy_ball(0.9, ema=True)}, {"momentum": nesterov(0.8, ema=False)}),
    "decays": ({"weight_decay": 5.0}, {"weight_decay": 0.1, "lr": 0.3}),
    "preconditioners": (
        {"preconditioner": FixedDiagonal(DIAGONAL[:4])},
        {"preconditioner": RMS(bias_correction=True), "momentum": heavy_ball(0.9, ema=True)},
    ),
    "coupling": (
        {"weight_decay": 2.0, "decoupled_weight_decay": False, "momentum": heavy_ball(0.5, ema=True)},
        {"weight_decay": 2.0, "lr": 0.3},
    ),
    "everything": (
        {"lr": 0.4, "momentum": nesterov(0.9, ema=True), "weight_decay": 1.5, "preconditioner": RMS(beta=0.9)},
        {"lr": 0.02, "momentum": heavy_ball(0.7, ema=False), "weight_decay": 8.0, "decoupled_weight_decay": False},
    ),
}


@pytest.mark.parametrize("name", MIXES)
def test_groups_that_differ_have_one_joint_edge(name):
    parameters = zeros((2, 2), 2)
    groups = [{"params": [w], **own} for w, own in zip(parameters, MIXES[name], strict=True)]
    optimizer = GradientMethod(groups, lr=0.1)
    warm(optimizer, parameters)
    frozen, H = freeze(optimizer), torch.tensor(spd(7, 6))
    below, above = (growth(optimizer, parameters, at_ratio(frozen, H, ratio)) for ratio in (0.99, 1.01))
    assert below < 1e-2
    assert above > 1e2


def joint_companion(H, rules, lrs, wds, P):
    """One step of (w, m) for coordinates that each have their own rule."""
    b, c, k = (np.diag([getattr(rule, name) for rule in rules]) for name in ("beta", "discount", "gain"))
    eye, zero, lr = np.eye(len(H)), np.zeros_like(H), np.diag(lrs)
    g, m = np.hstack([H, zero]), np.hstack([zero, eye])
    m = b @ m + (eye - b) @ g
    step = np.linalg.inv(P) @ k @ ((eye - c) @ g + c @ m)
    return np.vstack([np.hstack([eye - lr @ np.diag(wds), zero]) - lr @ step, m])


mixed_rules = st.lists(st.tuples(momenta, st.floats(1e-3, 10), damping), min_size=3, max_size=3)


@checked
@given(mixed_rules, seeds)
def test_the_joint_edge_is_where_the_joint_companion_matrix_reaches_one(mix, seed):
    rules, lrs = [rule for rule, _, _ in mix], [lr for _, lr, _ in mix]
    wds = [lr_wd / lr for _, lr, lr_wd in mix]
    p = np.random.default_rng(seed).uniform(0.1, 10, 3)
    weights = zeros(1, 1, 1)
    optimizer = GradientMethod(
        [
            {
                "params": [w],
                "lr": lr,
                "momentum": rule,
                "weight_decay": wd,
                "preconditioner": FixedDiagonal(torch.tensor([entry])),
            }
            for w, lr, rule, wd, entry in zip(weights, lrs, rules, wds, p, strict=True)
        ],
        lr=1.0,
    )
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer.step()
    frozen = freeze(optimizer)
    H = (
        np.linalg.inv(np.diag(frozen.half_scaling().numpy()))
        @ spd(seed, 3)
        @ np.diag(1 / frozen.half_scaling().numpy())
    )
    edge = np.linalg.eigvalsh(spd(seed, 3))[-1]
    assert radius(joint_companion(H * (1 - 1e-6) / edge, rules, lrs, wds, np.diag(p))) < 1
    assert radius(joint_companion(H * (1 + 1e-6) / edge, rules, lrs, wds, np.diag(p))) > 1


# Proposition 1: preconditioning is a change of coordinates.
def landscape(w):
    """A function that is not quadratic."""
    A = torch.tensor(spd(11, 4))
    return (A @ w).cosh().log().sum() + 0.1 * w.pow(4).sum() + torch.sin(w[0] * w[2])


def trajectory(f, x0, m0, momentum, lr, rule, num_steps=100):
    """Weights and momenta of a run from (x0, m0)."""
    x = torch.nn.Parameter(x0.clone())
    optimizer = GradientMethod([x], lr, momentum=momentum, preconditioner=rule)
    x.grad = torch.zeros_like(x)
    optimizer.step()
    optimizer.state[x]["m"].copy_(m0)
    xs, ms = [], []
    for _ in range(num_steps):
        x.grad = None
        f(x).backward()
        optimizer.step()
        xs.append(x.detach().clone())
        ms.append(optimizer.state[x]["m"].clone())
    return torch.stack(xs), torch.stack(ms)


def roots(P):
    """P^1/2 and P^-1/2, symmetric."""
    values, Q = torch.linalg.eigh(P)
    return Q @ torch.diag(values.sqrt()) @ Q.T, Q @ torch.diag(values.rsqrt()) @ Q.T


@pytest.mark.parametrize("shape", ["diagonal", "dense"])
@pytest.mark.parametrize("ema", [True, False], ids=["EMA", "standard"])
@pytest.mark.parametrize("make", [heavy_ball, nesterov])
def test_a_preconditioned_method_is_the_plain_one_in_other_coordinates(make, ema, shape):
    momentum = make(0.9, ema=ema)
    lr = 0.05 if ema else 0.005
    if shape == "diagonal":
        rule = FixedDiagonal(torch.tensor([0.5, 1.0, 2.0, 8.0], dtype=torch.float64))
        P = torch.diag(rule.P)
    else:
        P = torch.tensor(spd(12, 4))
        rule = FixedDense(P)
    root, inverse_root = roots(P)
    x0, m0 = torch.tensor([[1.0, -0.7, 0.4, 1.3], [0.3, -0.2, 0.1, 0.5]], dtype=torch.float64)
    x, m = trajectory(landscape, x0, m0, momentum, lr, rule)
    plain_x, plain_m = trajectory(
        lambda v: landscape(inverse_root @ v), root @ x0, inverse_root @ m0, momentum, lr, None
    )
    assert (x[-1] - x0).norm() > 0.3
    torch.testing.assert_close(plain_x, x @ root, rtol=0, atol=1e-12 * x.abs().max().item())
    torch.testing.assert_close(plain_m, m @ inverse_root, rtol=0, atol=1e-12 * m.abs().max().item())
