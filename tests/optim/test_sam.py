"""SAM and its family against their papers' formulas written out, and against the ways people train."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import math

import msgspec
import pytest
import torch
from torch import nn

from tightrope.errors import ConfigError, ShapeError, UnsupportedOptimizerError
from tightrope.optim import GD, SAM, Adam, AdamW, SharpnessAware, freeze
from tightrope.parameters import share_storage

LR, RHO = 0.1, 0.3


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def batch(num=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 4, generator=generator).to(dtype), torch.randn(num, 2, generator=generator).to(dtype)


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().sum() / (2 * len(batch[0]))


def closure_of(optimizer, model, parts):
    """A closure over one batch, or over its micro-batches by number; with a list of the calls."""
    calls = []

    def closure(i=0):
        calls.append(i)
        optimizer.zero_grad()
        loss = squared(model, parts[i])
        loss.backward()
        return loss

    return closure, calls


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def weights(model):
    return flat(model.parameters()).clone()


def gradient(model, at, part):
    """The gradient at given weights, on a copy."""
    model = copy.deepcopy(model)
    nn.utils.vector_to_parameters(at, model.parameters())
    return flat(torch.autograd.grad(squared(model, part), list(model.parameters())))


def ascended(model, w, part, rho, T=None, mask=1.0):
    """Foret et al. eq. 2, Kwon et al. for T, Mi et al. for a mask: the gradient uphill of w."""
    g = gradient(model, w, part)
    T = torch.ones_like(w) if T is None else T
    return gradient(model, w + rho * mask * T**2 * g / (T * g).norm(), part)


# The formulas


@pytest.mark.parametrize("eta", [None, 0.01, 0.5])
def test_a_step_is_the_base_step_with_the_gradient_of_the_ascended_point(eta):
    model, part = network(), batch()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 2 * LR}]
    sam = SAM(torch.optim.SGD(groups, lr=LR), RHO, adaptive=eta is not None, eta=eta or 0.0)
    w, size = weights(model), sum(p.numel() for p in model[0].parameters())
    lr = torch.full_like(w, LR)
    lr[size:] = 2 * LR
    expected = w - lr * ascended(model, w, part, RHO, None if eta is None else w.abs() + eta)
    loss = sam.step(closure_of(sam, model, [part])[0])
    torch.testing.assert_close(weights(model), expected, rtol=0, atol=1e-14)
    assert loss.item() == pytest.approx(squared_at(model, w, part))


def squared_at(model, w, part):
    model = copy.deepcopy(model)
    nn.utils.vector_to_parameters(w, model.parameters())
    return squared(model, part).item()


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_the_block_and_the_closure_take_the_same_steps_to_the_bit(kind):
    part, ends = batch(), []
    for has_closure in (True, False):
        model = network()
        base = AdamW if kind == "ours" else torch.optim.AdamW
        sam = SAM(base(model.parameters(), lr=1e-2), RHO)
        for _ in range(5):
            if has_closure:
                sam.step(closure_of(sam, model, [part])[0])
            else:
                sam.zero_grad()
                squared(model, part).backward()
                with sam.ascent():
                    squared(model, part).backward()
                sam.step()
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_micro_batches_ascend_each_for_itself_and_average_their_gradients():
    parts = [batch(5), batch(9), batch(3)]
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=3)
    w = weights(model)
    mean = sum(ascended(model, w, part, RHO) for part in parts) / 3
    closure, calls = closure_of(sam, model, parts)
    loss = sam.step(closure)
    torch.testing.assert_close(weights(model), w - LR * mean, rtol=0, atol=1e-14)
    assert calls == [0, 0, 1, 1, 2, 2]
    assert loss.item() == pytest.approx(sum(squared_at(model, w, part) for part in parts) / 3)


def test_micro_batches_in_a_loop_leave_their_mean_in_grad():
    parts = [batch(5), batch(9)]
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=2)
    for _ in range(2):
        w = weights(model)
        for part in parts:
            sam.zero_grad()
            squared(model, part).backward()
            with sam.ascent():
                squared(model, part).backward()
        mean = sum(ascended(model, w, part, RHO) for part in parts) / 2
        torch.testing.assert_close(flat(p.grad for p in model.parameters()), mean, rtol=0, atol=1e-14)
        sam.step()


def test_plain_steps_between_ascents_average_over_micro_batches_too():
    parts = [batch(5), batch(9)]
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=2, every=2)
    closure, calls = closure_of(sam, model, parts)
    sam.step(closure)
    w = weights(model)
    calls.clear()
    sam.step(closure)
    assert calls == [0, 1]
    mean = sum(gradient(model, w, part) for part in parts) / 2
    torch.testing.assert_close(weights(model), w - LR * mean, rtol=0, atol=1e-14)


def test_a_periodic_ascent_comes_first_and_then_every_so_many_steps():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, every=3)
    closure, calls = closure_of(sam, model, [part])
    counts = []
    for step in range(7):
        w, due = weights(model), sam.is_ascent_due
        calls.clear()
        sam.step(closure)
        counts.append(len(calls))
        g = ascended(model, w, part, RHO) if step % 3 == 0 else gradient(model, w, part)
        torch.testing.assert_close(weights(model), w - LR * g, rtol=0, atol=1e-14)
        assert due == (step % 3 == 0)
    assert counts == [2, 1, 1, 2, 1, 1, 2]
    assert (sam.num_steps, sam.num_ascents) == (7, 3)


def perturbation(sam, model, part):
    """The ascent of one step, which is not taken."""
    w = weights(model)
    sam.zero_grad()
    squared(model, part).backward()
    with sam.ascent():
        squared(model, part).backward()
        return weights(model) - w


def test_a_sparse_ascent_moves_its_share_of_the_coordinates_by_what_sam_moves_them():
    torch.manual_seed(0)
    model, part = nn.Linear(4, 5000).double(), (torch.randn(8, 4).double(), torch.zeros(8, 5000).double())
    sparse = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, sparsity=0.8)
    full = perturbation(SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO), model, part)
    first, second = perturbation(sparse, model, part), perturbation(sparse, model, part)
    for moved in (first != 0, second != 0):
        assert moved.double().mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 25000))
    torch.testing.assert_close(first, torch.where(first != 0, full, 0.0), rtol=1e-12, atol=1e-15)
    assert ((first != 0) & (second != 0)).double().mean() == pytest.approx(0.04, abs=0.006)


def test_masks_come_from_a_generator_of_their_own():
    model, part = network(), batch()

    def masks(seed):
        sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, sparsity=0.5, seed=seed)
        return [perturbation(sam, model, part) != 0 for _ in range(4)]

    before = torch.get_rng_state()
    first, again, other = masks(3), masks(3), masks(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.product(first, other))


# What an ascent leaves as it was


def test_weights_come_back_bit_for_bit_where_subtracting_would_not_do():
    model = nn.Linear(200, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(
            torch.randn(200, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-9, 3, 200)
        )
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), 1.0)
    before = weights(model)
    x = torch.randn(3, 200)
    model(x).sum().backward()
    with sam.ascent():
        model(x).sum().backward()
        inside = weights(model)
        eps = sam.rule.rho * (inside - before)
    assert not torch.equal(inside, before)
    assert not torch.equal(inside - eps, before)
    assert torch.equal(weights(model), before)


def test_weights_come_back_after_an_exception_and_training_goes_on():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    before = weights(model)
    squared(model, part).backward()
    with pytest.raises(RuntimeError, match="out of memory"), sam.ascent():
        raise RuntimeError("out of memory")
    assert torch.equal(weights(model), before)
    sam.step(closure_of(sam, model, [part])[0])
    assert not torch.equal(weights(model), before)


def test_a_micro_batch_gathered_before_an_exception_in_the_block_is_forgotten():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=2)
    w = weights(model)
    for is_interrupted in (False, True, False, False):
        sam.zero_grad()
        squared(model, part).backward()
        with contextlib.suppress(KeyboardInterrupt), sam.ascent():
            squared(model, part).backward()
            if is_interrupted:
                raise KeyboardInterrupt
    sam.step()
    torch.testing.assert_close(weights(model), w - LR * ascended(model, w, part, RHO), rtol=0, atol=1e-14)


@pytest.mark.parametrize("fails_at", [3, 4])
def test_half_gathered_micro_batches_are_forgotten_after_an_exception_in_the_closure(fails_at):
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=2)
    clean, _ = closure_of(sam, model, [part, part])
    w = weights(model)
    calls = []

    def failing(i):
        calls.append(i)
        if len(calls) == fails_at:
            raise RuntimeError("interrupted")
        return clean(i)

    with pytest.raises(RuntimeError, match="interrupted"):
        sam.step(failing)
    assert torch.equal(weights(model), w)
    sam.step(clean)
    torch.testing.assert_close(weights(model), w - LR * ascended(model, w, part, RHO), rtol=0, atol=1e-14)


class Outer(nn.Module):
    """BatchNorm with and without momentum, nested, and a buffer that is replaced rather than written."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.BatchNorm1d(6, momentum=None))
        self.last = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 2))
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x):
        hidden = self.first(x)
        self.average = 0.9 * self.average + 0.1 * hidden.detach().mean(0)
        return self.last(hidden)


