"""Which parameters hold a direction: shares that sum to one, names that are right, tied parameters once."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tightrope.curvature import Hessian, layer_shares, participation, top_eigenvalues
from tightrope.errors import ShapeError
from tightrope.parameters import Layout, flatten, trainable

NAMED = {"first.weight": torch.zeros(2, 3), "first.bias": torch.zeros(2), "last": torch.zeros(())}


def test_each_parameter_has_the_share_of_its_entries():
    v = torch.tensor([3.0, 0, 0, 0, 0, 4.0, 5.0, 0, 0])
    weight, bias, last = layer_shares(v, NAMED)
    assert [each.name for each in (weight, bias, last)] == list(NAMED)
    assert [each.size for each in (weight, bias, last)] == [6, 2, 1]
    assert [each.share for each in (weight, bias, last)] == pytest.approx([0.5, 0.5, 0.0])
    assert weight.participation == pytest.approx(25**2 / (81 + 256))
    assert (bias.participation, last.participation) == pytest.approx((1.0, 0.0))


@given(values=st.lists(st.floats(-1e300, 1e300).filter(lambda x: abs(x) > 1e-300), min_size=9, max_size=9))
def test_shares_sum_to_one_and_participation_counts_coordinates(values):
    v = torch.tensor(values, dtype=torch.float64)
    shares = layer_shares(v, NAMED)
    assert sum(each.share for each in shares) == pytest.approx(1, abs=1e-12)
    assert all(0 <= each.participation <= each.size * (1 + 1e-12) for each in shares)
    u = v / v.abs().max()
    u = u / u.norm()
    assert participation(v) == pytest.approx(1 / float((u**4).sum()), rel=1e-12)
    assert 1 - 1e-12 <= participation(v) <= 9 * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e38])
def test_the_length_of_the_direction_does_not_matter(scale):
    v = torch.tensor([3.0, 0, 0, 0, 0, 1.0, 2.0, 0, 0]) / 3
    assert participation(scale * v) == pytest.approx(participation(v), rel=1e-5)
    for one, same in zip(layer_shares(v, NAMED), layer_shares(scale * v, NAMED), strict=True):
        assert same.share == pytest.approx(one.share, rel=1e-5)
        assert same.participation == pytest.approx(one.participation, rel=1e-5)


def test_an_even_direction_is_held_by_all_and_a_unit_vector_by_one():
    assert participation(torch.ones(1000)) == pytest.approx(1000)
    assert participation(torch.eye(1000)[3]) == 1
    assert [each.participation for each in layer_shares(torch.ones(9), NAMED)] == pytest.approx([6, 2, 1])


def test_layouts_mappings_and_pairs_are_all_taken():
    v = torch.arange(9.0)
    layout = Layout.of(NAMED.items())
    assert layer_shares(v, layout) == layer_shares(v, NAMED) == layer_shares(v, iter(NAMED.items()))


def tied_model():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    return model


def test_a_tied_parameter_counts_once_under_its_first_name():
    model = tied_model()
    everything = list(model.named_parameters(remove_duplicate=False))
    once = layer_shares(torch.ones(24), everything)
    assert [each.name for each in once] == ["0.weight", "0.bias", "2.bias"]
    assert sum(each.share for each in once) == pytest.approx(1)


def test_the_sharp_direction_of_a_model_is_traced_to_the_layer_that_makes_it():
    """One layer's inputs are a hundred times longer than the other's, and its curvature ten thousand times."""
    torch.manual_seed(0)
    quiet, loud = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    model = torch.nn.ModuleDict({"quiet": quiet, "loud": loud}).double()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H = Hessian(model, lambda model, x: (model["quiet"](x) + model["loud"](100 * x)).pow(2).mean(), x)
    shares = layer_shares(top_eigenvalues(H, rtol=1e-6).vectors[:, 0], trainable(model))
    by_name = {each.name: each.share for each in shares}
    assert list(by_name) == ["quiet.weight", "quiet.bias", "loud.weight", "loud.bias"]
    assert by_name["loud.weight"] > 0.999


def test_names_follow_the_order_of_the_flat_vector():
    model = tied_model()
    parts = trainable(model)
    for wanted in parts:
        v = flatten([torch.full_like(part, float(name == wanted)) for name, part in parts.items()])
        assert {each.name: each.share for each in layer_shares(v, parts)}[wanted] == pytest.approx(1)


@pytest.mark.parametrize("bad", [torch.zeros(9), torch.full((9,), math.nan), torch.full((9,), math.inf)])
def test_no_direction_has_no_shares(bad):
    assert math.isnan(participation(bad))
    for each in layer_shares(bad, NAMED):
        assert math.isnan(each.share)
        assert math.isnan(each.participation)


def test_one_infinite_entry_spoils_all():
    v = torch.ones(9)
    v[2] = math.inf
    assert all(math.isnan(each.share) for each in layer_shares(v, NAMED))


def test_a_share_goes_through_json():
    [share] = layer_shares(torch.ones(4), {"w": torch.zeros(2, 2)})
    assert json.loads(json.dumps(share.to_dict())) == {"name": "w", "share": 1.0, "participation": 4.0, "size": 4}


def test_a_parameter_without_entries_holds_nothing():
    empty, rest = layer_shares(torch.ones(2), {"empty": torch.zeros(0, 3), "rest": torch.zeros(2)})
    assert (empty.share, empty.participation, empty.size) == (0, 0, 0)
    assert rest.share == pytest.approx(1)


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"must be \(9,\); got \(8,\)"):
        layer_shares(torch.ones(8), NAMED)
    with pytest.raises(ShapeError, match=r"participation: the vector must be \(p,\); got \(8, 1\)"):
        participation(torch.ones(8, 1))
