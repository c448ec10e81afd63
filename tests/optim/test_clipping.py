"""Clipping against torch's, against a slow plain version of the paper's per-unit rule, and what it says of itself."""

import json
import math

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import methods
from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import SGD, AnyClipping, Clipped, Clipping, ClipTally, GlobalNormClip, UnitClip, ValueClip, freeze
from tightrope.parameters import share_storage

EVERY = [GlobalNormClip(0.5), ValueClip(0.05), UnitClip(0.01)]
every_clipping = pytest.mark.parametrize("clip", EVERY, ids=lambda clip: type(clip).__name__)
plainly = settings(max_examples=60, deadline=None, derandomize=True, database=None)
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
vectors = st.lists(st.lists(numbers, min_size=1, max_size=5), min_size=1, max_size=4)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).to(dtype)
    with torch.no_grad():
        model[3].weight[1].zero_()
    return model


def with_gradients(model, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for w in model.parameters():
        g = scale * torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
        w.grad.copy_(g) if w.grad is not None else setattr(w, "grad", g)
    return list(model.parameters())


def filled(*gradients):
    ws = [nn.Parameter(torch.ones(len(g), dtype=torch.float64)) for g in gradients]
    for w, g in zip(ws, gradients, strict=True):
        w.grad = torch.tensor(g, dtype=torch.float64)
    return ws


def joined(ws):
    return torch.cat([w.grad.flatten() for w in ws])


def test_the_global_norm_is_clipped_as_torch_does_but_for_its_fudge():
    ours, theirs = with_gradients(network()), with_gradients(network())
    norm = float(torch.nn.utils.clip_grad_norm_(theirs, 0.5))
    clipped = GlobalNormClip(0.5)(ours)
    assert clipped == Clipped(1, 1, clipped.norm, clipped.factor)
    assert clipped.norm == pytest.approx(norm, rel=1e-14)
    assert clipped.factor == pytest.approx(0.5 / norm, rel=1e-14)
    torch.testing.assert_close(joined(ours) * (norm / (norm + 1e-6)), joined(theirs), rtol=1e-14, atol=0)


def test_values_are_clipped_as_torch_does():
    ours, theirs = with_gradients(network()), with_gradients(network())
    before = joined(ours)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    clipped = ValueClip(0.3)(ours)
    assert torch.equal(joined(ours), joined(theirs))
    assert clipped.num_clipped == int((before.abs() > 0.3).sum()) == int((clipped.factor == 0).sum()) > 0
    assert clipped.num_units == before.numel() == clipped.factor.numel()
    assert torch.equal(clipped.factor == 0, before.abs() > 0.3)


def test_units_are_clipped_as_the_papers_rule_says():
    ours = with_gradients(network())
    expected = [methods.clip_units(w.detach().numpy(), w.grad.numpy(), 0.02, 1e-3) for w in ours]
    before = joined(ours)
    clipped = UnitClip(0.02)(ours)
    torch.testing.assert_close(joined(ours), torch.cat([torch.tensor(g).flatten() for g, *_ in expected]))
    assert clipped.num_clipped == sum(num for _, num, _ in expected)
    assert clipped.num_units == sum(total for *_, total in expected) == 3 + 1 + 1 + 1 + 4 + 1
    torch.testing.assert_close(before * clipped.factor, joined(ours), rtol=1e-14, atol=0)
    assert clipped.norm == pytest.approx(float(before.norm()), rel=1e-14)


def test_some_units_may_be_clipped_and_others_not():
    w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]]).double())
    w.grad = torch.tensor([[0.3, 0.4], [0.0, 2.0], [0.2, 0.3]]).double()
    clipped = UnitClip(0.01, eps=1e-3)([w])
    torch.testing.assert_close(w.grad, torch.tensor([[0.03, 0.04], [0.0, 1e-5], [0.2, 0.3]]).double())
    assert (clipped.num_clipped, clipped.num_units) == (2, 3)
    torch.testing.assert_close(clipped.factor, torch.tensor([0.1, 0.1, 5e-6, 5e-6, 1, 1]).double())