@pytest.mark.parametrize("is_given", [True, False], ids=["model given", "model found"])
@pytest.mark.parametrize("has_closure", [True, False], ids=["closure", "block"])
def test_buffers_are_those_of_the_first_pass_bit_for_bit(is_given, has_closure):
    torch.manual_seed(0)
    model, part = Outer().double(), batch()
    plain = copy.deepcopy(model)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, model=model if is_given else None)
    for _ in range(3):
        with torch.no_grad():
            for mine, its in zip(plain.parameters(), model.parameters(), strict=True):
                mine.copy_(its)
        squared(plain, part).backward()
        if has_closure:
            sam.step(closure_of(sam, model, [part])[0])
        else:
            sam.zero_grad()
            squared(model, part).backward()
            with sam.ascent():
                squared(model, part).backward()
            sam.step()
        for (name, mine), its in zip(plain.named_buffers(), model.buffers(), strict=True):
            assert torch.equal(mine, its), name
    assert model.first[3].num_batches_tracked == 3


def test_a_compiled_model_given_by_name_keeps_its_buffers_without_a_warning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).double()
    compiled = torch.compile(model, backend="eager")
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, model=model)
    sam.step(closure_of(sam, compiled, [batch()])[0])
    assert model[1].num_batches_tracked == 1


