"""freeze() reads the linear method out of an optimizer: one real step is one frozen step with the P it used."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tightrope.errors import UnsupportedOptimizerError
from tightrope.optim import (
    GD,
    RMS,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    FixedDense,
    FixedDiagonal,
    GradientMethod,
    HeavyBall,
    Momentum,
    NAdam,
    Nesterov,
    Padam,
    RMSprop,
    freeze,
    heavy_ball,
    nesterov,
    none,
)

TORCH = torch.optim
SHAPES = ((2, 3), (), (4,))
DIAGONAL = torch.linspace(0.2, 5, 11, dtype=torch.float64)
DENSE = torch.tensor([[2.0, 0.5, 0.0, 0.1], [0.5, 1.0, 0.2, 0.0], [0.0, 0.2, 3.0, 0.3], [0.1, 0.0, 0.3, 0.7]]).double()


def parameters(dtype=torch.float64, shapes=SHAPES):
    return [torch.nn.Parameter(part.to(dtype)) for part in gradients(0, torch.float64, shapes)]


def gradients(seed, dtype, shapes):
    generator = np.random.default_rng(seed)
    return [torch.tensor(generator.normal(size=shape)).to(dtype) for shape in shapes]


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).double()


def take(optimizer, ws, seed):
    """One step on seeded random gradients, which are returned as the method sees them: with coupled decay."""
    for w, g in zip(ws, gradients(seed, ws[0].dtype, [w.shape for w in ws]), strict=True):
        w.grad = g
    g = flat([w.grad for w in ws]) + freeze(optimizer).shift * flat(ws)
    optimizer.step()
    return g


def warm(optimizer, num_steps=1):
    ws = [w for group in optimizer.param_groups for w in group["params"]]
    for seed in range(1, num_steps + 1):
        for w, g in zip(ws, gradients(seed, ws[0].dtype, [w.shape for w in ws]), strict=True):
            w.grad = g
        optimizer.step()
    return optimizer


def state(optimizer, ws, name):
    return flat([optimizer.state[w][name] for w in ws])


def momentum_before(optimizer, ws, name):
    return state(optimizer, ws, name) if name in optimizer.state[ws[0]] else torch.zeros(len(flat(ws))).double()


# Step directions from the optimizer's own state: before the step (m), after it, and the gradient g of the step.
def plain(optimizer, ws, m, g):
    return g


def ours(optimizer, ws, m, g):
    """k (1-c) g + c m."""
    rule = optimizer.param_groups[0]["momentum"]
    return rule.gain * (1 - rule.discount) * g + rule.discount * state(optimizer, ws, "m")


def average(optimizer, ws, m, g):
    return state(optimizer, ws, "exp_avg")


def fresh_and_averaged(optimizer, ws, m, g):
    """torch's Nadam at its present step, in the words of its frozen momentum rule."""
    rule = freeze(optimizer).groups[0].momentum
    return rule.gain * ((1 - rule.discount) * g + rule.discount * state(optimizer, ws, "exp_avg"))


def buffer(optimizer, ws, m, g):
    return state(optimizer, ws, "momentum_buffer")


def nesterov_buffer(optimizer, ws, m, g):
    return g + optimizer.param_groups[0]["momentum"] * state(optimizer, ws, "momentum_buffer")


def buffer_after_the_preconditioner(optimizer, ws, m, g):
    """torch's RMSprop sums g / P; in the frozen method that sum is of gradients, divided by P at the end."""
    return optimizer.param_groups[0]["momentum"] * freeze(optimizer).P.double() * m + g