@plainly
@given(vectors, st.floats(1e-3, 1e3))
def test_a_clipped_norm_is_never_above_its_limit_and_keeps_its_direction(gradients, limit):
    ws = filled(*gradients)
    before = joined(ws)
    clipped = GlobalNormClip(limit)(ws)
    assert float(joined(ws).norm()) <= limit * (1 + 1e-14)
    torch.testing.assert_close(joined(ws), before * clipped.factor, rtol=1e-14, atol=0)
    assert 0 < clipped.factor <= 1
    assert (clipped.factor < 1) == bool(clipped.num_clipped)


@plainly
@given(vectors, st.sampled_from([GlobalNormClip(0.7), ValueClip(0.7), UnitClip(0.1)]))
def test_clipping_twice_is_clipping_once(gradients, clip):
    ws = filled(*gradients)
    clip(ws)
    once = joined(ws)
    clip(ws)
    torch.testing.assert_close(joined(ws), once, rtol=1e-14, atol=0)


@plainly
@given(vectors, st.floats(1e-3, 1e3))
def test_no_clipped_value_is_above_its_limit_and_no_other_moves(gradients, limit):
    ws = filled(*gradients)
    before = joined(ws)
    clipped = ValueClip(limit)(ws)
    assert float(joined(ws).abs().max()) <= limit
    assert torch.equal(joined(ws)[before.abs() <= limit], before[before.abs() <= limit])
    assert clipped.num_clipped == int((before.abs() > limit).sum())


@plainly
@given(vectors)
def test_no_clipped_unit_is_longer_than_its_share_of_its_weights(gradients):
    ws = filled(*gradients)
    UnitClip(0.1)(ws)
    assert all(float(w.grad.norm()) <= 0.1 * float(w.detach().norm()) * (1 + 1e-14) for w in ws)


@every_clipping
def test_an_inactive_clipping_writes_nothing(clip):
    ws = with_gradients(network(), scale=1e-6)
    before = [(w.grad.clone(), w.grad._version) for w in ws]
    clipped = clip(ws)
    assert (clipped.num_clipped, clipped.factor) == (0, 1.0)
    assert all(
        torch.equal(w.grad, g) and w.grad._version == version for w, (g, version) in zip(ws, before, strict=True)
    )


@every_clipping
def test_weights_are_never_touched(clip):
    ws = with_gradients(network())
    before = [w.detach().clone() for w in ws]
    clip(ws)
    assert all(torch.equal(w.detach(), old) for w, old in zip(ws, before, strict=True))


@every_clipping
def test_parameters_that_are_views_of_one_vector_are_clipped_in_it(clip):
    separate, shared = network(), network()
    w = share_storage(shared)
    expected = clip(with_gradients(separate))
    clipped = clip(with_gradients(shared))
    torch.testing.assert_close(w.grad, joined(list(separate.parameters())), rtol=1e-15, atol=0)
    assert clipped.num_clipped == expected.num_clipped > 0
    torch.testing.assert_close(clipped.factor, expected.factor, rtol=1e-15, atol=0)


@every_clipping
def test_a_parameter_without_gradient_is_left_out_but_keeps_its_place(clip):
    ws = with_gradients(network())
    ws[0].grad = None
    clipped = clip(ws)
    assert ws[0].grad is None
    if isinstance(clipped.factor, torch.Tensor):
        assert clipped.factor.numel() == sum(w.numel() for w in ws)
        assert (clipped.factor[: ws[0].numel()] == 1).all()
        assert (clipped.factor != 1).any()


@every_clipping
def test_nothing_to_clip_is_no_error(clip):
    assert clip([]).num_clipped == clip([nn.Parameter(torch.ones(3))]).num_clipped == 0
    assert clip([]).norm == 0


