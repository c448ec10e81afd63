"""GradientMethod follows the float64 reference trajectories and torch's own optimizers, and is one itself."""

import contextlib
import copy
import io
import itertools
import warnings

import numpy as np
import pytest
import torch

from tests.reference import methods
from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import (
    GD,
    RMS,
    SGD,
    Adafactor,
    Adam,
    AdamW,
    FixedDense,
    FixedDiagonal,
    GradientMethod,
    HeavyBall,
    Identity,
    Momentum,
    Nesterov,
    RMSprop,
    heavy_ball,
    nesterov,
)

SHAPES = (((2, 2), ()), ((3,),))
SIZES = (5, 3)
START = np.random.default_rng(0).uniform(-1.5, 1.5, sum(SIZES))
STEPS = 120


def parameters(dtype=torch.float64, start=START):
    """The start as leaf tensors of different shapes, in two groups."""
    flat, groups = torch.tensor(start, dtype=dtype), []
    for shapes in SHAPES:
        group = []
        for shape in shapes:
            size = int(np.prod(shape))
            group.append(torch.nn.Parameter(flat[:size].reshape(shape).clone()))
            flat = flat[size:]
        groups.append(group)
    return groups


def flat(groups):
    return torch.cat([w.reshape(-1) for w in itertools.chain(*groups)])


def rosenbrock(w):
    return 2 * (w[1:] - w[:-1] ** 2).square().sum() + (1 - w[:-1]).square().sum() / 2


def step(optimizer, groups):
    optimizer.zero_grad()
    rosenbrock(flat(groups)).backward()
    optimizer.step()


def run(optimizer, groups, num_steps=STEPS, schedule=None):
    """Weights (num_steps + 1, p) from the present ones on."""
    path = [flat(groups).detach()]
    for _ in range(num_steps):
        step(optimizer, groups)
        if schedule is not None:
            schedule.step()
        path.append(flat(groups).detach())
    return torch.stack(path).double().numpy()


def joined(groups, *options):
    """A GradientMethod with one set of options a group."""
    return GradientMethod([{"params": ws, **own} for ws, own in zip(groups, options, strict=True)], lr=1.0)


def each(first, second):
    """One entry a weight, from one number a group."""
    return np.repeat([first, second], SIZES)


def dense_groups(start=START):
    w = torch.nn.Parameter(torch.tensor(start))
    return [[w]]


def spd(seed, size):
    A = np.random.default_rng(seed).normal(size=(size, size))
    return A @ A.T / size + np.eye(size)


def test_the_two_forms_of_the_test_function_have_one_gradient():
    w = torch.tensor(START, requires_grad=True)
    rosenbrock(w).backward()
    np.testing.assert_allclose(w.grad, methods.rosenbrock_gradient(START), rtol=1e-14)


# Each case: options of the first and of the second group, the reference, and its hyperparameters.
P = np.random.default_rng(1).uniform(0.5, 4, sum(SIZES))
LR = {"lr": each(0.02, 0.01)}
ADAM = {"lr": each(0.03, 0.01), "b1": each(0.9, 0.5), "b2": each(0.99, 0.9), "eps": each(1e-8, 1e-3)}


def rms_pair(**options):
    return RMS(beta=0.99, eps=1e-8, **options), RMS(beta=0.9, eps=1e-3, **options)


PLAIN = (Identity(), Identity())


def options(momenta, rules=PLAIN, lr=(0.02, 0.01), **both):
    return [
        {"lr": rate, "momentum": momentum, "preconditioner": rule, **both}
        for rate, momentum, rule in zip(lr, momenta, rules, strict=True)
    ]


