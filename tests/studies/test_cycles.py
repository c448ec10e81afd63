"""What happens step by step: lags against delays that were put in, spikes against those that were."""

import numpy as np
import pytest

from tightrope.studies import OrderOfEvents, Outcome, SharpnessOverACycle, SpikesInTheTop, cycles
from tightrope.studies.cycles import Stretch, is_ordered, lag, running_median

from .made_up import made_up

STEPS = np.arange(101, 301)
TIME = STEPS - 101


def wave(delay, period=50.0):
    return np.sin(2 * np.pi * (TIME - delay) / period)


def looked_at(ratio, *, label="run", residual=0.001, grad=None, nu=None, sharpness=None, **more):
    n = len(STEPS)
    norms = {"step": STEPS.astype(float), "grad_norm": np.exp(grad) if grad is not None else np.ones(n)}
    return made_up(
        label,
        config={"measure": {"window": [101, 300]}},
        steps=norms,
        step=STEPS,
        ratio=ratio,
        residual=np.full(n, residual),
        second_moment_norm=np.exp(nu) if nu is not None else np.ones(n),
        sharpness=sharpness if sharpness is not None else np.ones(n),
        **more,
    )


def test_the_lag_is_the_delay_that_was_put_in():
    noise = np.random.default_rng(0).normal(size=400)
    for delay in (-7, 0, 3, 12):
        place, correlation = lag(noise[20:-20], noise[20 - delay : 380 - delay], 15)
        assert (place, correlation) == (delay, pytest.approx(1.0))


def stretch_of(ratio):
    columns = {name: np.zeros(len(ratio)) for name in Stretch.__dataclass_fields__}
    return Stretch(**{**columns, "ratio": np.array(ratio), "residual": np.full(len(ratio), 0.01)})


def test_a_crossing_is_sure_at_both_ends_of_the_residual():
    assert stretch_of([0.985, 1.0, 1.02, 1.0, 1.02, 0.96, 1.005, 1.02]).crossings() == [2, 7]
    assert stretch_of([0.995, 1.02, 0.96, 1.02]).crossings() == [3]


def test_a_ripple_around_the_edge_is_no_cycle():
    assert stretch_of([0.96, 1.02, 0.98, 1.02, 0.975, 1.02, 0.96, 1.02]).crossings() == [1, 7]


def test_a_fall_is_from_the_highest_to_the_lowest_ratio_of_a_cycle_that_came_to_its_end():
    stretch = stretch_of([0.95, 1.02, 1.3, 1.1, 0.9, 0.8, 0.95, 1.02, 1.2, 0.94, 0.96, 1.02, 1.1, 0.99])
    assert stretch.falls() == [(2, 5), (8, 9)]


ORDERED = {"ratio": 1 + 0.05 * wave(0), "grad": wave(8), "nu": 0.3 * wave(16)}


def test_events_in_the_papers_order_pass_with_the_lags_that_were_put_in():
    # As nu grows the ratio falls: the fall of a sine is that of its shift by half a period.
    [found] = OrderOfEvents("run").judge([looked_at(**ORDERED)])
    assert (found.number, found.result) == ("+8, +8, +9", "PASS")
    assert found.why.startswith("3 crossings")


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"grad": wave(-8)}, "MISS"),
        ({"nu": wave(2)}, "MISS"),
        ({"grad": np.random.default_rng(0).normal(size=200)}, "MISS"),
        ({"ratio": 1 + 0.0 * TIME}, "UNDECIDED"),
    ],
)
def test_another_order_or_none_does_not_pass(change, result):
    [found] = OrderOfEvents("run").judge([looked_at(**{**ORDERED, **change})])
    assert found.result == result


@pytest.mark.parametrize(
    ("places", "correlation", "expected"),
    [
        ((8, 8, 0), 0.5, True),
        ((25, 8, 0), 0.5, None),
        ((8, 8, -25), 0.5, None),
        ((25, 8, -1), 0.5, False),
        ((0, 8, 0), 0.5, False),
        ((8, -3, 0), 0.5, False),
        ((8, 8, 0), 0.29, False),
    ],
)
def test_a_correlation_that_is_largest_where_the_search_ends_is_open_unless_another_is_out_of_order(
    places, correlation, expected
):
    assert is_ordered([(place, correlation) for place in places], 25) is expected


def test_an_order_that_is_open_says_where_the_search_ends(monkeypatch):
    monkeypatch.setattr(cycles, "_lags", lambda *_: [(25, 0.5), (8, 0.5), (0, 0.5)])
    [found] = OrderOfEvents("run").judge([looked_at(**ORDERED)])
    assert (found.number, found.result) == ("+25, +8, +0", "UNDECIDED")
    assert found.why.endswith("one is largest 25 steps off, where the search ends")