@every_clipping
def test_parameters_may_be_a_generator_or_one_tensor_and_repeated_ones_count_once(clip):
    listed, generated, repeated = network(), network(), network()
    expected = clip(with_gradients(listed))
    with_gradients(generated)
    assert clip(w for w in generated.parameters()).num_clipped == expected.num_clipped
    again = clip(with_gradients(repeated) * 2)
    torch.testing.assert_close(again.factor, expected.factor, rtol=0, atol=0)
    assert torch.equal(joined(list(repeated.parameters())), joined(list(listed.parameters())))
    lone = with_gradients(network())[0]
    assert clip(lone).num_units == clip([lone]).num_units


@every_clipping
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_the_gradient_and_is_told(clip, bad):
    ws = with_gradients(network())
    ws[0].grad[1, 0, 0, 0] = bad
    unit = ws[0].grad[1].clone()
    clipped = clip(ws)
    assert not clipped.is_finite
    assert math.isnan(clipped.norm) == math.isnan(bad)
    seen = ws[0].grad[1]
    assert math.isnan(seen[0, 0, 0]) if math.isnan(bad) else seen[0, 0, 0] == bad
    if not isinstance(clip, ValueClip):
        assert torch.equal(seen.nan_to_num(7.0), unit.nan_to_num(7.0))
    assert clipped.num_clipped == 0 if isinstance(clip, GlobalNormClip) else clipped.num_clipped > 0


@every_clipping
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_clipped_alike(clip, dtype):
    exact, low = with_gradients(network()), with_gradients(network(dtype))
    expected, clipped = clip(exact), clip(low)
    tolerance = 8 * torch.finfo(dtype).eps
    assert clipped.norm == pytest.approx(expected.norm, rel=tolerance)
    assert all(w.grad.dtype == dtype for w in low)
    torch.testing.assert_close(joined(low).double(), joined(exact), rtol=tolerance, atol=tolerance * 0.01)


def test_half_precision_gradients_do_not_overflow_their_norm():
    w = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    w.grad = torch.full_like(w, 6e4)
    assert GlobalNormClip(1.0)([w]).norm == pytest.approx(1.2e5, rel=1e-3)
    torch.testing.assert_close(w.grad, torch.full_like(w, 0.5))


@every_clipping
@pytest.mark.parametrize("size", [1e18, 1e20, 1e30, 3e38])
def test_gradients_whose_squares_leave_single_precision_are_clipped(clip, size):
    exact, single = with_gradients(network(), size / 5), with_gradients(network(torch.float32), size / 5)
    # Every single number is within 5 of 0, so all of them are finite in single precision.
    assert float(joined(exact).abs().max()) < size
    expected, clipped = clip(exact), clip(single)
    assert clipped.is_finite
    assert clipped.norm == pytest.approx(expected.norm, rel=1e-6)
    assert clipped.num_clipped == expected.num_clipped > 0
    torch.testing.assert_close(joined(single).double(), joined(exact), rtol=1e-5, atol=0)


def test_a_unit_that_is_not_finite_does_not_save_one_that_is_too_long():
    w = nn.Parameter(torch.ones(2, 4))
    w.grad = torch.tensor([[math.nan, 1.0, 1.0, 1.0], [1e25, 0.0, 0.0, 0.0]])
    clipped = UnitClip(0.01)([w])
    assert (clipped.num_clipped, clipped.num_units, clipped.is_finite) == (1, 2, False)
    torch.testing.assert_close(w.grad[1], torch.tensor([0.02, 0.0, 0.0, 0.0]))
    assert w.grad[0].nan_to_num(7.0).tolist() == [7.0, 1.0, 1.0, 1.0]


@every_clipping
@pytest.mark.parametrize("given_", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), None, 3.0, ["weight"], [None]])
def test_what_is_no_tensor_is_refused(clip, given_):
    with pytest.raises(ConfigError, match=r"must be tensors; got \w+\. Give those of model\.parameters\(\)\.$"):
        clip(given_)