NONE = (Momentum(), Momentum())
EMA = (heavy_ball(0.9, ema=True), heavy_ball(0.5, ema=True))
ADAM_LR = (0.03, 0.01)
B = {"b": each(0.9, 0.5)}
DECAY = {"weight_decay": 0.3}
L2 = {"weight_decay": 0.3, "decoupled_weight_decay": False}
HEAVY_BALL = (heavy_ball(0.9, ema=False), heavy_ball(0.5, ema=False))
EMA_NESTEROV = (nesterov(0.9, ema=True), nesterov(0.5, ema=True))
STANDARD_NESTEROV = (nesterov(0.9, ema=False), nesterov(0.5, ema=False))
DAMPED = (Momentum.of_sgd(0.9, 0.4, False), Momentum.of_sgd(0.5, 0.4, False))
INSIDE = {"eps_inside_root": True}
RMSPROP_LR = (0.01, 0.003)
RMSPROP = {"lr": each(*RMSPROP_LR), "b2": ADAM["b2"], "eps": ADAM["eps"]}
FIXED = (FixedDiagonal(torch.tensor(P[:5])), FixedDiagonal(torch.tensor(P[5:])))
CASES = {
    "gradient descent": (options(NONE), methods.gradient_descent, LR),
    "gradient descent, decay": (options(NONE, **DECAY), methods.gradient_descent, {**LR, "wd": 0.3}),
    "heavy ball": (options(HEAVY_BALL, lr=(0.002, 0.005)), methods.heavy_ball, {"lr": each(0.002, 0.005), **B}),
    "EMA heavy ball": (options(EMA), methods.ema_heavy_ball, {**LR, **B}),
    "EMA heavy ball, decay": (options(EMA, **DECAY), methods.ema_heavy_ball, {**LR, **B, "wd": 0.3}),
    "Nesterov": (options(STANDARD_NESTEROV, lr=(0.002, 0.005)), methods.nesterov, {"lr": each(0.002, 0.005), **B}),
    "EMA Nesterov": (options(EMA_NESTEROV), methods.ema_nesterov, {**LR, **B}),
    "EMA Nesterov, decay": (options(EMA_NESTEROV, **DECAY), methods.ema_nesterov, {**LR, **B, "wd": 0.3}),
    "quasi-hyperbolic": (
        options((Momentum(0.9, 0.7), Momentum(0.5, 0.2))),
        methods.quasi_hyperbolic,
        {**LR, **B, "c": each(0.7, 0.2)},
    ),
    "dampening, L2": (
        options(DAMPED, lr=(0.002, 0.005), **L2),
        methods.damped_sgd,
        {"lr": each(0.002, 0.005), **B, "damping": 0.4, "l2": 0.3},
    ),
    "RMSProp": (options(NONE, rms_pair(), RMSPROP_LR), methods.rmsprop, RMSPROP),
    "RMSProp, L2": (options(NONE, rms_pair(), RMSPROP_LR, **L2), methods.rmsprop, {**RMSPROP, "l2": 0.3}),
    "RMSProp, eps inside": (options(NONE, rms_pair(**INSIDE), RMSPROP_LR), methods.rmsprop_eps_inside, RMSPROP),
    "Adam": (options(EMA, rms_pair(bias_correction=True), ADAM_LR), methods.adam, ADAM),
    "Adam, L2": (options(EMA, rms_pair(bias_correction=True), ADAM_LR, **L2), methods.adam, {**ADAM, "l2": 0.3}),
    "AdamW": (options(EMA, rms_pair(bias_correction=True), ADAM_LR, **DECAY), methods.adam, {**ADAM, "wd": 0.3}),
    "Adam, eps inside": (
        options(EMA, rms_pair(bias_correction=True, **INSIDE), ADAM_LR),
        methods.adam_eps_inside,
        ADAM,
    ),
    "Adam uncorrected": (options(EMA, rms_pair(), ADAM_LR), methods.adam_uncorrected, ADAM),
    "AdamW uncorrected": (options(EMA, rms_pair(), ADAM_LR, **DECAY), methods.adam_uncorrected, {**ADAM, "wd": 0.3}),
    "Adam, fourth root": (
        options(EMA, rms_pair(power=0.25), ADAM_LR),
        methods.adam_uncorrected,
        {**ADAM, "power": 0.25},
    ),
    "fixed diagonal": (options(NONE, FIXED), methods.gradient_descent, {"lr": LR["lr"] / P}),
    "fixed diagonal, EMA, decay": (
        options(EMA, FIXED, (0.02, 0.02), **DECAY),
        methods.preconditioned_ema_heavy_ball,
        {"lr": 0.02, **B, "P": np.diag(P), "wd": 0.3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_method_follows_its_reference_trajectory_to_1e_12(name):
    group_options, reference, hyperparameters = CASES[name]
    groups = parameters()
    path = run(joined(groups, *group_options), groups)
    expected = reference(methods.rosenbrock_gradient, START, STEPS, **hyperparameters)
    assert np.abs(expected[-1] - START).max() > 0.3
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


PRESETS = {
    "GD": (lambda p: GD(p, 0.01, weight_decay=0.3), methods.gradient_descent, {"lr": 0.01, "wd": 0.3}),
    "HeavyBall": (lambda p: HeavyBall(p, 0.002, 0.8), methods.heavy_ball, {"lr": 0.002, "b": 0.8}),
    "HeavyBall EMA": (lambda p: HeavyBall(p, 0.02, 0.8, ema=True), methods.ema_heavy_ball, {"lr": 0.02, "b": 0.8}),
    "Nesterov": (lambda p: Nesterov(p, 0.002, 0.8), methods.nesterov, {"lr": 0.002, "b": 0.8}),
    "Nesterov EMA": (lambda p: Nesterov(p, 0.02, 0.8, ema=True), methods.ema_nesterov, {"lr": 0.02, "b": 0.8}),
    "RMSprop": (lambda p: RMSprop(p, 0.01), methods.rmsprop, {"lr": 0.01, "b2": 0.99, "eps": 1e-8}),
    "Adam": (lambda p: Adam(p, 0.01), methods.adam, {"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-8}),
    "Adam uncorrected": (
        lambda p: Adam(p, 0.003, bias_correction=False),
        methods.adam_uncorrected,
        {"lr": 0.003, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
    ),
    "AdamW": (
        lambda p: AdamW(p, 0.01, weight_decay=0.3),
        methods.adam,
        {"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "wd": 0.3},
    ),
    "AdamW uncorrected": (
        lambda p: AdamW(p, 0.003, weight_decay=0.3, bias_correction=False),
        methods.adam_uncorrected,
        {"lr": 0.003, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "wd": 0.3},
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_follows_the_reference_trajectory_of_its_name_to_1e_12(name):
    make, reference, hyperparameters = PRESETS[name]
    groups = parameters()
    path = run(make(itertools.chain(*groups)), groups)
    expected = reference(methods.rosenbrock_gradient, START, STEPS, **hyperparameters)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wd", [0.0, 0.3])
def test_a_dense_preconditioner_follows_its_reference_trajectory_to_1e_12(wd):
    groups, P = dense_groups(), spd(2, 8)
    optimizer = GradientMethod(
        groups[0], 0.05, momentum=heavy_ball(0.9, ema=True), preconditioner=FixedDense(torch.tensor(P)), weight_decay=wd
    )
    path = run(optimizer, groups)
    expected = methods.preconditioned_ema_heavy_ball(
        methods.rosenbrock_gradient, START, STEPS, lr=0.05, b=0.9, P=P, wd=wd
    )
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


def test_newton_lands_at_the_minimum_of_a_quadratic_in_one_step():
    H, b = torch.tensor(spd(3, 6)), torch.arange(6.0, dtype=torch.float64)
    w = torch.nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimizer = GradientMethod([w], lr=1.0, preconditioner=FixedDense(H))
    (w @ H @ w / 2 - b @ w).backward()
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.linalg.solve(H, b), rtol=1e-12, atol=1e-12)


def test_a_frozen_preconditioner_stays_at_the_step_it_was_frozen():
    groups = parameters()
    optimizer = joined(groups, *options(EMA, rms_pair(bias_correction=True), ADAM_LR))
    before = run(optimizer, groups, 40)
    optimizer.freeze_preconditioner()
    after = run(optimizer, groups, 80)
    expected = methods.frozen_adam(methods.rosenbrock_gradient, START, STEPS, **ADAM, last=40)
    np.testing.assert_allclose(np.vstack([before, after[1:]]), expected, rtol=0, atol=1e-12)


def test_groups_with_different_rules_step_as_separate_optimizers_would():
    adam, ball = {"lr": 0.02, "momentum": EMA[0], "preconditioner": RMS(bias_correction=True)}, {"lr": 0.01}
    groups, twins = parameters(), parameters()
    path = run(joined(groups, adam, ball), groups)
    first, second = Adam(twins[0], lr=0.02), GD(twins[1], lr=0.01)
    for expected in path[1:]:
        first.zero_grad()
        second.zero_grad()
        rosenbrock(flat(twins)).backward()
        first.step()
        second.step()
        np.testing.assert_array_equal(flat(twins).detach(), expected)


# Each case: our preset and torch's class, with the same keywords.
TORCH = torch.optim
SAME = {
    "SGD": (SGD, TORCH.SGD, {"lr": 0.02}),
    "SGD momentum": (SGD, TORCH.SGD, {"lr": 0.003, "momentum": 0.9}),
    "SGD nesterov": (SGD, TORCH.SGD, {"lr": 0.003, "momentum": 0.9, "nesterov": True}),
    "SGD weight decay": (SGD, TORCH.SGD, {"lr": 0.003, "momentum": 0.9, "weight_decay": 0.3}),
    "RMSprop": (RMSprop, TORCH.RMSprop, {"lr": 0.02, "alpha": 0.95}),
    "RMSprop weight decay": (RMSprop, TORCH.RMSprop, {"lr": 0.02, "eps": 1e-4, "weight_decay": 0.3}),
    "Adam": (Adam, TORCH.Adam, {"lr": 0.02}),
    "Adam betas": (Adam, TORCH.Adam, {"lr": 0.005, "betas": (0.5, 0.9), "eps": 1e-4}),
    "Adam weight decay": (Adam, TORCH.Adam, {"lr": 0.02, "weight_decay": 0.3}),
    "Adam decoupled": (Adam, TORCH.Adam, {"lr": 0.02, "weight_decay": 0.3, "decoupled_weight_decay": True}),
    "AdamW": (AdamW, TORCH.AdamW, {"lr": 0.02}),
    "AdamW weight decay": (AdamW, TORCH.AdamW, {"lr": 0.02, "weight_decay": 0.3}),
}


def grouped(groups):
    return [{"params": groups[0]}, {"params": groups[1], "lr": 0.005}]


@pytest.mark.parametrize("name", SAME)
def test_a_preset_steps_as_torch_does_in_float64(name):
    ours, theirs, keywords = SAME[name]
    paths = []
    for optimizer in (ours, theirs):
        groups = parameters()
        paths.append(run(optimizer(grouped(groups), **keywords), groups))
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SAME)
def test_a_preset_is_as_near_the_float64_trajectory_as_torch_in_float32(name):
    ours, theirs, keywords = SAME[name]
    paths = []
    for optimizer, dtype in ((theirs, torch.float64), (theirs, torch.float32), (ours, torch.float32)):
        groups = parameters(dtype)
        paths.append(run(optimizer(grouped(groups), **keywords), groups))
    exact, torch_error, our_error = paths[0], np.abs(paths[1] - paths[0]).max(), np.abs(paths[2] - paths[0]).max()
    assert our_error <= 2 * torch_error + 1e-6 * np.abs(exact).max()


def test_sgd_with_dampening_steps_as_torch_does_after_a_first_gradient_of_zero():
    paths = []
    for optimizer in (SGD, TORCH.SGD):
        groups = parameters()
        method = optimizer(grouped(groups), lr=0.003, momentum=0.9, dampening=0.4)
        for w in itertools.chain(*groups):
            w.grad = torch.zeros_like(w)
        method.step()
        paths.append(run(method, groups))
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)


MAKERS = {
    "GD": lambda p: GD(p, 0.01, weight_decay=0.1),
    "HeavyBall": lambda p: HeavyBall(p, 0.002),
    "Nesterov EMA": lambda p: Nesterov(p, 0.02, ema=True),
    "SGD": lambda p: SGD(p, 0.002, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "RMSprop": lambda p: RMSprop(p, 0.01),
    "Adam": lambda p: Adam(p, 0.01),
    "AdamW": lambda p: AdamW(p, 0.01, bias_correction=False),
    "Adafactor": lambda p: Adafactor(p, 0.01),
    "GI-Adam": lambda p: Adam(p, 0.01, gradient_init=True),
    "FixedDiagonal": lambda p: GradientMethod(
        p, 0.01, momentum=EMA[0], preconditioner=FixedDiagonal(torch.arange(1, 4, dtype=torch.float64))
    ),
    "FixedDense": lambda p: GradientMethod(
        p, 0.01, momentum=EMA[0], preconditioner=FixedDense(torch.tensor(spd(4, 3)))
    ),
}
every_method = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def small(dtype=torch.float64):
    """One flat parameter in one group."""
    return [[torch.nn.Parameter(torch.tensor([-0.5, 1.2, 0.3], dtype=dtype))]]


@every_method
@pytest.mark.parametrize("is_frozen", [False, True], ids=["adapting", "frozen"])
def test_a_state_dict_continues_the_run_bit_for_bit(make, is_frozen):
    groups = small()
    optimizer = make(groups[0])
    run(optimizer, groups, 20)
    if is_frozen:
        optimizer.freeze_preconditioner()
    twins = copy.deepcopy(groups)
    twin = make(twins[0])
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(run(optimizer, groups, 20), run(twin, twins, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["GD", "SGD", "RMSprop", "Adam", "FixedDiagonal", "Adafactor", "GI-Adam"])
def test_a_state_dict_continues_the_run_in_lower_precision_too(name, dtype):
    """From step 300 on, which is more than bfloat16 can count to."""
    groups = small(dtype)
    optimizer = MAKERS[name](groups[0])
    run(optimizer, groups, 300)
    twins = copy.deepcopy(groups)
    twin = MAKERS[name](twins[0])
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(run(optimizer, groups, 20), run(twin, twins, 20))
    assert optimizer.state_dict()["state"].keys() == twin.state_dict()["state"].keys()
    for state, other in zip(optimizer.state.values(), twin.state.values(), strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=0)


def test_a_state_dict_brings_its_rules_along():
    groups = small()
    optimizer = AdamW(groups[0], 0.01)
    run(optimizer, groups, 20)
    twins = copy.deepcopy(groups)
    twin = GradientMethod(twins[0], lr=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(run(optimizer, groups, 20), run(twin, twins, 20))


@every_method
def test_a_state_dict_survives_torch_save_and_load(make):
    groups, buffer = small(), io.BytesIO()
    optimizer = make(groups[0])
    run(optimizer, groups, 2)
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    twins = copy.deepcopy(groups)
    twin = make(twins[0])
    twin.load_state_dict(torch.load(buffer))
    np.testing.assert_array_equal(run(optimizer, groups, 2), run(twin, twins, 2))


@every_method
def test_a_deep_copy_continues_alike(make):
    groups = small()
    optimizer = make(groups[0])
    run(optimizer, groups, 5)
    twin, twins = copy.deepcopy((optimizer, groups))
    np.testing.assert_array_equal(run(optimizer, groups, 5), run(twin, twins, 5))


@every_method
def test_a_step_leaves_the_gradient_as_it_was(make):
    groups = small()
    optimizer = make(groups[0])
    for _ in range(2):
        rosenbrock(flat(groups)).backward()
        before = groups[0][0].grad.clone()
        optimizer.step()
        assert torch.equal(groups[0][0].grad, before)


@every_method
def test_a_parameter_without_a_gradient_is_left_alone(make):
    w = small()[0][0]
    idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = make([w])
    optimizer.add_param_group({"params": [idle], "preconditioner": RMS(), "weight_decay": 0.5})
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert torch.equal(idle, torch.ones_like(idle))
    assert idle not in optimizer.state


@every_method
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(make):
    groups, losses = small(), []
    optimizer = make(groups[0])

    def closure():
        optimizer.zero_grad()
        losses.append(rosenbrock(flat(groups)))
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1
    twins = small()
    assert run(make(twins[0]), twins, 1)[1] == pytest.approx(flat(groups).detach().numpy(), rel=0, abs=0)


@every_method
def test_a_step_without_a_closure_returns_none(make):
    groups = small()
    assert make(groups[0]).step() is None


def test_torchs_learning_rate_schedulers_drive_it():
    paths = []
    for optimizer in (Adam, TORCH.Adam):
        groups = parameters()
        method = optimizer(grouped(groups), lr=0.02)
        rates = [lambda t: 1 / (1 + t), lambda t: 0.9**t]
        paths.append(run(method, groups, schedule=TORCH.lr_scheduler.LambdaLR(method, rates)))
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)


def test_a_one_cycle_schedule_of_the_rate_alone_drives_it():
    paths = []
    for optimizer in (Adam, TORCH.Adam):
        groups = parameters()
        method = optimizer(grouped(groups), lr=0.02)
        schedule = TORCH.lr_scheduler.OneCycleLR(method, 0.02, total_steps=STEPS + 1, cycle_momentum=False)
        paths.append(run(method, groups, schedule=schedule))
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)


def test_a_schedule_that_puts_a_number_in_place_of_the_momentum_rule_is_refused():
    groups = small()
    optimizer = HeavyBall(groups[0], 0.01)
    with pytest.raises(ValueError, match="momentum"):
        run(optimizer, groups, 2, TORCH.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=9, cycle_momentum=True))


def test_a_group_added_later_takes_part_from_then_on():
    paths = []
    for optimizer in (Adam, TORCH.Adam):
        groups = parameters()
        method = optimizer(groups[0], lr=0.02)
        before = run(method, groups, 10)
        method.add_param_group({"params": groups[1], "lr": 0.005})
        paths.append(np.vstack([before, run(method, groups, 20)]))
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-12)


BAD_GROUPS = {
    "negative lr": ({"lr": -0.1}, "lr must be finite and at least 0; got -0.1"),
    "infinite lr": ({"lr": float("inf")}, "lr must be finite"),
    "nan lr": ({"lr": float("nan")}, "lr must be finite"),
    "text lr": ({"lr": "0.1"}, "lr must be"),
    "no lr": ({"lr": None}, "lr must be"),
    "negative decay": ({"weight_decay": -1.0}, "weight_decay must be finite and at least 0; got -1.0"),
    "nan decay": ({"weight_decay": float("nan")}, "weight_decay must be finite"),
    "text decay": ({"weight_decay": "1"}, "weight_decay must be"),
    "momentum as a number": ({"momentum": 0.9}, "momentum must be a Momentum rule; got 0.9"),
    "momentum as a class": ({"momentum": Momentum}, "momentum must be a Momentum rule"),
    "preconditioner as text": ({"preconditioner": "rms"}, "preconditioner must be a rule; got 'rms'"),
    "preconditioner as a class": ({"preconditioner": RMS}, "preconditioner must be a rule"),
}
bad_group = pytest.mark.parametrize(("bad", "message"), BAD_GROUPS.values(), ids=BAD_GROUPS)


def assert_one_line(error):
    assert "\n" not in str(error.value)


@bad_group
def test_a_bad_hyperparameter_is_a_config_error_of_one_line(bad, message):
    with pytest.raises(ConfigError, match=message) as error:
        GradientMethod(small()[0], **{"lr": 0.1, **bad})
    assert_one_line(error)


@bad_group
def test_a_bad_hyperparameter_of_a_group_is_a_config_error_too(bad, message):
    with pytest.raises(ConfigError, match=message):
        GradientMethod([{"params": small()[0], **bad}], lr=0.1)


@bad_group
def test_a_bad_hyperparameter_of_a_group_added_later_is_a_config_error_too(bad, message):
    optimizer = GD(small()[0], 0.1)
    with pytest.raises(ConfigError, match=message):
        optimizer.add_param_group({"params": small()[0], **bad})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: HeavyBall(p, 0.1, beta1=1.0), r"beta must be in \[0, 1\); got 1.0"),
        (lambda p: Nesterov(p, 0.1, beta1=1.2), "beta must be"),
        (lambda p: SGD(p, 0.1, momentum=1.0), "beta must be"),
        (lambda p: SGD(p, 0.1, momentum=-0.1), "beta must be"),
        (lambda p: SGD(p, 0.1, momentum=0.9, dampening=1.0), "gain must be positive"),
        (lambda p: Adam(p, betas=(1.0, 0.9)), "beta must be"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), "beta must be"),
        (lambda p: Adam(p, eps=-1e-8), "eps must be"),
        (lambda p: AdamW(p, weight_decay=-0.1), "weight_decay must be"),
        (lambda p: RMSprop(p, alpha=1.0), "beta must be"),
    ],
)
def test_a_preset_with_a_bad_hyperparameter_is_a_config_error_of_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as error:
        make(small()[0])
    assert_one_line(error)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_sgd_refuses_nesterov_where_torch_does(options):
    with pytest.raises(ValueError, match="Nesterov momentum requires"):
        TORCH.SGD(small()[0], 0.1, nesterov=True, **options)
    with pytest.raises(ConfigError):
        SGD(small()[0], 0.1, nesterov=True, **options)


def sparse_like(w):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, dtype=w.dtype), w.shape)