def test_no_hook_outlives_the_block():
    before = len(torch.nn.modules.module._global_forward_pre_hooks)
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    sam.step(closure_of(sam, model, [part])[0])
    assert len(torch.nn.modules.module._global_forward_pre_hooks) == before


def test_gradients_that_are_views_of_one_vector_stay_so():
    model, part = network(), batch()
    twin = copy.deepcopy(model)
    w = share_storage(model)
    sam = SAM(Adam([w], lr=1e-2), RHO)
    apart = SAM(Adam(twin.parameters(), lr=1e-2), RHO)
    for _ in range(3):
        w.grad.zero_()
        squared(model, part).backward()
        with sam.ascent():
            squared(model, part).backward()
        sam.step()
        apart.step(closure_of(apart, twin, [part])[0])
    assert model[0].weight.grad.untyped_storage().data_ptr() == w.grad.untyped_storage().data_ptr()
    torch.testing.assert_close(w.detach(), weights(twin), rtol=0, atol=1e-14)


# Where there is nothing to climb


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e-44, math.inf, math.nan])
def test_a_gradient_without_a_direction_is_a_plain_step(value, adaptive):
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    sam = SAM(torch.optim.SGD([w], lr=LR), RHO, adaptive=adaptive, sparsity=0.1)
    w.grad = torch.full((2,), value)
    with sam.ascent():
        assert torch.equal(w, torch.tensor([1.0, -2.0]))
        w.grad.fill_(1.0)
    sam.step()
    torch.testing.assert_close(w.detach(), torch.tensor([0.9, -2.1]))
    assert freeze(sam).status == "no_threshold"
    assert "did nothing" in freeze(sam).reason


