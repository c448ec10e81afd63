"""What freeze does with optimizers it does not own: wrapped, registered, probed, loaded wrongly; held at the edge."""

import copy
import importlib.util
import random

import numpy as np
import pytest
import torch

from tests.reference.held import fill, flat, growth, parameters, warmed
from tightrope.errors import ConfigError, UnsupportedOptimizerError
from tightrope.optim import SAM, Momentum, NAdam, Reading, freeze, heavy_ball, register_reader
from tightrope.optim.freezing.readers import READERS

TORCH = torch.optim
LONG = {"betas": (0.9, 0.9999)}
BUFFER, AVERAGE = {"momentum_buffer"}, {"exp_avg"}


def two(ws, first, second):
    return [{"params": ws[:1], **first}, {"params": ws[1:], **second}]


# Each case: the torch optimizer, and its momenta.
EDGES = {
    "SGD": (lambda p: TORCH.SGD(p, 0.1), BUFFER),
    "SGD momentum": (lambda p: TORCH.SGD(p, 0.1, 0.9, weight_decay=0.1), BUFFER),
    "SGD dampening": (lambda p: TORCH.SGD(p, 0.1, 0.9, dampening=0.4), BUFFER),
    "SGD Nesterov": (lambda p: TORCH.SGD(p, 0.1, 0.9, nesterov=True), BUFFER),
    "SGD groups": (
        lambda p: TORCH.SGD(
            two(p, {"lr": 0.5, "momentum": 0.5}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}), 0.1
        ),
        BUFFER,
    ),
    "RMSprop": (lambda p: TORCH.RMSprop(p, alpha=0.9999), BUFFER),
    "RMSprop momentum": (lambda p: TORCH.RMSprop(p, alpha=0.9999, momentum=0.9), BUFFER),
    "RMSprop centered": (lambda p: TORCH.RMSprop(p, alpha=0.9999, centered=True, momentum=0.9), BUFFER),
    "RMSprop groups": (
        lambda p: TORCH.RMSprop(two(p, {"momentum": 0.9, "lr": 0.1}, {"centered": True}), alpha=0.9999),
        BUFFER,
    ),
    "Adagrad": (lambda p: TORCH.Adagrad(p, 0.1, lr_decay=0.1), set()),
    "Adam": (lambda p: TORCH.Adam(p, weight_decay=0.1, **LONG), AVERAGE),
    "Adam amsgrad": (lambda p: TORCH.Adam(p, amsgrad=True, **LONG), AVERAGE),
    "AdamW": (lambda p: TORCH.AdamW(p, weight_decay=0.1, **LONG), AVERAGE),
    "AdamW amsgrad": (lambda p: TORCH.AdamW(p, amsgrad=True, **LONG), AVERAGE),
    "AdamW groups": (
        lambda p: TORCH.AdamW(two(p, {"lr": 0.1, "weight_decay": 5.0}, {"betas": (0.5, 0.9999)}), **LONG),
        AVERAGE,
    ),
    "Adamax": (lambda p: TORCH.Adamax(p, **LONG), AVERAGE),
    "RAdam": (lambda p: TORCH.RAdam(p, weight_decay=0.1, decoupled_weight_decay=True, **LONG), AVERAGE),
    "NAdam": (lambda p: TORCH.NAdam(p, **LONG), AVERAGE),
    "NAdam groups": (
        lambda p: TORCH.NAdam(two(p, {"lr": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}), **LONG),
        AVERAGE,
    ),
    # The floor of the weights' size above their size: else it is another step at the tiny weights of the test.
    "Adafactor": (lambda p: TORCH.Adafactor(p, 0.01, beta2_decay=-3.0, eps=(None, 10.0), d=100.0), set()),
    "Adafactor groups": (
        lambda p: TORCH.Adafactor(
            two(p, {"lr": 0.1}, {"weight_decay": 5.0}), 0.01, beta2_decay=-3.0, eps=(None, 10.0), d=100.0
        ),
        set(),
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_the_running_torch_optimizer_converges_below_its_edge_and_diverges_above(name):
    make, momenta = EDGES[name]
    ws = parameters()
    optimizer = warmed(make(ws), ws)
    frozen = freeze(optimizer)
    assert growth(optimizer, ws, frozen, momenta, 0.99) < 1e-2
    assert growth(optimizer, ws, frozen, momenta, 1.01) > 1e3


def wrapper(name, module, base=object):
    """A stand-in with the attributes of the real one."""
    kind = type(
        name, (base,), {"__module__": module, "__init__": lambda self, inner: vars(self).update(optimizer=inner)}
    )
    return kind


@pytest.mark.parametrize(
    "kind",
    [
        wrapper("AcceleratedOptimizer", "accelerate.optimizer", TORCH.Optimizer),
        wrapper("LightningOptimizer", "lightning.pytorch.core.optimizer"),
        wrapper("LightningOptimizer", "pytorch_lightning.core.optimizer"),
        wrapper("_FabricOptimizer", "lightning.fabric.wrappers"),
    ],
)
def test_a_wrapper_that_keeps_the_steps_is_looked_through(kind):
    ws = parameters()
    optimizer = warmed(TORCH.AdamW(ws), ws)
    frozen = freeze(kind(kind(optimizer)))
    assert torch.equal(frozen.D, freeze(optimizer).D)
    assert frozen.groups == freeze(optimizer).groups


def test_the_optimizer_accelerate_prepares_is_looked_through():
    accelerate = pytest.importorskip("accelerate")
    ws = parameters()
    optimizer = warmed(TORCH.AdamW(ws), ws)
    wrapped = accelerate.Accelerator(cpu=True).prepare(optimizer)
    assert torch.equal(freeze(wrapped).D, freeze(optimizer).D)


def test_the_optimizers_of_lightning_are_looked_through():
    pytest.importorskip("lightning")
    from lightning.fabric import Fabric
    from lightning.pytorch.core.optimizer import LightningOptimizer

    ws = parameters()
    optimizer = warmed(TORCH.AdamW(ws), ws)
    assert torch.equal(freeze(LightningOptimizer(optimizer)).D, freeze(optimizer).D)
    fabric = Fabric(accelerator="cpu", devices=1)
    assert torch.equal(freeze(fabric.setup_optimizers(optimizer)).D, freeze(optimizer).D)


@pytest.mark.parametrize("base", [object, TORCH.Optimizer])
def test_an_unknown_wrapper_is_refused_and_names_what_it_wraps(base):
    kind = wrapper("SAM", "elsewhere", base)
    if base is TORCH.Optimizer:
        kind.param_groups = property(lambda self: self.optimizer.param_groups)
    frozen = freeze(kind(TORCH.SGD(parameters(), 0.1)))
    assert frozen.status == "no_threshold"
    assert "SAM wraps SGD" in frozen.reason


class Halving(TORCH.Optimizer):
    """m <- (m + g) / 2, v <- 0.999 v + 0.001 g^2, w <- w - lr m / (3 sqrt(v)), and either kind of decay."""

    def __init__(self, params, lr=0.1, coupled=0.0, decoupled=0.0):
        TORCH.Optimizer.__init__(self, params, {"lr": lr, "coupled": coupled, "decoupled": decoupled})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                state = self.state[w]
                m = state.setdefault("m", torch.zeros_like(w))
                v = state.setdefault("v", torch.zeros_like(w))
                g = w.grad + group["coupled"] * w
                m.add_(g).div_(2)
                v.mul_(0.999).add_(0.001 * g * g)
                w.mul_(1 - group["lr"] * group["decoupled"]).sub_(group["lr"] * self.shape(m / (3 * v.sqrt())))

    def shape(self, step):
        return step


class Signed(Halving):
    def shape(self, step):
        return step.sign()


class Clipped(Halving):
    def shape(self, step):
        return step.clamp(-0.3, 0.3)


class Mixing(Halving):
    def shape(self, step):
        return step + 0.1 * step.mean()


class Noisy(Halving):
    def shape(self, step):
        return step + torch.randn_like(step)


class Dropping(Halving):
    def shape(self, step):
        return step * (torch.rand_like(step) < 0.9)


class Cautious(Halving):
    """Only steps where average and gradient agree: linear in either of the two."""

    def shape(self, step):
        signs = [w.grad.sign() for w in self.param_groups[0]["params"] if w.shape == step.shape]
        return step * (signs[0] * step >= 0)


class Restless(Halving):
    """Draws from every generator and uses nothing of it."""

    def shape(self, step):
        torch.rand(1), random.random(), np.random.rand()
        return step


class Climbing(Halving):
    def shape(self, step):
        return -step


@pytest.mark.parametrize(("coupled", "decoupled"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_probing_finds_momentum_preconditioner_and_decay(dtype, coupled, decoupled):
    ws = parameters(dtype)
    optimizer = warmed(Halving(ws, 0.1, coupled, decoupled), ws)
    for _ in range(2):  # anew, and from what was found
        frozen = freeze(optimizer)
        assert frozen.status == "linear", frozen.reason
        (group,) = frozen.groups
        assert (group.momentum.beta, group.momentum.discount) == pytest.approx((0.5, 1.0), rel=1e-9)
        found = (group.coupled_decay, group.weight_decay)
        assert found == pytest.approx((coupled, decoupled), rel=1e-6, abs=1e-9)
        P = torch.cat([3 * optimizer.state[w]["v"].sqrt().reshape(-1) for w in ws])
        torch.testing.assert_close(frozen.P, P, rtol=1e-6, atol=0)
        warmed(optimizer, ws, 20)


def test_probing_gives_each_group_its_own_method():
    ws = parameters()
    optimizer = warmed(Halving(two(ws, {"lr": 0.3, "decoupled": 1.0}, {"coupled": 0.2})), ws)
    first, second = freeze(optimizer).groups
    assert (first.lr, first.size, first.weight_decay) == pytest.approx((0.3, 12, 1.0))
    assert (second.lr, second.size, second.coupled_decay) == pytest.approx((0.1, 5, 0.2))
    assert growth(optimizer, ws, freeze(optimizer), {"m"}, 0.99) < 1e-2
    assert growth(optimizer, ws, freeze(optimizer), {"m"}, 1.01) > 1e3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Signed, "not linear"),
        (Clipped, "not linear"),
        (Mixing, "not linear"),
        (Noisy, "does not flip"),
        (Dropping, "not linear"),
        (Cautious, "not linear"),
        (Climbing, "does not go down the gradient"),
    ],
)
def test_probing_refuses_what_is_not_linear_element_by_element(kind, reason):
    ws = parameters()
    frozen = freeze(warmed(kind(ws), ws))
    assert frozen.status == "no_threshold"
    assert kind.__name__ in frozen.reason
    assert reason in frozen.reason


