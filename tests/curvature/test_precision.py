"""Half precision, autocast and checkpointing: the curvature is that of the same weights in float32."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tightrope.curvature import FiniteDifference, GaussNewton, Hessian, RebuiltHessian, hessian
from tightrope.errors import ShapeError
from tightrope.stability import Probe, measure

from .modules import MODELS, case, classes, forward, loss_of

HALF = [torch.bfloat16, torch.float16]
ROUTES = ["kept graph", "rebuilt graph", "central difference"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def whole(H):
    return H @ torch.eye(H.size)


def in_half(c, dtype):
    """The case in half precision, and one in float32 of exactly the same weights and data."""
    c.model.to(dtype)
    half = c._replace(batch=tuple(x.to(dtype) if x.is_floating_point() else x for x in c.batch))
    full = copy.deepcopy(half)
    full.model.float()
    return half, full._replace(batch=tuple(x.float() if x.is_floating_point() else x for x in full.batch))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_half_precision_weights_have_their_curvature_in_float32(model, dtype, route):
    half, full = in_half(case(model, "cross-entropy"), dtype)
    H = hessian(half.model, loss_of(half), half.batch, route=route)
    assert H.dtype == H.gradient.dtype == torch.float32
    assert "in float" in H.route
    expected = whole(hessian(full.model, loss_of(full), full.batch, route=route))
    assert torch.equal(whole(H), expected)
    assert all(w.dtype == dtype for w in half.model.parameters())


def test_half_precision_weights_pass_the_check_and_are_measured():
    half, full = in_half(case("transformer", "cross-entropy"), torch.bfloat16)
    H = hessian(half.model, loss_of(half), half.batch)
    assert H.route == "kept graph; in float32"
    assert H.check.agreement < 1e-4
    found = [measure(c.model, torch.optim.SGD(c.model.parameters(), lr=0.1), loss_of(c), c.batch) for c in (half, full)]
    assert found[0].status == "converged"
    assert found[0].ratio == pytest.approx(found[1].ratio, rel=1e-6)


def test_frozen_half_precision_weights_below_trained_float32_ones():
    c = case("low-rank update", "cross-entropy")
    c.model.base.bfloat16()
    c.model.head.bfloat16()

    def loss_fn(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return classes(model(batch[0]), batch)

    full = copy.deepcopy(c.model).float()
    H, expected = Hessian(c.model, loss_fn, c.batch), Hessian(full, loss_of(c), c.batch)
    assert H.size == 14
    assert torch.equal(whole(H), whole(expected))


class Explicit(nn.Module):
    """Casts as mixed precision is written by hand, with a batch it does not show and a type by keyword."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.linear(x.bfloat16(), self.first.weight.to(torch.bfloat16)).half()
        return self.second(torch.tanh(h).to(dtype=torch.bfloat16).to(self.second.weight.dtype))


def test_casts_to_half_precision_lead_to_float32():
    c = case("MLP", "cross-entropy")._replace(model=Explicit())
    full = copy.deepcopy(c.model).double()
    x = c.batch[0].double()

    def plain(model, batch):
        return classes(model.second(torch.tanh(nn.functional.linear(x, model.first.weight))), batch)

    H, expected = Hessian(c.model, loss_of(c), c.batch), Hessian(full, plain, c.batch)
    torch.testing.assert_close(whole(H).double(), expected @ torch.eye(H.size).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("where", ["inside", "outside", "both"])
def test_autocast_is_set_aside(route, where):
    c = case("transformer", "cross-entropy")
    plain = loss_of(c)

    def autocast_loss(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where != "outside"):
            return plain(model, batch)

    expected = whole(hessian(c.model, plain, c.batch, route=route))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where != "inside"):
        H = hessian(c.model, autocast_loss, c.batch, route=route)
        assert torch.is_autocast_enabled("cpu") == (where != "inside")
        found = whole(H)
    assert torch.equal(found, expected)


def test_half_precision_refuses_a_loss_that_goes_past_the_model():
    model = nn.Linear(3, 1).bfloat16()
    weight = model.weight
    for make in (Hessian, RebuiltHessian, FiniteDifference):
        with pytest.raises(ShapeError, match="it uses a parameter directly"):
            make(model, lambda model, x: (model(x) ** 2).mean() + (weight**2).sum(), torch.ones(2, 3).bfloat16())


class Checkpointed(nn.Module):
    """Keeps of its body only the input, and runs it again in every backward pass, batch statistics, dropout and all."""

    def __init__(self, is_on):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh())
        self.head, self.is_on = nn.Linear(5, 3), is_on

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False) if self.is_on else self.body(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("make", [Hessian, RebuiltHessian, FiniteDifference, "GaussNewton"])
def test_checkpointing_changes_neither_the_curvature_nor_the_buffers(make, has_autocast, dtype):
    c = case("MLP", "cross-entropy")
    c = c._replace(batch=(c.batch[0].to(dtype), c.batch[1]))
    plain = Checkpointed(False).to(dtype)
    kept = copy.deepcopy(plain)
    kept.is_on = True
    found = []

    def outputs(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_autocast):
            return forward(model, batch)

    for model in (plain, kept):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.manual_seed(1)
        if make == "GaussNewton":
            H = GaussNewton(model, outputs, classes, c.batch)
        else:
            H = make(model, lambda model, batch: classes(outputs(model, batch), batch), c.batch)
        random_state = torch.get_rng_state()
        found.append(whole(H))
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(*found)
    assert found[0].any()


def test_a_probe_moves_half_precision_weights_and_puts_them_back():
    half, _ = in_half(case("MLP", "cross-entropy"), torch.bfloat16)
    before = copy.deepcopy(half.model.state_dict())
    optimizer = torch.optim.SGD(half.model.parameters(), lr=0.1)
    w = torch.cat([x.detach().reshape(-1) for x in half.model.parameters()])
    probe = Probe(half.model, loss_of(half))
    assert probe.measure(optimizer, half.batch, w=w * 2).has_ratio
    assert all(torch.equal(x, before[name]) for name, x in half.model.state_dict().items())


def test_recurrent_weights_stand_in_after_the_model_was_called_with_others():
    """`functional_call` leaves its own tensors in a recurrent layer's list of weights."""
    c = case("GRU", "cross-entropy")
    expected = whole(Hessian(c.model, loss_of(c), c.batch))
    others = {name: torch.zeros_like(w) for name, w in c.model.named_parameters()}
    torch.func.functional_call(c.model, others, (c.batch[0],))
    before = list(c.model.gru._flat_weights), list(c.model.gru._flat_weight_refs)
    H = FiniteDifference(c.model, loss_of(c), c.batch)
    for _ in range(2):
        torch.testing.assert_close(whole(H), expected, rtol=0, atol=1e-6)
    assert (c.model.gru._flat_weights, c.model.gru._flat_weight_refs) == before