def test_a_small_gradient_in_float32_still_has_a_direction():
    w = nn.Parameter(torch.zeros(2))
    sam = SAM(torch.optim.SGD([w], lr=LR), RHO)
    w.grad = torch.tensor([3e-30, 4e-30])
    with sam.ascent():
        torch.testing.assert_close(w.detach(), RHO * torch.tensor([0.6, 0.8]))
        w.grad.fill_(1.0)
    assert sam.grad_norm == pytest.approx(5e-30)


def test_a_parameter_without_a_gradient_is_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    sam = SAM(torch.optim.SGD([used, unused], lr=LR), RHO, adaptive=True)

    def closure():
        sam.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    sam.step(closure)
    assert torch.equal(unused, torch.ones(2))
    assert freeze(sam).ascent.scale[2:].tolist() == [0.0, 0.0]


# Misuse


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rho": -0.1}, "rho must be finite and at least 0; got -0.1"),
        ({"rho": math.nan}, "rho must be finite"),
        ({"rho": "0.1"}, "rho must be finite"),
        ({"eta": math.inf}, "eta must be finite"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\); got 1.0"),
        ({"micro_batches": 0}, "micro_batches must be a whole number, at least 1; got 0"),
        ({"every": 2.5}, "every must be a whole number, at least 1; got 2.5"),
        ({"every": True}, "every must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": math.inf}, "seed must be a whole number"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        SAM(torch.optim.SGD(network().parameters(), lr=LR), **settings)


def test_only_an_optimizer_that_steps_on_given_gradients_can_be_the_base():
    parameters = list(network().parameters())
    for base in (
        torch.optim.SGD,
        parameters,
        torch.optim.LBFGS(parameters),
        SAM(torch.optim.SGD(parameters, lr=LR)),
    ):
        with pytest.raises(UnsupportedOptimizerError, match="base must be an optimizer that steps once"):
            SAM(base)


def test_an_ascent_before_the_first_backward_is_refused():
    sam = SAM(torch.optim.SGD(network().parameters(), lr=LR))
    with pytest.raises(ShapeError, match="needs the gradient of a first backward"), sam.ascent():
        pass


def test_sparse_and_complex_gradients_are_refused_and_nothing_moves():
    embedding = nn.Embedding(4, 2, sparse=True)
    wave = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    for w, loss in ((embedding.weight, lambda: embedding(torch.tensor([1])).sum()), (wave, lambda: wave.abs().sum())):
        before = w.detach().clone()
        sam = SAM(torch.optim.SGD([w], lr=LR))
        loss().backward()
        with pytest.raises(ShapeError, match="must be real and dense"), sam.ascent():
            pass
        assert torch.equal(w, before)


def test_a_step_inside_the_block_and_a_block_in_the_block_are_refused():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR))
    w = weights(model)
    squared(model, part).backward()
    with pytest.raises(ConfigError, match="after the ascent block"), sam.ascent():
        sam.step()
    squared(model, part).backward()
    with pytest.raises(ConfigError, match="must not be entered twice"), sam.ascent(), sam.ascent():
        pass
    assert torch.equal(weights(model), w)


def one_part(sam, model, part):
    """A micro-batch in a loop of one's own."""
    sam.zero_grad()
    squared(model, part).backward()
    with sam.ascent():
        squared(model, part).backward()


