"""Looking at a model's curvature changes not one bit of the model, the optimizer or any random state."""

import copy
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo import eval_frame
from torch.utils.checkpoint import checkpoint

import tightrope
from tightrope.curvature import FiniteDifference, Fisher, GaussNewton, Hessian, hessian, observing, top_eigenvalues
from tightrope.errors import ConfigError, ShapeError
from tightrope.parameters import flatten, trainable
from tightrope.stability import Probe


class Net(nn.Module):
    """Every kind of state a model can hold: running statistics, masks, frozen and tied weights, mixed modes."""

    def __init__(self):
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm, self.still_norm, self.layer_norm = nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.LayerNorm(4)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(4, 2)
        self.register_buffer("scratch", None)
        self.register_buffer("num_calls", torch.tensor(0), persistent=False)
        self.embed.bias.requires_grad_(False)
        self.still_norm.eval()

    def forward(self, x):
        self.num_calls += 1
        x = self.still_norm(self.norm(self.embed(x)))
        return self.head(self.dropout(torch.tanh(self.layer_norm(self.spectral(self.second(self.first(x)))))))


class StoppedError(Exception):
    pass


def loss_fn(model, batch):
    """A loss that draws from every global generator."""
    x, y = batch
    noise = torch.randn_like(x) + random.random() + np.random.rand()
    return ((model(x + 0.01 * noise) - y) ** 2).mean()


def raising_loss_fn(model, batch):
    loss_fn(model, batch)
    raise StoppedError


def unreduced_loss_fn(model, batch):
    return loss_fn(model, batch) * torch.ones(2)


OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=1e-3, centered=True),
    "ours": lambda params: tightrope.optim.Adam(params, lr=1e-3, weight_decay=0.1),
}


class Training:
    """A model in the middle of a run, its optimizer, a batch, and every bit of it as bytes."""

    def __init__(self, optimizer="AdamW", num_steps=2):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = Net().double()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.batch = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        for _ in range(num_steps):
            self.step()
        if num_steps:
            self.model.head.weight.grad = None
            self.model.head.bias.grad.fill_(float("nan"))

    def step(self):
        self.optimizer.zero_grad()
        loss_fn(self.model, self.batch).backward()
        self.optimizer.step()

    @property
    def w(self):
        return flatten([parameter.detach() for parameter in trainable(self.model).values()])

    def state(self):
        modules = dict(self.model.named_modules())
        return {
            "weights": {name: held(w) for name, w in self.model.named_parameters(remove_duplicate=False)},
            "gradients": {name: held(w.grad) for name, w in self.model.named_parameters()},
            "requires_grad": {name: w.requires_grad for name, w in self.model.named_parameters()},
            "buffers": {f"{m}.{b}": held(x) for m, module in modules.items() for b, x in module._buffers.items()},
            "modes": {name: module.training for name, module in modules.items()},
            "optimizer": [(id(w), name, held(x)) for w, s in self.optimizer.state.items() for name, x in s.items()],
            "groups": [{**group, "params": [id(w) for w in group["params"]]} for group in self.optimizer.param_groups],
            "batch": [held(x) for x in self.batch],
            "torch": torch.get_rng_state().tolist(),
            "python": random.getstate(),
            "numpy": [*np.random.get_state()[1].tolist(), np.random.get_state()[2]],
            "switches": (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu"),
                torch.get_autocast_dtype("cpu"),
                torch.overrides._get_current_function_mode_stack(),
                eval_frame._stance.stance,
                torch.get_default_dtype(),
                torch.backends.cuda.flash_sdp_enabled(),
                torch.backends.cuda.mem_efficient_sdp_enabled(),
                torch.backends.cuda.math_sdp_enabled(),
            ),
        }