def test_a_probed_optimizer_that_has_not_stepped_says_what_to_do():
    frozen = freeze(Halving(parameters()))
    assert frozen.status == "not_stepped"
    assert "call optimizer.step() once" in frozen.reason


def test_a_learning_rate_of_zero_is_refused_until_it_is_positive():
    ws = parameters()
    optimizer = warmed(Halving(ws), ws)
    optimizer.param_groups[0]["lr"] = 0.0
    assert "its learning rate is 0" in freeze(optimizer).reason
    optimizer.param_groups[0]["lr"] = 0.1
    assert freeze(optimizer).status == "linear"


def test_probing_leaves_no_trace():
    ws = parameters(torch.float32)
    optimizer = warmed(Restless(ws), ws)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    schedule = TORCH.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    state, before = copy.deepcopy(optimizer.state_dict()), [w.detach().clone() for w in ws]
    grads, ids = [w.grad.clone() for w in ws], [id(w.grad) for w in ws]
    versions = [w._version for w in ws]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    count = schedule.last_epoch
    assert freeze(optimizer).status == "linear"
    assert freeze(optimizer).status == "linear"
    assert (calls, schedule.last_epoch) == ([], count)
    assert [id(w.grad) for w in ws] == ids
    assert [w._version for w in ws] == versions
    assert all(torch.equal(w, was) and torch.equal(w.grad, g) for w, was, g in zip(ws, before, grads, strict=True))
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for key, was in state["state"].items():
        assert all(torch.equal(after["state"][key][name], value) for name, value in was.items())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])