@pytest.mark.parametrize("how", ["discarded", "refused"])
def test_parts_left_over_from_an_epoch_never_enter_the_next_step(how):
    model, parts = network(), [batch(5), batch(9), batch(3)]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=3)
    w = weights(model)
    for part in parts[1:]:
        one_part(sam, model, part)
    if how == "discarded":
        sam.discard()
    else:
        with pytest.raises(ConfigError, match="must follow 3 ascents, one for each micro-batch; got 2, now dropped"):
            sam.step()
    assert torch.equal(weights(model), w)
    for part in parts:
        one_part(sam, model, part)
    sam.step()
    mean = sum(ascended(model, w, part, RHO) for part in parts) / 3
    torch.testing.assert_close(weights(model), w - LR * mean, rtol=0, atol=1e-14)
    assert sam.num_steps == 1


def test_an_ascent_on_a_step_that_has_none_is_refused_and_plain_steps_go_on():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, every=2)
    sam.step(closure_of(sam, model, [part])[0])
    w = weights(model)
    with pytest.raises(ConfigError, match=r"due on steps 1, 3, \.\.\.; got one on step 2\. Enter the block where"):
        one_part(sam, model, part)
    sam.step()
    torch.testing.assert_close(weights(model), w - LR * gradient(model, w, part), rtol=0, atol=1e-14)
    one_part(sam, model, part)


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("inside", [lambda sam: None, lambda sam: sam.zero_grad()], ids=["nothing", "cleared"])
def test_a_block_without_a_second_backward_is_refused_and_nothing_moves(inside, num_parts):
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=num_parts)
    w = weights(model)
    for _ in range(num_parts - 1):
        one_part(sam, model, part)
    sam.zero_grad()
    squared(model, part).backward()
    with pytest.raises(ConfigError, match="must run a second backward"), sam.ascent():
        inside(sam)
    assert torch.equal(weights(model), w)
    for _ in range(num_parts):
        one_part(sam, model, part)
    sam.step()
    torch.testing.assert_close(weights(model), w - LR * ascended(model, w, part, RHO), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cleared", [False, True])
def test_a_second_gradient_of_zero_is_a_gradient(cleared):
    """Uphill of w = 1 by 2 this loss is flat."""
    w = nn.Parameter(torch.ones(1))
    sam = SAM(torch.optim.SGD([w], lr=LR), 2.0)
    torch.minimum(w, torch.tensor(2.0)).sum().backward()
    with sam.ascent():
        if cleared:
            sam.zero_grad()
        torch.minimum(w, torch.tensor(2.0)).sum().backward()
    sam.step()
    assert torch.equal(w.grad, torch.zeros(1))
    assert torch.equal(w.detach(), torch.ones(1))


def test_a_gradient_written_unseen_as_by_a_replayed_graph_is_a_gradient():
    w = nn.Parameter(torch.ones(2))
    sam = SAM(torch.optim.SGD([w], lr=LR), RHO)
    w.grad = torch.ones(2)
    with sam.ascent():
        version = w.grad._version
        w.grad.data.fill_(3.0)
        assert w.grad._version == version
    sam.step()
    torch.testing.assert_close(w.detach(), torch.full((2,), 1 - 3 * LR))


def test_after_a_plain_step_the_last_ascent_no_longer_makes_an_edge():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    one_part(sam, model, part)
    sam.step()
    assert freeze(sam).status == "linear"
    sam.step()
    assert freeze(sam).status == "no_threshold"
    assert "the last step did not ascend: of 2 steps number 1 was the last to do so" in freeze(sam).reason
    loaded = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    loaded.load_state_dict(sam.state_dict())
    assert freeze(loaded) == freeze(sam)
    assert freeze(sam.base).status == "linear"
    one_part(sam, model, part)
    sam.step()
    assert freeze(sam).status == "linear"


# An optimizer like any other


def test_groups_state_and_learning_rates_are_the_bases_own():
    model = network()
    base = torch.optim.SGD(model[0].parameters(), lr=LR, momentum=0.9)
    sam = SAM(base)
    assert sam.param_groups is base.param_groups
    assert sam.state is base.state
    sam.add_param_group({"params": model[2].parameters(), "lr": 1.0})
    assert [group["lr"] for group in base.param_groups] == [LR, 1.0]
    base.load_state_dict(base.state_dict())
    assert sam.param_groups is base.param_groups


def test_torchs_schedulers_act_on_the_base():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0), RHO)
    scheduler = torch.optim.lr_scheduler.StepLR(sam, 2, gamma=0.5)
    rates = []
    for _ in range(4):
        rates.append(sam.base.param_groups[0]["lr"])
        sam.step(closure_of(sam, model, [part])[0])
        scheduler.step()
    assert rates == [1.0, 1.0, 0.5, 0.5]