def held(x):
    """Identity, place and bits of a tensor; the value itself for anything else."""
    if not isinstance(x, torch.Tensor):
        return x
    return (
        id(x),
        x.data_ptr(),
        x.dtype,
        x.shape,
        x.stride(),
        x.detach().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def build(t):
    Hessian(t.model, loss_fn, t.batch)


def multiply(t):
    H = Hessian(t.model, loss_fn, t.batch)
    assert (H @ torch.ones(H.size, 2).double()).isfinite().all()
    top_eigenvalues(H, 2, max_products=6)


def chunk(t):
    H = Hessian(t.model, loss_fn, t.batch, chunk_size=3)
    H @ torch.ones(H.size).double()


def choose(t):
    Hessian(t.model, loss_fn, t.batch, params=[t.model.head.weight])


def measure(t):
    assert tightrope.measure(t.model, t.optimizer, loss_fn, t.batch).has_ratio


def probe_twice(t):
    probe = Probe(t.model, loss_fn, chunk_size=4, k=2)
    probe.measure(t.optimizer, t.batch)
    assert probe.measure(t.optimizer, t.batch).has_ratio


def probe_elsewhere(t):
    assert Probe(t.model, loss_fn).measure(t.optimizer, t.batch, w=t.w + 0.1).has_ratio


def measure_at_infinity(t):
    assert Probe(t.model, loss_fn).measure(t.optimizer, t.batch, w=t.w * float("inf")).status == "not_finite"


def rebuild(t):
    H = hessian(t.model, loss_fn, t.batch, route="rebuilt graph")
    assert (H @ torch.ones(H.size).double()).isfinite().all()


def differ(t):
    H = FiniteDifference(t.model, loss_fn, t.batch)
    assert (H @ torch.ones(H.size).double()).isfinite().all()


def check(t):
    assert hessian(t.model, loss_fn, t.batch).check.is_passed


def check_and_fall_back(t):
    t.model.head.forward = lambda x: checkpoint(nn.Linear.forward, t.model.head, x, use_reentrant=True)
    try:
        assert hessian(t.model, loss_fn, t.batch).route.startswith("central difference")
    finally:
        del t.model.head.forward


def fit_into_memory(t):
    with pytest.raises(ConfigError, match="not the mean of its parts"):
        hessian(t.model, loss_fn, t.batch, max_bytes=5_000)


def linearise(t):
    def forward(model, batch):
        return model(batch[0] + torch.randn_like(batch[0]))

    def criterion(z, batch):
        return ((z - batch[1]) ** 2).mean()

    for H in (GaussNewton(t.model, forward, criterion, t.batch), Fisher(t.model, forward, criterion, t.batch)):
        assert (H @ torch.ones(H.size).double()).isfinite().all()


LOOKS = [rebuild, differ, check, check_and_fall_back, fit_into_memory, linearise]
LOOKS += [build, multiply, chunk, choose, measure, probe_twice, probe_elsewhere, measure_at_infinity]


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad], ids=["", "inside no_grad"])
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
def test_a_look_leaves_every_bit_as_it_was(look, mode):
    t = Training()
    with mode():
        before = t.state()
        look(t)
        assert t.state() == before