RMS_LR = {"lr": 0.3, "eps": 1e-3}
# Each case: the optimizer, the name of its momentum in the state, and how the direction follows from it.
STEPS = {
    "GD": (lambda p: GD(p, 0.3, weight_decay=0.2), "", plain),
    "HeavyBall": (lambda p: HeavyBall(p, 0.3, weight_decay=0.2), "m", ours),
    "HeavyBall EMA": (lambda p: HeavyBall(p, 0.3, ema=True), "m", ours),
    "Nesterov": (lambda p: Nesterov(p, 0.3), "m", ours),
    "Nesterov EMA": (lambda p: Nesterov(p, 0.3, ema=True, weight_decay=0.2), "m", ours),
    "quasi-hyperbolic": (lambda p: GradientMethod(p, 0.3, momentum=Momentum(0.9, 0.7)), "m", ours),
    "SGD": (lambda p: SGD(p, 0.3, momentum=0.9, dampening=0.2, weight_decay=0.2), "m", ours),
    "RMSprop": (lambda p: RMSprop(p, weight_decay=0.2, **RMS_LR), "", plain),
    "Adam": (lambda p: Adam(p, **RMS_LR), "m", ours),
    "Adam L2": (lambda p: Adam(p, weight_decay=0.2, **RMS_LR), "m", ours),
    "Adam uncorrected": (lambda p: Adam(p, bias_correction=False, **RMS_LR), "m", ours),
    "AdamW": (lambda p: AdamW(p, weight_decay=0.2, **RMS_LR), "m", ours),
    "eps inside": (
        lambda p: GradientMethod(
            p,
            0.3,
            momentum=nesterov(0.9, ema=True),
            preconditioner=RMS(eps=1e-3, power=0.25, bias_correction=True, eps_inside_root=True),
            weight_decay=0.2,
        ),
        "m",
        ours,
    ),
    "FixedDiagonal": (
        lambda p: GradientMethod(
            p, 0.3, momentum=heavy_ball(0.9, ema=True), preconditioner=FixedDiagonal(DIAGONAL), weight_decay=0.2
        ),
        "m",
        ours,
    ),
    "torch SGD": (lambda p: TORCH.SGD(p, 0.3, weight_decay=0.2), "", plain),
    "torch SGD momentum": (lambda p: TORCH.SGD(p, 0.3, 0.9, weight_decay=0.2), "momentum_buffer", buffer),
    "torch SGD dampening": (lambda p: TORCH.SGD(p, 0.3, 0.9, 0.2), "momentum_buffer", buffer),
    "torch SGD nesterov": (
        lambda p: TORCH.SGD(p, 0.3, 0.9, weight_decay=0.2, nesterov=True),
        "momentum_buffer",
        nesterov_buffer,
    ),
    "torch RMSprop": (lambda p: TORCH.RMSprop(p, weight_decay=0.2, **RMS_LR), "", plain),
    "torch RMSprop centered": (lambda p: TORCH.RMSprop(p, centered=True, **RMS_LR), "", plain),
    "torch RMSprop momentum": (
        lambda p: TORCH.RMSprop(p, momentum=0.9, weight_decay=0.2, **RMS_LR),
        "momentum_buffer",
        buffer_after_the_preconditioner,
    ),
    "torch RMSprop all": (
        lambda p: TORCH.RMSprop(p, momentum=0.9, centered=True, **RMS_LR),
        "momentum_buffer",
        buffer_after_the_preconditioner,
    ),
    "torch Adam": (lambda p: TORCH.Adam(p, **RMS_LR), "exp_avg", average),
    "torch Adam L2": (lambda p: TORCH.Adam(p, weight_decay=0.2, **RMS_LR), "exp_avg", average),
    "torch Adam amsgrad": (
        lambda p: TORCH.Adam(p, betas=(0.9, 0.5), amsgrad=True, **RMS_LR),
        "exp_avg",
        average,
    ),
    "torch Adam decoupled": (
        lambda p: TORCH.Adam(p, weight_decay=0.2, decoupled_weight_decay=True, **RMS_LR),
        "exp_avg",
        average,
    ),
    "torch Adam for-loop": (lambda p: TORCH.Adam(p, foreach=False, **RMS_LR), "exp_avg", average),
    "torch Adam fused": (lambda p: TORCH.Adam(p, fused=True, **RMS_LR), "exp_avg", average),
    "torch AdamW": (lambda p: TORCH.AdamW(p, weight_decay=0.2, **RMS_LR), "exp_avg", average),
    "torch Adagrad": (lambda p: TORCH.Adagrad(p, 0.3, lr_decay=0.2, weight_decay=0.2, eps=1e-3), "", plain),
    "torch Adamax": (lambda p: TORCH.Adamax(p, weight_decay=0.2, **RMS_LR), "exp_avg", average),
    "torch RAdam": (lambda p: TORCH.RAdam(p, 3.0, weight_decay=0.2, eps=1e-3), "exp_avg", average),
    "torch RAdam decoupled": (
        lambda p: TORCH.RAdam(p, weight_decay=0.2, decoupled_weight_decay=True, betas=(0.9, 0.9), **RMS_LR),
        "exp_avg",
        average,
    ),
    "torch NAdam": (lambda p: TORCH.NAdam(p, weight_decay=0.2, **RMS_LR), "exp_avg", fresh_and_averaged),
    "torch NAdam decoupled": (
        lambda p: TORCH.NAdam(p, weight_decay=0.2, decoupled_weight_decay=True, **RMS_LR),
        "exp_avg",
        fresh_and_averaged,
    ),
    "torch Adafactor": (lambda p: TORCH.Adafactor(p, 0.3, weight_decay=0.2), "", plain),
    "torch Adafactor cut": (lambda p: TORCH.Adafactor(p, 0.3, beta2_decay=-2.0, foreach=False), "", plain),
    "torch Adafactor late": (lambda p: TORCH.Adafactor(p, 0.45, weight_decay=0.2, eps=(1e-3, 0.5)), "", plain),
    "AdaGrad": (lambda p: Adagrad(p, 0.3, weight_decay=0.2), "", plain),
    "AMSGrad": (lambda p: AMSGrad(p, beta2=0.5, **RMS_LR), "m", ours),
    "AMSGrad corrected": (lambda p: AMSGrad(p, beta2=0.5, bias_correction=True, **RMS_LR), "m", ours),
    "Padam": (lambda p: Padam(p, running_max=True, **RMS_LR), "m", ours),
    "NAdam": (lambda p: NAdam(p, **RMS_LR), "m", ours),
    "Adafactor": (lambda p: Adafactor(p, 0.3, weight_decay=0.2), "m", ours),
    "torch AdamW amsgrad": (
        lambda p: TORCH.AdamW(p, betas=(0.9, 0.5), weight_decay=0.2, amsgrad=True, **RMS_LR),
        "exp_avg",
        average,
    ),
}
every_step = pytest.mark.parametrize("name", STEPS)