@every_method
@pytest.mark.parametrize("num_steps_before", [0, 1])
def test_a_sparse_gradient_is_a_shape_error(make, num_steps_before):
    groups = small()
    optimizer = make(groups[0])
    run(optimizer, groups, num_steps_before)
    w = groups[0][0]
    w.grad = sparse_like(w)
    with pytest.raises(ShapeError, match="real and dense"):
        optimizer.step()


def test_a_complex_parameter_is_a_shape_error():
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.complex128))
    w.grad = torch.ones_like(w)
    with pytest.raises(ShapeError, match="must be real floating numbers"):
        GD([w], 0.1)


def stepped(rule, *parameters):
    optimizer = GradientMethod(list(parameters), 0.1, preconditioner=rule)
    for w in parameters:
        w.grad = torch.ones_like(w)
    optimizer.step()


@pytest.mark.parametrize("size", [4, 6])
def test_a_fixed_diagonal_of_the_wrong_length_is_a_shape_error(size):
    with pytest.raises(ShapeError, match="one entry a parameter element"):
        stepped(FixedDiagonal(torch.ones(size)), *(torch.nn.Parameter(torch.ones(n)) for n in (2, 3)))


@pytest.mark.parametrize("shape", [(4,), (2, 2), (3, 1)])
def test_a_fixed_dense_that_does_not_fit_is_a_shape_error(shape):
    with pytest.raises(ShapeError, match=r"one flat parameter \(3,\)"):
        stepped(FixedDense(torch.eye(3)), torch.nn.Parameter(torch.ones(shape)))