@every_clipping
@pytest.mark.parametrize("g", [torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)])
def test_a_sparse_or_complex_gradient_is_refused(clip, g):
    w = torch.zeros(2, dtype=g.dtype)
    w.requires_grad_().grad = g
    with pytest.raises(ShapeError, match="must be real and dense"):
        clip([w])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlobalNormClip(0.0), "max_norm must be positive and finite; got 0"),
        (lambda: GlobalNormClip(math.inf), "max_norm must be positive"),
        (lambda: ValueClip(-1), "limit must be positive"),
        (lambda: UnitClip(factor=math.nan), "factor must be positive"),
        (lambda: UnitClip(eps=0.0), "eps must be positive"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@every_clipping
def test_a_clipping_is_its_configuration(clip):
    assert msgspec.convert(msgspec.to_builtins(clip), AnyClipping) == clip
    assert {type(each) for each in EVERY} == set(Clipping.__subclasses__())


@every_clipping
def test_with_the_clipping_held_fixed_the_edge_is_where_the_factor_puts_it(clip):
    """On a quadratic whose gradient is clipped by the same factor at every step, D times the factor is the scaling."""
    curvatures = torch.linspace(1.0, 3.0, 6).double()
    w = nn.Parameter(torch.ones(6).double())
    w.grad = curvatures.clone()
    clipped = UnitClip(1.0)([w]) if isinstance(clip, UnitClip) else GlobalNormClip(2.0)([w])
    if isinstance(clip, ValueClip):
        w.grad = curvatures.clone()
        clipped = ValueClip(2.0)([w])
    for side in (0.99, 1.01):
        optimizer = SGD([w], 1.0)
        ratio = float((freeze(optimizer).D * clipped.factor * curvatures).max())
        optimizer.param_groups[0]["lr"] = side / ratio
        w.data = torch.ones(6).double()
        for _ in range(3000):
            w.grad = clipped.factor * curvatures * w.detach()
            optimizer.step()
        grown = clipped.factor * w.detach()
        assert (float(grown.norm()) < 1e-3) == (side < 1)


def test_a_tally_says_how_often_clipping_acted_and_how_hard():
    tally = ClipTally(GlobalNormClip(1.0).label)
    for norm in [0.5] * 63 + [2.0] * 10 + [1 / 0.42] * 18 + [8.0] * 9:
        (w,) = filled([norm])
        tally.add(GlobalNormClip(1.0)([w]))
    assert tally.words == "clipping acted on 37 of 100 steps (global norm 1; median factor 0.42)"


def test_a_tally_of_units_tells_their_share_and_counts_what_was_not_finite():
    tally = ClipTally(ValueClip(0.5).label)
    assert tally.words == "clipping acted on 0 of 0 steps (value 0.5)"
    tally.add(ValueClip(0.5)(filled([1.0, 0.1, math.nan, 0.2])))
    tally.add(ValueClip(0.5)(filled([0.0, 0.1, 0.3, 0.2])))
    assert tally.words == (
        "clipping acted on 1 of 2 steps (value 0.5; 12.50% of units; gradients not finite on 1, left as they were)"
    )
    assert tally.share_clipped == 1 / 8


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40))
def test_the_median_factor_is_within_half_a_percent(factors):
    tally = ClipTally("")
    for factor in factors:
        tally.add(Clipped(1, 1, 1.0, factor))
    median = sorted(factors)[(len(factors) - 1) // 2]
    assert tally.median_factor == pytest.approx(median, rel=0.00502)


def test_a_tally_goes_on_from_what_a_checkpoint_held():
    whole, before = ClipTally("global norm 1"), ClipTally("global norm 1")
    steps = [Clipped(1, 1, 2.0, 0.5), Clipped(0, 1, 0.3), Clipped(0, 1, math.nan), Clipped(1, 1, 9.0, 1 / 9)]
    for clipped in steps[:2]:
        before.add(clipped)
    after = ClipTally.from_dict(json.loads(json.dumps(before.to_dict())))
    for clipped in steps[2:]:
        after.add(clipped)
    for clipped in steps:
        whole.add(clipped)
    assert after == whole
    assert before.num_steps == 2