def test_step_hooks_are_called_once_a_step():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    seen = []
    sam.register_step_pre_hook(lambda *_: seen.append("before"))
    sam.register_step_post_hook(lambda *_: seen.append("after"))
    sam.base.register_step_post_hook(lambda *_: seen.append("base"))
    sam.step(closure_of(sam, model, [part])[0])
    assert seen == ["before", "base", "after"]


SETTINGS = {
    "plain": {},
    "asam": {"adaptive": True},
    "sparse": {"sparsity": 0.5, "seed": 7},
    "periodic": {"every": 3},
    "micro": {"micro_batches": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_state_dict_continues_a_run_bit_for_bit(name):
    parts = [batch(5), batch(7)]

    def build():
        model = network()
        return model, SAM(AdamW(model.parameters(), lr=1e-2), RHO, **SETTINGS[name])

    def train(model, sam, num_steps):
        for _ in range(num_steps):
            sam.step(closure_of(sam, model, parts)[0])
        return weights(model)

    whole = train(*build(), 8)
    model, sam = build()
    half = train(model, sam, 4)
    file = io.BytesIO()
    torch.save(sam.state_dict(), file)
    file.seek(0)
    model, resumed = build()
    resumed.seed = 0
    nn.utils.vector_to_parameters(half.clone(), model.parameters())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(train(model, resumed, 4), whole)


def test_after_loading_sams_edge_is_known_and_asams_waits_for_an_ascent():
    part = batch()
    for adaptive in (False, True):
        model = network()
        sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, adaptive=adaptive)
        sam.step(closure_of(sam, model, [part])[0])
        loaded = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, adaptive=adaptive)
        assert freeze(loaded).status == "not_stepped"
        loaded.load_state_dict(sam.state_dict())
        assert freeze(loaded).status == ("not_stepped" if adaptive else "linear")
        assert adaptive or freeze(loaded).ascent == freeze(sam).ascent
        sam.load_state_dict(sam.state_dict())
        assert freeze(sam).status == freeze(loaded).status


def test_the_state_of_another_optimizer_is_refused_and_changes_nothing():
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9), RHO)
    sam.step(closure_of(sam, model, [part])[0])
    before = copy.deepcopy(sam.state_dict())
    other = torch.optim.SGD(network().parameters(), lr=5.0)
    with pytest.raises(ConfigError, match="needs the state of SAM"):
        sam.load_state_dict(other.state_dict())
    with pytest.raises(ConfigError, match="needs the state of SAM"):
        sam.load_state_dict({**other.state_dict(), "sam": {"rho": 1}})
    assert str(sam.state_dict()) == str(before)


@pytest.mark.parametrize(
    ("name", "value"), [("num_steps", "a"), ("num_steps", -1), ("seed", -4), ("seed", 2**62), ("last_ascent", 0.5)]
)
def test_a_state_that_sam_did_not_write_is_refused_and_changes_nothing(name, value):
    model, part = network(), batch()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
    sam.step(closure_of(sam, model, [part])[0])
    before = copy.deepcopy(sam.state_dict())
    with pytest.raises(ConfigError, match=f"needs the state of SAM.*{name}"):
        sam.load_state_dict({**before, "sam": {**before["sam"], name: value}})
    assert str(sam.state_dict()) == str(before)


