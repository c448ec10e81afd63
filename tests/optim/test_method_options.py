"""Options of the named methods: torch's Nadam, AMSGrad inside Adam, eps inside the root, nu started at a gradient."""

import copy
import math

import numpy as np
import pytest
import torch

from tests.reference import methods
from tightrope import optim
from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import (
    RECIPES,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    Momentum,
    MomentumRule,
    NAdam,
    Padam,
    RMSprop,
    ScheduledNesterov,
    freeze,
)

START = np.array([-1.2, 1.0, 0.5, -0.3, 0.8, 1.5])
STEPS = 200
LR = 2e-3  # torch's for Nadam. At 0.01 the valley is past Nadam's edge (1.13 at step 100), and rounding grows to 4e-3.
BETAS = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}
OURS = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-6}


@pytest.fixture(autouse=True)
def _float64_by_default():
    """torch keeps Nadam's product of mu in the default dtype: in float32 that alone moves its first step by 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run(make, num_steps=STEPS, freeze_at=None):
    w = torch.nn.Parameter(torch.tensor(START))
    optimizer, path = make([w]), [START]
    for t in range(1, num_steps + 1):
        w.grad = torch.tensor(methods.rosenbrock_gradient(w.detach().numpy()))
        optimizer.step()
        path.append(w.detach().numpy().copy())
        if t == freeze_at:
            optimizer.freeze_preconditioner()
    return np.array(path), optimizer


def assert_same_path(path, expected):
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: NAdam(p, LR, momentum_decay=4e-3), lambda p: torch.optim.NAdam(p, LR)),
        (
            lambda p: NAdam(p, LR, (0.95, 0.98), 1e-4, 0.1, momentum_decay=0.1),
            lambda p: torch.optim.NAdam(p, LR, (0.95, 0.98), 1e-4, 0.1, momentum_decay=0.1),
        ),
        (
            lambda p: NAdam(p, LR, bias_correction=True),
            lambda p: torch.optim.NAdam(p, LR, momentum_decay=1e6),
        ),
        (lambda p: NAdam(p, LR, (0.0, 0.9), momentum_decay=4e-3), lambda p: torch.optim.NAdam(p, LR, (0.0, 0.9))),
        (lambda p: Adam(p, 0.01, amsgrad=True), lambda p: torch.optim.Adam(p, 0.01, amsgrad=True)),
        (
            lambda p: Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
            lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
        ),
        (lambda p: AdamW(p, 0.01, amsgrad=True), lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True)),
        (lambda p: AMSGrad(p, 0.01, bias_correction=True), lambda p: torch.optim.Adam(p, 0.01, amsgrad=True)),
    ],
    ids=["NAdam", "NAdam's options", "NAdam corrected", "NAdam b1=0", "amsgrad", "amsgrad L2", "AdamW", "AMSGrad"],
)
def test_an_option_gives_torchs_method_for_200_steps(ours, theirs):
    assert_same_path(run(ours)[0], run(theirs)[0])


@pytest.mark.parametrize(
    ("make", "reference", "hyperparameters"),
    [
        (
            lambda p: NAdam(p, LR, **OURS, momentum_decay=4e-3, weight_decay=0.2),
            methods.scheduled_nadam,
            {**BETAS, "lr": LR, "decay": 4e-3, "l2": 0.2},
        ),
        (lambda p: Adam(p, 0.01, **OURS, gradient_init=True), methods.gradient_init_adam, {**BETAS, "lr": 0.01}),
        (lambda p: Adam(p, 0.01, **OURS, eps_inside_root=True), methods.adam_eps_inside, {**BETAS, "lr": 0.01}),
        (
            lambda p: RMSprop(p, 0.01, 0.99, 1e-3, eps_inside_root=True),
            methods.rmsprop_eps_inside,
            {"lr": 0.01, "b2": 0.99, "eps": 1e-3},
        ),
        (
            lambda p: Padam(p, 0.01, **OURS, power=0.5, running_max=True),
            methods.amsgrad,
            {**BETAS, "lr": 0.01},
        ),
    ],
    ids=["NAdam", "GI-Adam", "Adam, eps inside", "RMSprop, eps inside", "Padam at 1/2 with the maximum is AMSGrad"],
)
def test_an_option_follows_its_reference(make, reference, hyperparameters):
    assert_same_path(run(make)[0], reference(methods.rosenbrock_gradient, START, STEPS, **hyperparameters))


EPS = {**BETAS, "eps": 0.05, "is_inside": True}
INSIDE = {"beta1": 0.9, "beta2": 0.99, "eps": 0.05, "eps_inside_root": True}
EPS_INSIDE = {
    "AdamW": (AdamW, {"weight_decay": 0.3}, methods.adam, {"wd": 0.3}),
    "AMSGrad": (AMSGrad, {}, methods.amsgrad, {}),
    "AMSGrad corrected": (AMSGrad, {"bias_correction": True}, methods.amsgrad, {"is_torch": True}),
    "Padam": (Padam, {"power": 0.25}, methods.adam_uncorrected, {"power": 0.25}),
    "NAdam": (NAdam, {}, methods.nadam, {}),
    "NAdam scheduled": (NAdam, {"momentum_decay": 4e-3}, methods.scheduled_nadam, {"decay": 4e-3}),
}


@pytest.mark.parametrize("name", EPS_INSIDE)
def test_the_eps_of_every_adaptive_preset_may_stand_inside_the_root(name):
    preset, options, reference, more = EPS_INSIDE[name]
    path, optimizer = run(lambda p: preset(p, LR, **INSIDE, **options))
    assert_same_path(path, reference(methods.rosenbrock_gradient, START, STEPS, lr=LR, **EPS, **more))
    outside, _ = run(lambda p: preset(p, LR, **{**INSIDE, "eps_inside_root": False}, **options))
    assert np.abs(path - outside).max() > 1e-3
    (recipe,) = (kind for kind in RECIPES.values() if kind.__name__ == f"{preset.__name__}Recipe")
    built, twin = run(recipe(lr=LR, **INSIDE, **options).build)
    assert np.array_equal(built, path)
    torch.testing.assert_close(freeze(twin).D, freeze(optimizer).D, rtol=0, atol=0)


@pytest.mark.parametrize("preset", [Adam, AdamW, NAdam])
@pytest.mark.parametrize("betas", [0.9, None, (0.9,), (0.9, 0.99, 0.999), "0.9"])
def test_betas_must_be_a_pair(preset, betas):
    with pytest.raises(ConfigError, match=rf"{preset.__name__}: betas must be two numbers; got .*0.9, 0.999\)\.$"):
        preset([torch.nn.Parameter(torch.ones(2))], betas=betas)


@pytest.mark.parametrize(
    ("params", "got"),
    [
        (None, "None"),
        (torch.nn.Linear(2, 2), "Linear"),
        (torch.nn.Sequential(torch.nn.Linear(2, 2)), "Linear"),
        (torch.ones(2), "Tensor"),
        ([0.5], "float"),
        ([{"params": torch.nn.Linear(2, 2)}], "Linear"),
        ([{"params": [None]}], "NoneType"),
        ([{"parameters": []}], "None"),
        ([{"params": {torch.ones(2)}}], "set"),
        ([("w",)], "tuple"),
        ([{"params": [torch.ones(2)]}, [torch.ones(3)]], "list"),
    ],
)
def test_what_holds_no_parameters_is_refused_in_one_line(params, got):
    with pytest.raises(
        ConfigError, match=rf"GradientMethod: .* must be .*; got {got}.*Give model\.parameters\(\), a li"
    ):
        Adam(params)


def test_a_parameter_list_holds_parameters():
    assert len(Adam(torch.nn.ParameterList([torch.ones(2), torch.ones(3)])).param_groups[0]["params"]) == 2


def test_adagrads_eps_may_stand_inside_the_root():
    _, optimizer = run(lambda p: Adagrad(p, 0.1, eps=0.5, initial_accumulator_value=2.0, eps_inside_root=True), 1)
    P = optimizer.preconditioner(optimizer.param_groups[0], optimizer.param_groups[0]["params"][0])
    np.testing.assert_allclose(P, np.sqrt(2.5 + methods.rosenbrock_gradient(START) ** 2), rtol=1e-14)


def test_frozen_scheduled_nadam_holds_its_weights_as_well_as_its_preconditioner():
    path, optimizer = run(lambda p: NAdam(p, LR, **OURS, momentum_decay=4e-3), freeze_at=7)
    hyperparameters = {**BETAS, "lr": LR, "decay": 4e-3, "last": 7}
    assert_same_path(path, methods.scheduled_nadam(methods.rosenbrock_gradient, START, STEPS, **hyperparameters))
    assert freeze(optimizer).groups[0].momentum == ScheduledNesterov(0.9, decay=4e-3).at(7)


@pytest.mark.parametrize("side", [0.99, 1.01])
@pytest.mark.parametrize("num_steps", [1, 5, 40])
def test_scheduled_nadam_frozen_at_a_step_has_its_edge_there(num_steps, side):
    torch.manual_seed(0)
    curvatures = torch.linspace(0.5, 2, 6).double()
    w = torch.nn.Parameter(torch.randn(6).double())
    optimizer = NAdam([w], 1e-3, momentum_decay=4e-3)
    for _ in range(num_steps):
        w.grad = curvatures * w.detach()
        optimizer.step()
    optimizer.freeze_preconditioner()
    ratio = float((freeze(optimizer).D * curvatures).max())
    optimizer.param_groups[0]["lr"] *= side / ratio
    w.data = torch.randn(6).double()
    for _ in range(4000):
        w.grad = curvatures * w.detach()
        optimizer.step()
    assert (float(w.detach().norm()) < 1e-3) == (side < 1)


@pytest.mark.parametrize("num_steps", [0, 1, 3, 30])
def test_our_scheduled_nadam_is_frozen_as_torchs_is_at_every_step(num_steps):
    ours = run(lambda p: NAdam(p, LR, momentum_decay=4e-3), num_steps)[1]
    theirs = run(lambda p: torch.optim.NAdam(p, LR), max(num_steps, 1))[1]
    assert freeze(ours).stability_threshold() == pytest.approx(freeze(theirs).stability_threshold(), rel=1e-13)
    if num_steps:
        torch.testing.assert_close(freeze(ours).D, freeze(theirs).D, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("t", "in_lr"), [(1, 1.94), (10, 3.49), (1000, 3.93), (math.inf, 13.57)])
def test_scheduled_nadams_threshold_starts_far_below_the_one_it_tends_to(t, in_lr):
    recipe = RECIPES["nadam"](lr=0.5, momentum_decay=4e-3)
    assert recipe.stability_threshold(t) * 0.5 == pytest.approx(in_lr, abs=5e-3)
    assert recipe.stability_threshold(math.inf) == recipe.stability_threshold()
    assert recipe.stability_threshold() == pytest.approx(RECIPES["nadam"](lr=0.5).stability_threshold(), rel=1e-14)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("t", [1, 2, 400, 10**6])
def test_the_weights_of_a_scheduled_step_are_those_of_its_running_product(beta, t):
    mus = [beta * (1 - 0.5 * 0.96 ** (s * 4e-3)) for s in range(1, t + 2)]
    product = math.prod(mus[:-1])
    rule = ScheduledNesterov(beta, decay=4e-3).at(t)
    assert rule.gain * (1 - rule.discount) == pytest.approx((1 - mus[-2]) / (1 - product), rel=1e-11)
    assert rule.gain * rule.discount == pytest.approx(mus[-1] / (1 - product * mus[-1]), rel=1e-12)


@pytest.mark.parametrize("rule", [ScheduledNesterov(0.9, decay=4e-3), ScheduledNesterov(0.7), Momentum(0.9, 0.5, 2.0)])
@pytest.mark.parametrize("t", [1, 3, 50])
def test_the_rule_at_a_step_is_what_that_steps_direction_does_when_held(rule, t):
    held, m, alternating = rule.at(t), torch.zeros(1).double(), torch.ones(1).double()
    for _ in range(600):
        alternating = -alternating
        d = rule.direction(m, alternating, t)
    assert float(d * alternating) == pytest.approx(held.alternating_gain, rel=1e-12)
    assert held.at(7) is held


def test_the_contract_of_momentum_is_asked_of_every_final_rule():
    assert set(MomentumRule.__subclasses__()) == {Momentum, ScheduledNesterov}
    with pytest.raises(TypeError, match="abstract"):
        MomentumRule()


def test_a_scheduled_momentum_survives_a_file_of_weights_only(tmp_path):
    _, optimizer = run(lambda p: NAdam(p, LR, momentum_decay=4e-3), 2)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    assert read["param_groups"][0]["momentum"] == ScheduledNesterov(0.9, decay=4e-3)


def test_a_scheduled_momentum_out_of_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"ScheduledNesterov: beta must be in \[0, 1\); got 1"):
        ScheduledNesterov(1)
    with pytest.raises(ConfigError, match="decay must be at least 0; got -1"):
        NAdam([torch.nn.Parameter(torch.zeros(1))], momentum_decay=-1)


def test_the_formula_of_corrected_nadam_leaves_the_averages_correction_to_its_momentum():
    assert RECIPES["nadam"](lr=1.0, bias_correction=True).formula == "sqrt(nu/(1-beta2^t)) + eps"
    assert RECIPES["adam"](lr=1.0).formula == "(1-beta1^t) (sqrt(nu/(1-beta2^t)) + eps)"


def test_scheduled_nadam_resumes_from_its_state_as_if_never_stopped():
    def gradient(t):
        return torch.tensor(START * math.cos(t))

    def go(optimizer, w, steps):
        for t in steps:
            w.grad = gradient(t)
            optimizer.step()

    def make():
        w = torch.nn.Parameter(torch.tensor(START))
        return w, NAdam([w], LR, momentum_decay=4e-3)

    w, whole = make()
    go(whole, w, range(20))
    first, before = make()
    go(before, first, range(9))
    second, after = make()
    second.data.copy_(first.data)
    after.load_state_dict(before.state_dict())
    go(after, second, range(9, 20))
    assert torch.equal(w, second)


@pytest.mark.parametrize(("t", "factor"), [(1, 0.0316), (100, 0.309), (1000, 0.795)])
def test_a_second_moment_started_at_the_gradient_warms_the_step_up(t, factor):
    """With a constant gradient Adam steps by lr, so the step is the warmup factor itself."""
    w = torch.nn.Parameter(torch.zeros(1).double())
    optimizer = Adam([w], 1.0, beta2=0.999, eps=0.0, gradient_init=True)
    for _ in range(t):
        before = w.item()
        w.grad = torch.full_like(w, -3.0)
        optimizer.step()
    assert w.item() - before == pytest.approx(factor, abs=5e-4)
    assert w.item() - before == pytest.approx(math.sqrt(1 - 0.999**t), rel=1e-9)


def test_a_start_at_the_gradient_can_stand_in_for_the_correction_of_nu():
    w = torch.nn.Parameter(torch.zeros(1).double())
    optimizer = Adam([w], 1.0, beta1=0.0, eps=0.0, bias_correction=False, gradient_init=True)
    w.grad = torch.full_like(w, -3.0)
    optimizer.step()
    assert w.item() == pytest.approx(1.0)


# What must not be loaded or optimized


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: torch.optim.Adam([w]), "needs a MomentumRule as momentum of group 0; got None"),
        (lambda w: torch.optim.SGD([w], momentum=0.9), "needs a MomentumRule as momentum of group 0; got 0.9"),
        (lambda w: torch.optim.Adagrad([w]), "needs a MomentumRule as momentum of group 0; got None"),
    ],
)
def test_the_state_of_another_method_is_refused_and_nothing_is_changed(make, message):
    w = torch.nn.Parameter(torch.ones(3))
    ours, other = optim.Adam([w], lr=0.1), make(w)
    w.grad = torch.ones(3)
    ours.step()
    other.step()
    before = ours.state_dict()
    with pytest.raises(ConfigError, match=message):
        ours.load_state_dict(other.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    assert ours.state[w]["step"] == 1
    ours.load_state_dict(before)


def test_state_that_does_not_go_with_its_rules_is_refused():
    w = torch.nn.Parameter(torch.ones(3))
    ours, other = optim.Adam([w], lr=0.1), optim.RMSprop([w])
    w.grad = torch.ones(3)
    ours.step()
    other.step()
    mixed = {**ours.state_dict(), "state": other.state_dict()["state"]}
    with pytest.raises(ConfigError, match=r"needs m, nu, preconditioner_step, step of a parameter; got nu, prec"):
        ours.load_state_dict(mixed)


def test_state_of_another_shape_is_refused():
    w, v = (torch.nn.Parameter(torch.ones(size)) for size in (3, 4))
    ours, other = optim.Adam([w], lr=0.1), optim.Adam([v], lr=0.1)
    v.grad = torch.ones(4)
    other.step()
    with pytest.raises(ConfigError, match=r"needs (m|nu) of shape \(3,\); got one of shape \(4,\)"):
        ours.load_state_dict(other.state_dict())


def test_state_over_other_groups_and_no_state_are_refused():
    w, v = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    ours = optim.Adam([w], lr=0.1)
    for state in (optim.Adam([w, v]).state_dict(), optim.Adam([{"params": w}, {"params": v}]).state_dict(), {}):
        with pytest.raises(ConfigError, match=r"needs groups of \[1\] parameters; got \["):
            ours.load_state_dict(state)


def test_a_count_that_was_rounded_is_refused():
    w = torch.nn.Parameter(torch.ones(3))
    ours = optim.Adafactor([w])
    w.grad = torch.ones(3)
    ours.step()
    rounded = copy.deepcopy(ours.state_dict())
    rounded["state"][0]["count"] = torch.tensor(1.0).bfloat16()
    with pytest.raises(ConfigError, match=r"needs count of type int; got one of shape \(\)"):
        ours.load_state_dict(rounded)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_parameters_must_be_real_floating_numbers(dtype):
    with pytest.raises(ShapeError, match=f"must be real floating numbers; got one of {dtype}"):
        optim.Adam([torch.ones(2, dtype=dtype)])


def test_a_parameter_given_twice_is_refused():
    w = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ShapeError, match="must be distinct"):
        optim.Adam([w, w])


def test_parameters_may_be_a_generator_a_tensor_named_or_groups():
    model = torch.nn.Linear(2, 2)
    w = torch.nn.Parameter(torch.ones(3))
    for params in (
        model.parameters(),
        [w],
        model.named_parameters(),
        [{"params": model.parameters()}],
        [{"params": w}],
    ):
        optimizer = optim.Adam(params)
        assert all(isinstance(each, torch.nn.Parameter) for each in optimizer.param_groups[0]["params"])


def test_a_parameter_in_two_groups_is_refused_with_advice():
    w = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ShapeError, match=r"more than one parameter group\. Give each trainable tensor once"):
        optim.Adam([{"params": [w]}, {"params": [w]}])