def test_a_later_probe_takes_few_steps_and_a_refusal_none(monkeypatch):
    counts = {}
    for kind in (Halving, Signed):
        ws = [*parameters(), torch.nn.Parameter(torch.ones(9, dtype=torch.float64))]
        optimizer, sizes = kind(ws), []
        for w in ws:
            w.grad = w.detach() + 1
        optimizer.step()
        step = kind.step
        monkeypatch.setattr(
            kind,
            "step",
            lambda self, step=step, sizes=sizes: (sizes.append(len(self.param_groups[0]["params"])), step(self))[1],
        )
        freeze(optimizer)
        first = sizes.copy()
        freeze(optimizer)
        counts[kind] = first.count(3), first.count(2), len(sizes) - len(first)
    whole, thin, later = counts[Halving]
    assert whole <= 100
    assert 384 <= thin <= 1000
    assert later <= 9
    assert counts[Signed][1:] == (0, 0)


def test_a_changed_hyperparameter_is_seen_after_a_probe():
    ws = parameters()
    optimizer = warmed(Halving(ws), ws)
    before = freeze(optimizer)
    optimizer.param_groups[0].update(lr=0.2, decoupled=1.0)
    (group,) = freeze(optimizer).groups
    assert before.groups[0].weight_decay == 0
    assert (group.lr, group.weight_decay) == pytest.approx((0.2, 1.0))