BASES = {
    "torch Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    "torch RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
    "Adam": lambda p: Adam(p, lr=1e-2),
    "of fewer parameters": lambda p: torch.optim.Adam(p[:2], lr=1e-2),
    "of two groups": lambda p: torch.optim.Adam([{"params": p[:2]}, {"params": p[2:]}], lr=1e-2),
}


@pytest.mark.parametrize(("mine", "other"), list(itertools.permutations(BASES, 2)))
def test_the_state_over_another_base_is_refused_and_training_goes_on_as_it_would_have(mine, other):
    (model, twin, third), part = (network() for _ in range(3)), batch()
    sam, same, source = (
        SAM(BASES[name](list(net.parameters())), RHO) for name, net in ((mine, model), (mine, twin), (other, third))
    )
    for each, net in ((sam, model), (same, twin), (source, third)):
        each.step(closure_of(each, net, [part])[0])
    with pytest.raises(ConfigError, match="load_state_dict needs"):
        sam.load_state_dict(source.state_dict())
    for each, net in ((sam, model), (same, twin)):
        each.step(closure_of(each, net, [part])[0])
    assert torch.equal(weights(model), weights(twin))
    sam.load_state_dict(same.state_dict())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_copy_trains_on_by_itself(name):
    model, parts = network(), [batch(5), batch(7)]
    sam = SAM(AdamW(model.parameters(), lr=1e-2), RHO, **SETTINGS[name])
    sam.step(closure_of(sam, model, parts)[0])
    both = copy.deepcopy((model, sam))
    before = weights(model)
    for _ in range(2):
        both[1].step(closure_of(both[1], both[0], parts)[0])
    assert torch.equal(weights(model), before)
    for _ in range(2):
        sam.step(closure_of(sam, model, parts)[0])
    assert torch.equal(weights(model), weights(both[0]))


# Scaled gradients


def test_a_gradient_scaler_changes_nothing_and_the_norm_is_that_of_the_loss():
    part = batch(dtype=torch.float32)
    ends = []
    for is_scaled in (False, True):
        model = network(torch.float32)
        sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=is_scaled)
        for _ in range(3):
            sam.zero_grad()
            scaler.scale(squared(model, part)).backward()
            with sam.ascent(grad_scale=scaler.get_scale()):
                scaler.scale(squared(model, part)).backward()
            scaler.unscale_(sam)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(sam)
            scaler.update()
        ends.append((weights(model), sam.grad_norm))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-5, atol=1e-6)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)


def test_a_step_the_scaler_skips_does_not_count_and_the_next_is_whole():
    model, parts = network(torch.float32), [batch(5, torch.float32), batch(7, torch.float32)]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=LR), RHO, micro_batches=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for factor in (math.inf, 1.0):
        w = weights(model)
        for part in parts:
            sam.zero_grad()
            scaler.scale(factor * squared(model, part)).backward()
            with sam.ascent():
                scaler.scale(factor * squared(model, part)).backward()
        scaler.step(sam)
        scaler.update(1.0)
        assert sam.num_steps == (factor == 1.0)
        assert torch.equal(weights(model), w) == (factor != 1.0)
    mean = sum(ascended(model, w, part, RHO) for part in parts) / 2
    torch.testing.assert_close(weights(model), w - LR * mean, rtol=1e-5, atol=1e-6)


# As a value


def test_the_rule_is_a_value_that_goes_through_toml_and_wraps_an_optimizer():
    rule = SharpnessAware(rho=0.2, adaptive=True, eta=0.1, micro_batches=2, sparsity=0.25, every=3)
    assert msgspec.convert(msgspec.to_builtins(rule), SharpnessAware) == rule
    sam = rule.wrap(GD(network().parameters(), lr=LR), seed=5)
    assert sam.rule == rule
    assert sam.seed == 5
    assert rule.label == "ASAM(rho=0.2, eta=0.1, micro_batches=2, sparsity=0.25, every=3)"
    assert SharpnessAware().label == "SAM(rho=0.05)"
    with pytest.raises(msgspec.ValidationError, match="roh"):
        msgspec.convert({"roh": 0.1}, SharpnessAware)
