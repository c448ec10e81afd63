"""The running mean of weights."""

import json

import pytest
import torch

from tightrope.errors import ShapeError
from tightrope.optim import SGD, WarmRestarts, WeightAverage


def averaged(ws):
    average = WeightAverage()
    for w in ws:
        average.update(w)
    return average


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_average_is_the_mean_in_float64(dtype):
    ws = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    average = averaged(ws)
    assert average.count == 50
    torch.testing.assert_close(average.w, ws.double().mean(0), rtol=1e-13, atol=1e-15)


def test_one_vector_or_equal_ones_have_themselves_as_mean_bit_for_bit():
    w = torch.tensor([0.1, -3.3e20, 7.7e-20])
    assert all(torch.equal(averaged([w] * count).w, w.double()) for count in (1, 2, 3, 10))


def test_a_long_average_of_single_precision_keeps_moving():
    """A float32 mean near 1 stops at steps below 6e-8: after 20,000 vectors a change of 1e-3 would not be seen."""
    average = WeightAverage(torch.ones(1).double(), 20_000)
    for _ in range(20_000):
        average.update(torch.tensor([1.001]))
    assert average.w.item() == pytest.approx(1 + (torch.tensor(1.001).item() - 1) / 2, rel=1e-13)


def test_the_weights_given_are_copied_and_left_alone():
    w = torch.nn.Parameter(torch.ones(3).double())
    average = averaged([w])
    w.data.zero_()
    assert torch.equal(average.w, torch.ones(3).double())
    average.update(w)
    assert torch.equal(w.detach(), torch.zeros(3).double())
    assert not average.w.requires_grad


def test_weights_of_another_length_are_refused():
    average = averaged([torch.ones(3)])
    with pytest.raises(ShapeError, match=r"must be \(3,\); got \(4,\)"):
        average.update(torch.ones(4))
    assert average.count == 1


def test_what_is_not_finite_is_not_hidden():
    assert averaged([torch.ones(2), torch.tensor([1.0, float("nan")])]).w.isnan().tolist() == [False, True]


def test_an_average_goes_on_from_its_two_fields_bit_for_bit():
    ws = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    before = averaged(ws[:5])
    resumed = WeightAverage(before.w.clone(), json.loads(json.dumps(before.count)))
    for w in ws[5:]:
        resumed.update(w)
    assert torch.equal(resumed.w, averaged(ws).w)
    assert before.count == 5


def test_averaging_over_restart_ends_is_the_mean_of_the_weights_there():
    schedule = WarmRestarts(period=4, growth=2)
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer, average, path = SGD([w], 0.1), WeightAverage(), []
    for step in range(28):
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step)
        w.grad = w.detach().clone()
        optimizer.step()
        path.append(w.detach().clone())
        if schedule.is_end(step):
            average.update(w)
    assert average.count == 3
    torch.testing.assert_close(average.w, torch.stack([path[3], path[11], path[27]]).double().mean(0))