@pytest.fixture
def registry(monkeypatch):
    for key in list(READERS):
        monkeypatch.setitem(READERS, key, READERS[key])
    known = set(READERS)
    yield
    for key in set(READERS) - known:
        del READERS[key]


def read_signed(optimizer, group):
    return Reading(heavy_ball(0.5, ema=True), diagonal=lambda w: torch.full_like(w, 7.0), weight_decay=0.25)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("key", [Signed, "tests.Signed"])
def test_a_registered_reader_is_asked_instead_of_probing(key):
    ws = parameters()
    optimizer = warmed(Signed(ws), ws)
    register_reader(key, read_signed)
    frozen = freeze(optimizer)
    assert (frozen.status, frozen.groups[0].momentum) == ("linear", Momentum(0.5))
    assert frozen.shift == 0.25
    assert (frozen.P == 7).all()


@pytest.mark.parametrize("key", ["Signed", "a.b.C", ".C", ""])
def test_a_reader_needs_the_name_of_package_and_class(key):
    with pytest.raises(ConfigError, match=r'must be "package.Class"'):
        register_reader(key, read_signed)


class OwnSteps(TORCH.Adam):
    @torch.no_grad()
    def step(self, closure=None):
        TORCH.Adam.step(self, closure)
        for w in self.param_groups[0]["params"]:
            w.copy_(w.sign() * w.abs().clamp(max=1e-3))


def test_a_subclass_with_steps_of_its_own_is_probed_not_read():
    ws = parameters()
    frozen = freeze(warmed(OwnSteps(ws), ws))
    assert frozen.status == "no_threshold"
    assert "OwnSteps was probed" in frozen.reason


def test_probing_calls_no_hook_even_where_a_step_calls_torchs_own():
    ws = parameters()
    optimizer = warmed(OwnSteps(ws), ws)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    freeze(optimizer)
    assert calls == []


def test_adafactor_without_the_gradients_of_its_step_says_when_to_measure():
    ws = parameters()
    optimizer = warmed(TORCH.Adafactor(ws), ws)
    optimizer.zero_grad()
    frozen = freeze(optimizer)
    assert frozen.status == "not_stepped"
    assert "before zero_grad()" in frozen.reason


LOADED = {
    "SGD from Adam": (lambda p: TORCH.SGD(p, 0.1), lambda p: TORCH.Adam(p)),
    "Adam from RMSprop": (lambda p: TORCH.Adam(p), lambda p: TORCH.RMSprop(p)),
    "RMSprop from Adam": (lambda p: TORCH.RMSprop(p), lambda p: TORCH.Adam(p)),
    "Adafactor from AdamW": (lambda p: TORCH.Adafactor(p), lambda p: TORCH.AdamW(p)),
}


@pytest.mark.parametrize("name", LOADED)
def test_the_state_of_another_optimizer_is_named_and_what_to_do(name):
    make, other = LOADED[name]
    first, second = parameters(), parameters()
    optimizer = make(first)
    optimizer.load_state_dict(warmed(other(second), second).state_dict())
    frozen = freeze(optimizer)
    assert frozen.status == "no_threshold"
    assert f"of the same {type(optimizer).__name__}" in frozen.reason
    assert "\n" not in frozen.reason