@every_step
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_real_step_is_one_frozen_step_with_the_preconditioner_it_used(name, dtype, tolerance):
    make, momentum_name, direction = STEPS[name]
    ws = parameters(dtype)
    optimizer = warm(make(ws))
    for seed in range(2, 9):
        before = flat(ws)
        m = momentum_before(optimizer, ws, momentum_name)
        g = take(optimizer, ws, seed)
        frozen = freeze(optimizer)
        (group,) = frozen.groups
        d = direction(optimizer, ws, m, g)
        expected = group.lr * d / frozen.P.double() + group.lr * group.weight_decay * before
        torch.testing.assert_close(before - flat(ws), expected, rtol=0, atol=tolerance * expected.abs().max().item())


def test_a_real_step_with_a_dense_preconditioner_is_one_frozen_step():
    ws = parameters(shapes=((4,),))
    optimizer = warm(
        GradientMethod(ws, 0.3, momentum=nesterov(0.9, ema=True), preconditioner=FixedDense(DENSE), weight_decay=0.2)
    )
    before = flat(ws)
    g = take(optimizer, ws, 2)
    expected = 0.3 * torch.linalg.solve(freeze(optimizer).P, ours(optimizer, ws, None, g)) + 0.06 * before
    torch.testing.assert_close(before - flat(ws), expected, rtol=0, atol=1e-12)