@pytest.mark.parametrize("route", ["auto", "kept graph", "rebuilt graph", "central difference"])
def test_a_look_at_half_precision_under_autocast_leaves_every_bit_as_it_was(route):
    t = Training()
    t.model.bfloat16()
    t.batch = tuple(x.bfloat16() for x in t.batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = t.state()
        H = hessian(t.model, loss_fn, t.batch, route=route)
        assert (H @ torch.ones(H.size)).isfinite().all()
        assert t.state() == before


@pytest.mark.parametrize("num_steps", [0, 1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_measurement_leaves_every_optimizer_as_it_was(optimizer, num_steps):
    t = Training(optimizer, num_steps)
    before = t.state()
    tightrope.measure(t.model, t.optimizer, loss_fn, t.batch)
    assert t.state() == before


RAISING_LOOKS = {
    "Hessian": lambda t, loss_fn: Hessian(t.model, loss_fn, t.batch),
    "chunks": lambda t, loss_fn: Hessian(t.model, loss_fn, t.batch, chunk_size=3),
    "measure": lambda t, loss_fn: tightrope.measure(t.model, t.optimizer, loss_fn, t.batch),
    "measure elsewhere": lambda t, loss_fn: Probe(t.model, loss_fn).measure(t.optimizer, t.batch, w=t.w + 1),
}


@pytest.mark.parametrize(("broken", "error"), [(raising_loss_fn, StoppedError), (unreduced_loss_fn, ShapeError)])
@pytest.mark.parametrize("look", RAISING_LOOKS)
def test_a_look_that_fails_midway_leaves_every_bit_as_it_was(look, broken, error):
    t = Training()
    before = t.state()
    with pytest.raises(error):
        RAISING_LOOKS[look](t, broken)
    assert t.state() == before


def test_an_interrupt_midway_leaves_every_bit_as_it_was():
    def interrupted(model, batch):
        raise KeyboardInterrupt(loss_fn(model, batch))

    t = Training()
    before = t.state()
    with pytest.raises(KeyboardInterrupt):
        Probe(t.model, interrupted).measure(t.optimizer, t.batch, w=t.w + 1)
    assert t.state() == before


def bits_after_four_steps(optimizer, is_watched):
    t = Training(optimizer)
    probe = Probe(t.model, loss_fn)
    for _ in range(4):
        w = t.w
        t.step()
        if is_watched:
            probe.measure(t.optimizer, t.batch, w=w)
            probe.measure(t.optimizer, t.batch)
    state = t.state()
    bits = {kind: [x and x[-1] for x in state[kind].values()] for kind in ("weights", "gradients", "buffers")}
    return bits | {generator: state[generator] for generator in ("torch", "python", "numpy")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_is_watched_is_bitwise_the_run_that_is_not(optimizer):
    assert bits_after_four_steps(optimizer, True) == bits_after_four_steps(optimizer, False)


def test_the_check_sees_each_thing_that_can_change():
    changes = {
        "weights": lambda t: t.model.head.weight.data.mul_(1 + 1e-15),
        "gradients": lambda t: setattr(t.model.head.weight, "grad", torch.zeros(2, 4).double()),
        "requires_grad": lambda t: t.model.embed.bias.requires_grad_(True),
        "buffers": lambda t: t.model.norm.num_batches_tracked.add_(1),
        "modes": lambda t: t.model.dropout.eval(),
        "optimizer": lambda t: next(iter(t.optimizer.state.values()))["step"].add_(1),
        "groups": lambda t: t.optimizer.param_groups[0].update(lr=1.0),
        "batch": lambda t: t.batch[0].add_(1),
        "torch": lambda t: torch.rand(1),
        "python": lambda t: random.random(),
        "numpy": lambda t: np.random.rand(),
    }
    for name, change in changes.items():
        t = Training()
        before = t.state()
        change(t)
        after = t.state()
        assert [key for key in before if before[key] != after[key]] == [name]


# What the forward pass sees


def test_inside_the_block_gradients_are_on_and_buffers_are_copies():
    t = Training()
    originals = dict(t.model.named_buffers())
    with torch.no_grad(), observing(t.model):
        assert torch.is_grad_enabled()
        for name, buffer in t.model.named_buffers():
            assert buffer is not originals[name]
            assert torch.equal(buffer, originals[name])
        t.model(t.batch[0])
        assert t.model.num_calls == originals["num_calls"] + 1
    assert dict(t.model.named_buffers()) == originals


def test_the_observed_loss_is_the_loss_the_user_would_have_seen_next():
    t = Training()
    seen = Hessian(t.model, loss_fn, t.batch).loss
    assert seen == pytest.approx(float(loss_fn(t.model, t.batch).detach()), rel=1e-12)


def test_weights_that_the_forward_pass_renormalises_are_left_alone():
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Linear(3, 1)).double()
    before = copy.deepcopy(model.state_dict())
    Hessian(model, lambda model, x: (model(x) ** 2).mean(), torch.arange(3))
    assert torch.equal(model[0].weight, before["0.weight"])


def test_a_wrong_number_of_weights_is_refused_and_changes_nothing():
    t = Training()
    before = t.state()
    with pytest.raises(ShapeError, match=rf"{len(t.w)}.*got .*3"):
        Probe(t.model, loss_fn).measure(t.optimizer, t.batch, w=torch.zeros(3))
    assert t.state() == before