def test_a_fixed_dense_beside_another_parameter_is_a_shape_error():
    with pytest.raises(ShapeError, match="one flat parameter"):
        stepped(FixedDense(torch.eye(3)), *(torch.nn.Parameter(torch.ones(3)) for _ in range(2)))


@pytest.mark.parametrize("make", [MAKERS["Adam"], MAKERS["RMSprop"], MAKERS["AdamW"]])
def test_a_preconditioner_that_is_not_there_yet_cannot_be_frozen(make):
    groups = small()
    optimizer = make(groups[0])
    with pytest.raises(ConfigError, match="step"):
        optimizer.freeze_preconditioner()


def test_a_parameter_that_first_steps_after_the_freeze_never_becomes_nan():
    (first,), (second,) = small()[0], small()[0]
    optimizer = Adam([first, second])
    first.grad = torch.ones_like(first)
    optimizer.step()
    optimizer.freeze_preconditioner()
    second.grad = torch.ones_like(second)
    with contextlib.suppress(ConfigError):
        optimizer.step()
    assert second.isfinite().all()


@pytest.mark.parametrize("make", [MAKERS["GD"], MAKERS["FixedDiagonal"], MAKERS["FixedDense"]])
def test_a_constant_preconditioner_may_be_frozen_at_any_time(make):
    paths = []
    for is_frozen in (True, False):
        groups = small()
        optimizer = make(groups[0])
        if is_frozen:
            optimizer.freeze_preconditioner()
        paths.append(run(optimizer, groups, 5))
    np.testing.assert_array_equal(*paths)


def test_a_learning_rate_of_zero_moves_nothing():
    groups = small()
    path = run(AdamW(groups[0], 0.0), groups, 3)
    np.testing.assert_array_equal(path[0], path[3])