# Each case: the optimizer, its rule, and the preconditioner after one step with the gradient g, by hand.
ONE_STEP = {
    "Adam": (lambda p: Adam(p), heavy_ball(0.9, ema=True), lambda g: 0.1 * (abs(g) + 1e-8)),
    "Adam uncorrected": (
        lambda p: Adam(p, bias_correction=False),
        heavy_ball(0.9, ema=True),
        lambda g: abs(g) * 0.001**0.5 + 1e-8,
    ),
    "AdamW": (lambda p: AdamW(p), heavy_ball(0.9, ema=True), lambda g: 0.1 * (abs(g) + 1e-8)),
    "RMSprop": (lambda p: RMSprop(p), none(), lambda g: 0.1 * abs(g) + 1e-8),
    "GD": (lambda p: GD(p, 0.1), none(), torch.ones_like),
    "FixedDiagonal": (
        lambda p: GradientMethod(p, 0.1, preconditioner=FixedDiagonal(DIAGONAL)),
        none(),
        lambda g: DIAGONAL,
    ),
    "torch Adam": (lambda p: TORCH.Adam(p), heavy_ball(0.9, ema=True), lambda g: 0.1 * (abs(g) + 1e-8)),
    "torch AdamW": (lambda p: TORCH.AdamW(p), heavy_ball(0.9, ema=True), lambda g: 0.1 * (abs(g) + 1e-8)),
    "torch Adam betas": (
        lambda p: TORCH.Adam(p, betas=(0.5, 0.9), eps=0.1),
        heavy_ball(0.5, ema=True),
        lambda g: 0.5 * (abs(g) + 0.1),
    ),
    "torch RMSprop": (
        lambda p: TORCH.RMSprop(p, momentum=0.9),
        heavy_ball(0.9, ema=False),
        lambda g: 0.1 * abs(g) + 1e-8,
    ),
    "torch RMSprop centered": (
        lambda p: TORCH.RMSprop(p, centered=True),
        none(),
        lambda g: abs(g) * (0.01 - 0.0001) ** 0.5 + 1e-8,
    ),
    "torch SGD": (lambda p: TORCH.SGD(p, 0.1), none(), torch.ones_like),
    "torch SGD momentum": (lambda p: TORCH.SGD(p, 0.1, 0.9), heavy_ball(0.9, ema=False), torch.ones_like),
    "torch SGD nesterov": (
        lambda p: TORCH.SGD(p, 0.1, 0.9, nesterov=True),
        nesterov(0.9, ema=False),
        torch.ones_like,
    ),
    "torch SGD dampening": (
        lambda p: TORCH.SGD(p, 0.1, 0.9, 0.3),
        Momentum(0.9, 1.0, 0.7 / (1 - 0.9)),
        torch.ones_like,
    ),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_after_one_step_the_frozen_method_is_what_the_papers_say(name):
    make, momentum, preconditioner = ONE_STEP[name]
    optimizer = warm(make(parameters()))
    frozen = freeze(optimizer)
    (group,) = frozen.groups
    assert (frozen.status, frozen.reason) == ("linear", "")
    assert (group.momentum.beta, group.momentum.discount) == (momentum.beta, momentum.discount)
    assert group.momentum.gain == pytest.approx(momentum.gain, rel=1e-14)
    assert (group.lr, group.size) == (optimizer.param_groups[0]["lr"], 11)
    g = flat(gradients(1, torch.float64, SHAPES))
    torch.testing.assert_close(frozen.P, preconditioner(g), rtol=1e-12, atol=0)
    assert frozen.stability_threshold() == frozen.shared_threshold == group.threshold
    assert group.threshold == pytest.approx(momentum.stability_threshold(group.lr, group.weight_decay), rel=1e-13)


PAIRS = {
    "SGD": (lambda p: SGD(p, 0.1, 0.9, weight_decay=0.2), lambda p: TORCH.SGD(p, 0.1, 0.9, weight_decay=0.2)),
    "RMSprop": (lambda p: RMSprop(p, weight_decay=0.2), lambda p: TORCH.RMSprop(p, weight_decay=0.2)),
    "Adam": (lambda p: Adam(p, weight_decay=0.2), lambda p: TORCH.Adam(p, weight_decay=0.2)),
    "AdamW": (lambda p: AdamW(p, weight_decay=0.2), lambda p: TORCH.AdamW(p, weight_decay=0.2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_preset_and_torchs_class_freeze_to_the_same_method(name):
    first, second = (freeze(warm(make(parameters()), 7)) for make in PAIRS[name])
    assert first.groups == second.groups
    torch.testing.assert_close(first.P, second.P, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.D, second.D, rtol=1e-12, atol=0)
    assert first.shift == second.shift


ADAPTIVE = {
    "Adam": lambda p: Adam(p),
    "AdamW": lambda p: AdamW(p),
    "RMSprop": lambda p: RMSprop(p),
    "torch Adam": lambda p: TORCH.Adam(p),
    "torch Adam amsgrad": lambda p: TORCH.Adam(p, amsgrad=True),
    "torch AdamW": lambda p: TORCH.AdamW(p),
    "torch RMSprop": lambda p: TORCH.RMSprop(p),
}


@pytest.mark.parametrize("make", ADAPTIVE.values(), ids=ADAPTIVE)
def test_an_adaptive_method_has_no_edge_before_its_first_step_and_says_what_to_do(make):
    frozen = freeze(make(parameters()))
    assert frozen.status == "not_stepped"
    assert "call optimizer.step() once" in frozen.reason
    assert frozen.P is frozen.D is None
    with pytest.raises(UnsupportedOptimizerError, match="before its first step"):
        frozen.half_scaling()


@pytest.mark.parametrize("make", ADAPTIVE.values(), ids=ADAPTIVE)
def test_an_adaptive_method_knows_its_threshold_before_its_first_step(make):
    optimizer = make(parameters())
    before = freeze(optimizer)
    after = freeze(warm(optimizer))
    assert before.groups == after.groups
    assert before.stability_threshold() == before.shared_threshold == after.stability_threshold()


def test_a_mix_of_fixed_and_adaptive_groups_has_no_edge_before_its_first_step():
    first, second, third = parameters()
    groups = [{"params": [first, second]}, {"params": [third], "preconditioner": RMS()}]
    assert freeze(GradientMethod(groups, 0.1)).status == "not_stepped"


NOT_ADAPTIVE = {
    "torch SGD": (lambda p: TORCH.SGD(p, 0.1, 0.9), 38.0),
    "GD": (lambda p: GD(p, 0.1), 20.0),
    "SGD": (lambda p: SGD(p, 0.1, 0.9), 38.0),
    "HeavyBall": (lambda p: HeavyBall(p, 0.1, ema=True), 380.0),
    "FixedDiagonal": (lambda p: GradientMethod(p, 0.1, preconditioner=FixedDiagonal(DIAGONAL)), 20.0),
}


@pytest.mark.parametrize("name", NOT_ADAPTIVE)
def test_a_method_that_does_not_adapt_has_its_edge_before_its_first_step(name):
    make, threshold = NOT_ADAPTIVE[name]
    ws = parameters()
    optimizer = make(ws)
    frozen = freeze(optimizer)
    assert frozen.stability_threshold() == pytest.approx(threshold, rel=1e-12)
    later = freeze(warm(optimizer))
    assert torch.equal(frozen.D, later.D)
    assert torch.equal(frozen.P, later.P)


@pytest.mark.parametrize("num_steps", [0, 3])
@every_step
def test_freezing_leaves_no_trace_in_the_optimizer(name, num_steps):
    optimizer = warm(STEPS[name][0](parameters()), num_steps)
    before = copy.deepcopy(optimizer.state_dict())
    freeze(optimizer)
    after = optimizer.state_dict()
    assert repr(after["param_groups"]) == repr(before["param_groups"])
    assert after["state"].keys() == before["state"].keys()
    for key, was in before["state"].items():
        torch.testing.assert_close(after["state"][key], was, rtol=0, atol=0)


@every_step
def test_what_was_frozen_does_not_move_when_the_optimizer_goes_on(name):
    ws = parameters(shapes=((11,),))
    optimizer = warm(STEPS[name][0](ws), 3)
    frozen = freeze(optimizer)
    P, D = frozen.P.clone(), frozen.D.clone()
    take(optimizer, ws, 4)
    assert torch.equal(frozen.P, P)
    assert torch.equal(frozen.D, D)


class Homemade(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


class Elsewhere:
    """An optimizer of a known name that follows another rule."""

    class SGD(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})


REFUSED = {
    "Homemade": Homemade,
    "SGD": Elsewhere.SGD,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_without_a_known_method_has_no_threshold_and_is_named(name):
    frozen = freeze(REFUSED[name](parameters()))
    assert frozen.status == "no_threshold"
    assert name in frozen.reason
    assert "was probed and has no frozen method" in frozen.reason
    assert frozen.shared_threshold is None
    assert len(frozen.parameters) == 3
    with pytest.raises(UnsupportedOptimizerError, match=name):
        frozen.stability_threshold()
    with pytest.raises(UnsupportedOptimizerError, match=name):
        frozen.half_scaling()


class Renamed(TORCH.Adam):
    pass


class RenamedTwice(Renamed):
    pass


class RenamedAdamW(TORCH.AdamW):
    pass


@pytest.mark.parametrize(
    ("kind", "parent"), [(Renamed, TORCH.Adam), (RenamedTwice, TORCH.Adam), (RenamedAdamW, TORCH.AdamW)]
)
def test_a_subclass_is_read_as_its_parent(kind, parent):
    own, parents = (freeze(warm(make(parameters(), weight_decay=0.1), 3)) for make in (kind, parent))
    assert own.groups == parents.groups
    assert torch.equal(own.D, parents.D)


@pytest.mark.parametrize("kind", [TORCH.SGD, TORCH.RMSprop, TORCH.Adam, TORCH.AdamW])
def test_an_ascent_is_refused(kind):
    frozen = freeze(warm(kind(parameters(), lr=0.1, maximize=True)))
    assert frozen.status == "no_threshold"
    assert "maximize" in frozen.reason


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": 1.5}, {"momentum": 0.9, "dampening": 1.0}])
def test_a_momentum_that_forgets_nothing_or_hears_nothing_has_no_threshold(options):
    frozen = freeze(warm(TORCH.SGD(parameters(), 0.1, **options)))
    assert frozen.status == "no_threshold"
    assert frozen.reason


@pytest.mark.parametrize("make", [AdamW, TORCH.AdamW])
def test_decay_that_diverges_by_itself_has_no_threshold(make):
    frozen = freeze(warm(make(parameters(), lr=0.1, weight_decay=20.0)))
    assert frozen.status == "no_threshold"
    assert "lr * weight_decay must be below 2" in frozen.reason


@pytest.mark.parametrize("make", [AdamW, TORCH.AdamW, TORCH.SGD, Adam])
def test_a_learning_rate_of_zero_has_no_edge_to_reach(make):
    frozen = freeze(warm(make(parameters(), lr=0.0)))
    assert torch.equal(frozen.D, torch.zeros(11, dtype=torch.float64))
    assert frozen.stability_threshold() == float("inf")


@pytest.mark.parametrize("make", [lambda p: GD(p, 0.1), lambda p: TORCH.Adam(p, 0.1), lambda p: AdamW(p, 0.1)])
def test_groups_with_different_rates_have_no_shared_threshold_and_each_is_named(make):
    first, second, third = parameters()
    optimizer = warm(make([{"params": [first, second]}, {"params": [third], "lr": 0.4}]))
    frozen = freeze(optimizer)
    assert frozen.status == "linear"
    assert frozen.shared_threshold is None
    assert [group.size for group in frozen.groups] == [7, 4]
    each = [f"group {i}: {group.threshold:.6g}" for i, group in enumerate(frozen.groups)]
    with pytest.raises(UnsupportedOptimizerError) as error:
        frozen.stability_threshold()
    assert all(text in str(error.value) for text in each)
    assert "\n" not in str(error.value)


def test_groups_with_one_threshold_share_it():
    first, second, third = parameters()
    optimizer = TORCH.Adam([{"params": [first, second]}, {"params": [third], "eps": 1e-3}], 0.1)
    assert freeze(warm(optimizer)).stability_threshold() == pytest.approx(380, rel=1e-12)


@pytest.mark.parametrize("make", [TORCH.SGD, TORCH.Adam, GD, Adam])
def test_a_parameter_that_requires_no_gradient_is_left_out(make):
    first, second, third = parameters()
    second.requires_grad_(False)
    optimizer = make([first, second, third], lr=0.1)
    for w in (first, third):
        w.grad = torch.ones_like(w)
    optimizer.step()
    frozen = freeze(optimizer)
    assert [w is v for w, v in zip(frozen.parameters, (first, third), strict=True)] == [True, True]
    assert frozen.groups[0].size == frozen.P.numel() == frozen.D.numel() == 10


@pytest.mark.parametrize("make", [TORCH.SGD, TORCH.AdamW, GD])
def test_a_group_that_requires_no_gradient_has_no_say_in_the_threshold(make):
    first, second, third = parameters()
    third.requires_grad_(False)
    optimizer = make([{"params": [first, second]}, {"params": [third], "lr": 0.5}], lr=0.1)
    for w in (first, second):
        w.grad = torch.ones_like(w)
    optimizer.step()
    frozen = freeze(optimizer)
    assert frozen.stability_threshold() == frozen.groups[0].threshold


@pytest.mark.parametrize("make", [TORCH.Adam, TORCH.RMSprop, Adam, RMSprop])
def test_a_parameter_that_an_adaptive_method_has_not_moved_yet_has_no_edge_scaling(make):
    first, second, third = parameters()
    optimizer = make([first, second, third], lr=0.1)
    for w in (first, third):
        w.grad = torch.ones_like(w)
    optimizer.step()
    D = freeze(optimizer).D
    assert D[6] == 0
    assert (D[:6] > 0).all()
    assert (D[7:] > 0).all()


@pytest.mark.parametrize(
    ("make", "shift"),
    [
        (lambda p: TORCH.SGD(p, 0.1, weight_decay=0.2), 0.2),
        (lambda p: TORCH.RMSprop(p, 0.1, weight_decay=0.2), 0.2),
        (lambda p: TORCH.Adam(p, 0.1, weight_decay=0.2), 0.2),
        (lambda p: TORCH.Adam(p, 0.1, weight_decay=0.2, decoupled_weight_decay=True), 0.0),
        (lambda p: TORCH.AdamW(p, 0.1, weight_decay=0.2), 0.0),
        (lambda p: SGD(p, 0.1, weight_decay=0.2), 0.2),
        (lambda p: Adam(p, 0.1, weight_decay=0.2), 0.2),
        (lambda p: AdamW(p, 0.1, weight_decay=0.2), 0.0),
        (lambda p: GD(p, 0.1, weight_decay=0.2), 0.0),
    ],
)
def test_coupled_decay_shifts_the_hessian_and_decoupled_decay_the_threshold(make, shift):
    frozen = freeze(warm(make(parameters())))
    (group,) = frozen.groups
    assert frozen.shift == group.coupled_decay == shift
    assert group.weight_decay == 0.2 - shift
    expected = (2 - 0.1 * (0.2 - shift)) / (0.1 * group.momentum.transfer(-1))
    assert group.threshold == pytest.approx(expected, rel=1e-12)


def test_groups_with_different_coupled_decay_have_one_shift_an_element():
    first, second, third = parameters()
    optimizer = TORCH.SGD([{"params": [first, second], "weight_decay": 0.2}, {"params": [third]}], 0.1)
    expected = torch.tensor([0.2] * 7 + [0.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(freeze(optimizer).shift, expected, rtol=0, atol=0)


def mixed(ws):
    """Two groups that differ in everything."""
    return GradientMethod(
        [
            {"params": ws[:2], "lr": 0.4, "momentum": nesterov(0.9, ema=True), "weight_decay": 1.5},
            {"params": ws[2:], "preconditioner": RMS(beta=0.9, bias_correction=True), "weight_decay": 3.0},
        ],
        lr=0.02,
        momentum=heavy_ball(0.7, ema=False),
        preconditioner=FixedDiagonal(DIAGONAL[:7]),
    )


@pytest.mark.parametrize("make", [mixed, *(make for make, *_ in STEPS.values())])
def test_the_edge_scaling_is_its_definition_element_by_element(make):
    frozen = freeze(warm(make(parameters()), 3))
    scale = [g.lr * g.momentum.transfer(-1) / (2 - g.lr * g.weight_decay) for g in frozen.groups]
    expected = torch.tensor(np.repeat(scale, [group.size for group in frozen.groups]))
    torch.testing.assert_close(frozen.D * frozen.P, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(frozen.half_scaling() ** 2, frozen.D, rtol=1e-14, atol=0)


def test_half_of_a_dense_edge_scaling_times_its_transpose_is_the_whole():
    optimizer = GradientMethod(
        parameters(shapes=((4,),)),
        0.3,
        momentum=heavy_ball(0.9, ema=True),
        preconditioner=FixedDense(DENSE),
        weight_decay=0.5,
    )
    frozen = freeze(warm(optimizer))
    L = frozen.half_scaling()
    torch.testing.assert_close(L @ L.T, frozen.D, rtol=1e-13, atol=1e-15)
    expected = 0.3 * (0.1 / 1.9) / (2 - 0.15) * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(frozen.P @ frozen.D, expected, rtol=1e-12, atol=1e-15)


def test_a_dense_group_beside_another_is_joined_or_refused_with_a_reason():
    first, second = parameters(shapes=((4,), (3,)))
    groups = [{"params": [first], "preconditioner": FixedDense(DENSE)}, {"params": [second]}]
    frozen = freeze(warm(GradientMethod(groups, 0.1)))
    assert (frozen.status == "no_threshold" and frozen.reason) or frozen.P.shape == (7, 7)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_an_edge_scaling_is_at_least_single_precision(dtype, expected):
    for make in (TORCH.SGD, TORCH.Adam):
        frozen = freeze(warm(make(parameters(dtype), lr=0.1, weight_decay=0.1)))
        assert frozen.P.dtype == frozen.D.dtype == expected


def test_a_schedule_changes_the_edge_with_the_rate():
    optimizer = TORCH.SGD(parameters(), 0.1)
    schedule = TORCH.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    warm(optimizer)
    assert freeze(optimizer).stability_threshold() == pytest.approx(20)
    schedule.step()
    assert freeze(optimizer).stability_threshold() == pytest.approx(40)


def test_a_frozen_preconditioner_is_read_as_the_step_it_was_frozen_at():
    ws = parameters()
    optimizer = warm(Adam(ws), 3)
    P = freeze(optimizer).P
    optimizer.freeze_preconditioner()
    take(optimizer, ws, 4)
    assert torch.equal(freeze(optimizer).P, P)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_an_edge_scaling_without_a_real_root_has_no_half(shape, value):
    D = torch.ones(3, dtype=torch.float64)
    D[1] = value
    frozen = replace(freeze(TORCH.SGD(parameters(), 0.1)), D=D if shape == (3,) else torch.diag(D))
    with pytest.raises(UnsupportedOptimizerError, match="D must be finite and nonnegative, to have a root; got"):
        frozen.half_scaling()


def test_an_edge_scaling_with_zeros_has_a_half_dense_or_not():
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    singular = Q @ torch.diag(torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)) @ Q.T
    for D in (singular, torch.zeros(3, 3, dtype=torch.float64)):
        L = replace(freeze(TORCH.SGD(parameters(), 0.1)), D=D).half_scaling()
        torch.testing.assert_close(L @ L.T, D, rtol=1e-12, atol=1e-14)
    still = replace(freeze(TORCH.SGD(parameters(), 0.1)), D=torch.tensor([4.0, 0.0]))
    assert still.half_scaling().tolist() == [2.0, 0.0]