def test_what_was_not_found_at_every_step_of_the_window_is_open():
    hole = np.where(TIME == 70, np.nan, 1.0)
    blind = looked_at(1 + 0.05 * wave(0), sharpness=hole, sharpness_residual=np.zeros(200), grad=np.log(hole))
    spikes = looked_at(1 + 0.05 * wave(0), semi_gradient_sq=1 + 9.0 * (TIME % 40 == 5), semi_gradient_sq_top=hole)
    checks = SharpnessOverACycle("claim", "run", falls=False), OrderOfEvents("run"), SpikesInTheTop("claim", 0.9)
    found = [check.judge([outcome])[0] for check, outcome in zip(checks, (blind, blind, spikes), strict=True)]
    assert [each.result for each in found] == ["UNDECIDED"] * 3
    assert [each.why.split(" is not known")[0] for each in found] == ["sharpness", "grad norm", "semi gradient sq top"]


def test_two_cycles_decide_nothing():
    ratio = 1 + 0.05 * wave(30, period=90.0)
    sharpness = {"sharpness": np.exp(-1e-3 * TIME), "sharpness_residual": np.zeros(200)}
    for check in (OrderOfEvents("run"), SharpnessOverACycle("claim", "run", falls=True)):
        [found] = check.judge([looked_at(ratio, **sharpness)])
        assert found.result == "UNDECIDED"
        assert found.why.startswith("2 c")


@pytest.mark.parametrize(
    ("slope", "falls", "residual", "result"),
    [
        (-1e-3, True, 0.0, "PASS"),
        (-1e-3, False, 0.0, "MISS"),
        (1e-3, False, 0.0, "PASS"),
        (-1e-3, True, 0.3, "UNDECIDED"),
    ],
)
def test_sharpness_is_followed_from_the_highest_to_the_lowest_ratio_of_a_cycle(slope, falls, residual, result):
    sharpness = 10 * np.exp(slope * TIME)
    outcome = looked_at(1 + 0.05 * wave(0), sharpness=sharpness, sharpness_residual=np.full(200, residual))
    [found] = SharpnessOverACycle("claim", "run", falls).judge([outcome])
    assert found.result == result
    expected = np.exp(slope * 25) - 1  # half a period
    assert float(found.number.split("%")[0]) == pytest.approx(100 * expected, abs=0.2)


def test_the_running_median_is_that_of_the_surroundings():
    values = np.random.default_rng(1).normal(size=100)
    found = running_median(values)
    assert found[50] == np.median(values[30:71])
    assert found[0] == np.median([*[values[0]] * 20, *values[:21]])


@pytest.mark.parametrize(("share", "result"), [(0.95, "PASS"), (0.85, "MISS")])
def test_the_share_of_the_spikes_in_the_top_is_that_which_was_put_in(share, result):
    spikes = np.where(TIME % 40 == 5, 9.0, 0.0)
    ripple = np.where((TIME % 3 == 1) & (spikes == 0), 0.2, 0.0)  # above the median, and no spike
    whole, top = 1 + ripple + spikes, 0.2 + share * spikes
    outcome = looked_at(1 + 0.05 * wave(0), semi_gradient_sq=whole, semi_gradient_sq_top=top)
    [found] = SpikesInTheTop("claim", 0.9).judge([outcome])
    assert (found.number, found.result) == (f"{share:.1%}", result)
    assert found.why == "5 of 200 steps are spikes, up to 10 times the median"


def test_a_window_that_the_run_did_not_come_to_the_end_of_is_open():
    outcome = looked_at(1 + 0.05 * wave(0), semi_gradient_sq=np.ones(200), semi_gradient_sq_top=np.ones(200))
    outcome.record.config["measure"]["window"] = [101, 400]
    [found] = SpikesInTheTop("claim", 0.9).judge([outcome])
    assert (found.result, found.why) == ("UNDECIDED", "the window was not measured to its end")


def test_a_window_without_spikes_or_not_measured_is_open():
    calm = looked_at(1 + 0.05 * wave(0), semi_gradient_sq=np.ones(200), semi_gradient_sq_top=np.ones(200))
    blind = looked_at(np.full(200, np.nan))
    for outcome in (calm, blind, Outcome("run")):
        [found] = SpikesInTheTop("claim", 0.9).judge([outcome])
        assert found.result == "UNDECIDED"
        assert found.why