def broken(change):
    ws = parameters()
    optimizer = warmed(TORCH.AdamW(ws), ws)
    change(optimizer, optimizer.state[ws[0]])
    return freeze(optimizer)


BROKEN = {
    "half a state": (lambda optimizer, state: state.pop("exp_avg_sq"), "must hold exp_avg_sq"),
    "amsgrad added": (lambda optimizer, state: optimizer.param_groups[0].update(amsgrad=True), "max_exp_avg_sq"),
    "another shape": (lambda optimizer, state: state.update(exp_avg_sq=torch.ones(2)), "shape (4, 3); got (2,)"),
    "NaN": (lambda optimizer, state: state["exp_avg_sq"].fill_(float("nan")), "NaN or infinity"),
    "zero": (
        lambda optimizer, state: (state["exp_avg_sq"].zero_(), optimizer.param_groups[0].update(eps=0.0)),
        "eps above 0",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_state_has_no_edge_and_says_what_to_do(name):
    change, words = BROKEN[name]
    frozen = broken(change)
    assert frozen.status == "no_threshold"
    assert words in frozen.reason
    assert "\n" not in frozen.reason


def test_a_gradient_that_is_not_finite_leaves_no_edge():
    ws = parameters()
    optimizer = warmed(TORCH.AdamW(ws), ws)
    ws[0].grad[0, 0] = float("nan")
    optimizer.step()
    assert "NaN or infinity" in freeze(optimizer).reason


@pytest.mark.parametrize("make", [TORCH.AdamW, Halving])
def test_a_parameter_without_a_gradient_does_not_move_and_has_no_edge_scaling(make):
    ws = parameters()
    optimizer = make(ws)
    for seed in range(3):
        ws[0].grad = torch.full_like(ws[0], 1.0 + seed)
        optimizer.step()
    D = freeze(optimizer).D
    assert (D[:12] > 0).all()
    assert (D[12:] == 0).all()


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_parameter_given_twice_is_named():
    (w, _) = parameters()
    frozen = freeze(TORCH.SGD([w, w], 0.1))
    assert "pass each parameter once" in frozen.reason


def test_complex_parameters_are_refused_with_the_way_out():
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    assert "torch.view_as_real" in freeze(TORCH.SGD([w], 0.1)).reason


def test_parameters_that_are_no_floats_cannot_move_and_are_left_out():
    counts = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    ws = parameters()
    frozen = freeze(TORCH.SGD([counts, *ws], 0.1))
    assert frozen.D.numel() == flat(ws).numel()


def test_sparse_gradients_of_an_adaptive_method_are_refused():
    w = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = TORCH.SparseAdam([w])
    w.grad = torch.ones(4, 2).to_sparse()
    optimizer.step()
    assert "touched rows only" in freeze(optimizer).reason


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(UnsupportedOptimizerError, match="needs a torch optimizer; got int"):
        freeze(3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accelerate", "lightning"])
def test_the_slow_suite_has_every_integration_installed(name):
    assert importlib.util.find_spec(name), f"{name} is missing: `make slow` installs it"


def test_a_parameter_that_joined_later_has_the_momentum_of_its_own_step():
    for make in (lambda p: TORCH.NAdam(p), lambda p: NAdam(p, lr=2e-3, momentum_decay=4e-3)):
        ws = parameters()
        optimizer = make(ws)
        for t in range(300):
            ws[0].grad, ws[1].grad = torch.ones_like(ws[0]), torch.ones_like(ws[1]) if t >= 298 else None
            optimizer.step()
        frozen = freeze(optimizer)
        alone = []
        for w in ws:
            single = make([w])
            single.state[w] = optimizer.state[w]
            alone.append(freeze(single))
        assert [group.size for group in frozen.groups] == [12, 5]
        assert frozen.groups[0].threshold > 1.2 * frozen.groups[1].threshold
        assert torch.equal(frozen.D, torch.cat([each.D for each in alone]))


def test_a_parameter_without_a_step_does_not_split_its_group():
    ws = parameters()
    optimizer = TORCH.NAdam(ws)
    ws[1].grad = torch.ones_like(ws[1])
    optimizer.step()
    frozen = freeze(optimizer)
    (group,) = frozen.groups
    assert group.size == 17
    assert (frozen.D[:12] == 0).all()


def adafactor_spiked():
    ws = parameters()
    optimizer = warmed(TORCH.Adafactor(ws, 1e-2), ws, 5)
    for w in ws:
        w.grad = 20 * w.grad
    optimizer.step()
    return optimizer, ws


def test_adafactor_with_cleared_gradients_says_when_to_measure():
    optimizer, _ = adafactor_spiked()
    assert freeze(optimizer).status == "linear"
    optimizer.zero_grad(set_to_none=False)
    assert "before zero_grad()" in freeze(optimizer).reason


def test_adafactor_with_a_gradient_that_its_state_has_not_seen_says_when_to_measure():
    optimizer, ws = adafactor_spiked()
    ws[0].grad = 10 * ws[0].grad
    assert "not that of its last step" in freeze(optimizer).reason


def test_adafactor_tells_what_its_edge_depends_on():
    optimizer, _ = adafactor_spiked()
    assert "gradient in .grad" in freeze(optimizer).condition
    held = freeze(SAM(optimizer, 0.0))
    assert "gradient in .grad" in held.condition


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(30))
def test_adafactors_step_as_long_as_the_weights_is_right_or_refused(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    w, g = torch.randn(2, 8, 6, generator=generator, dtype=dtype)
    before, w = w.clone(), torch.nn.Parameter(w)
    optimizer = TORCH.Adafactor([w], lr=1.0)
    w.grad = g
    optimizer.step()
    frozen = freeze(optimizer)
    if frozen.status == "linear":
        torch.testing.assert_close(frozen.P, (g / (before - w.detach())).reshape(-1), rtol=1e-3, atol=0)
    else:
        assert "lower lr" in frozen.reason


def test_a_first_step_skipped_for_its_gradient_is_no_step():
    ws = parameters(torch.float32)
    optimizer, scaler = TORCH.Adam(ws, fused=True), torch.amp.GradScaler("cpu")
    fill(ws, torch.full((17,), torch.inf))
    scaler.scale(torch.ones(1))
    scaler.step(optimizer)
    frozen = freeze(optimizer)
    assert frozen.status == "not_stepped"
    assert "call optimizer.step() once" in frozen.reason


def test_a_state_that_is_no_tensor_is_named():
    assert "cannot be read" in broken(lambda optimizer, state: state.update(exp_avg_sq=0.1)).reason


def test_a_lazy_model_is_asked_to_run_once():
    frozen = freeze(TORCH.SGD(torch.nn.LazyLinear(3).parameters(), 0.1))
    assert frozen.status == "no_threshold"
    assert "run the lazy model once" in frozen.reason


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -0.1])
def test_a_learning_rate_that_is_none_is_named(lr):
    ws = parameters()
    optimizer = warmed(TORCH.Adam(ws), ws)
    optimizer.param_groups[0]["lr"] = lr
    assert "learning rate must be finite and at least 0" in freeze(optimizer).reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [TORCH.Adam, TORCH.RMSprop, TORCH.Adagrad, TORCH.NAdam, TORCH.RAdam])
def test_half_precision_rounds_the_state_but_not_what_is_read_from_it(make, dtype):
    ws = parameters(dtype)
    optimizer = warmed(make(ws, eps=1e-3), ws, 20)
    wide = parameters()
    twin = warmed(make(wide, eps=float(torch.tensor(1e-3, dtype=dtype))), wide, 20)
    for w, other in zip(ws, wide, strict=True):
        twin.state[other] = {name: value.double() for name, value in optimizer.state[w].items()}
    torch.testing.assert_close(freeze(optimizer).P.double(), freeze(twin).P, rtol=1e-6, atol=0)


def test_an_eps_that_half_precision_rounds_to_zero_is_named():
    ws = parameters(torch.float16)
    optimizer = TORCH.Adam(ws)
    fill(ws, torch.zeros(17))
    optimizer.step()
    reason = freeze(optimizer).reason
    assert "rounds to 0" in reason
    assert "float16" in reason
