"""What a run does on its plateau beside staying there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tightrope.studies import Outcome, RawGrowth, RisesWhenFrozen, StaysShort

from .made_up import made_up, plateau

STEPS = np.arange(100, 8001, 100)


def sharpening(factor, residual=0.0, **more):
    """Raw sharpness that grows evenly from 10 to 10 x factor over the plateau, steps 4000 to 8000."""
    sharpness = 10 * factor ** np.clip((STEPS - 4000) / 4000, 0, 1)
    residuals = np.full(len(STEPS), residual)
    return made_up("run", step=STEPS, sharpness=sharpness, sharpness_residual=residuals, verdict=plateau(4000), **more)


def test_growth_is_that_of_the_medians_of_the_outer_quarters():
    [found] = RawGrowth("rises", (1.5, math.inf)).judge([sharpening(4.0)])
    places = np.linspace(0, 1, 41)
    expected = 4 ** (np.median(places[-10:]) - np.median(places[:10]))
    assert found.number.startswith(f"{expected:.3f}")
    assert found.result == "PASS"


@pytest.mark.parametrize(
    ("factor", "residual", "band", "result"),
    [
        (4.0, 0.0, (-math.inf, 1.15), "MISS"),
        (1.0, 0.0, (-math.inf, 1.15), "PASS"),
        (1.0, 0.5, (-math.inf, 1.15), "PASS"),
        (1.0, 1.0, (-math.inf, 1.15), "UNDECIDED"),
        (1.2, 0.0, (1.5, math.inf), "MISS"),
    ],
)
def test_both_ends_of_the_residual_decide(factor, residual, band, result):
    [found] = RawGrowth("claim", band).judge([sharpening(factor, residual)])
    assert found.result == result


def test_growth_is_open_where_there_is_nothing_to_see():
    short = made_up("short", step=STEPS, sharpness=STEPS, verdict={"plateau_start": None})
    few = made_up("few", step=[100, 8000], sharpness=[1, 2], verdict=plateau(4000))
    found = RawGrowth("rises", (1.5, math.inf)).judge([short, few, Outcome("waiting")])
    assert [each.result for each in found] == ["UNDECIDED"] * 3
    assert [each.why for each in found] == ["the run has no plateau", "raw sharpness was measured 1 times on it",
                                            "not run yet"]  # fmt: skip


def test_the_run_with_the_smallest_rate_can_be_judged_alone():
    runs = [replace(sharpening(factor), config={"method": {"lr": lr}}) for factor, lr in ((1.0, 0.1), (4.0, 1e-3))]
    check = RawGrowth("rises", (1.5, math.inf), only_smallest=True)
    assert [each.result for each in check.judge(runs)] == ["PASS"]
    assert [each.result for each in check.judge([runs[0]])] == ["MISS"]


def test_a_run_that_may_end_short_of_its_edge_has_no_plateau_to_be_judged():
    check = RawGrowth("stops rising", (-math.inf, 1.15), may_fall_short=("short", "run", "waiting"))
    short = made_up("short", step=STEPS, sharpness=STEPS, verdict={"name": "stable", "plateau_start": None})
    assert check.judge([short]) == []
    assert [each.result for each in check.judge([sharpening(4.0), Outcome("waiting")])] == ["MISS", "UNDECIDED"]
    assert [each.result for each in RawGrowth("stops rising", (-math.inf, 1.15)).judge([short])] == ["UNDECIDED"]


def frozen_at(after, ratio, first_step, residual=0.001, median=1.0):
    verdict = {**plateau(6000, median=median), "first_step": first_step}
    residuals = np.full(len(STEPS), residual)
    config = {"freeze": {"after": after}}
    return made_up("frozen", step=STEPS, ratio=ratio, residual=residuals, verdict=verdict, config=config)


LEAP = np.where(STEPS <= 3000, 0.7, 1.0)


@pytest.mark.parametrize(
    ("outcome", "results"),
    [
        (frozen_at(3000, LEAP, 3500), ["PASS", "PASS"]),
        (frozen_at(3000, LEAP + 0.25, 3500), ["MISS", "PASS"]),
        (frozen_at(3000, LEAP, 3500, residual=0.3), ["UNDECIDED", "PASS"]),
        (frozen_at(3000, LEAP, 3500, median=0.8), ["PASS", "MISS"]),
        (frozen_at(3000, LEAP, 2500), ["PASS", "UNDECIDED"]),
        (frozen_at(50, LEAP, 3500), ["UNDECIDED", "PASS"]),
        (Outcome("frozen"), ["UNDECIDED"]),
    ],
)
def test_short_before_p_is_frozen_and_at_the_edge_after(outcome, results):
    check = RisesWhenFrozen("the ratio stays short", 0.9, (0.9, 1.1), "frozen")
    assert [each.result for each in check.judge([outcome])] == results


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (made_up("run", step=[1, 100, 200], ratio=[900.0, 0.5, 0.8], residual=[0.01] * 3), "PASS"),
        (made_up("run", step=[1, 100, 200], ratio=[900.0, 0.5, 0.95], residual=[0.01] * 3), "MISS"),
        (made_up("run", step=[1, 100, 200], ratio=[900.0, 0.5, 0.895], residual=[0.01] * 3), "UNDECIDED"),
        (made_up("run", step=[1, 9], ratio=[900.0, 0.5]), "UNDECIDED"),
        (made_up("run", step=[1, 100, 200], ratio=[900.0, 0.5, np.nan], residual=[0.01] * 3), "UNDECIDED"),
        (made_up("run", step=[1, 100], ratio=[900.0, 0.5], outcome="diverged"), "MISS"),
        (Outcome("run"), "UNDECIDED"),
    ],
)
def test_a_run_stays_short_where_its_highest_ratio_past_the_first_steps_does(outcome, result):
    assert StaysShort("claim", 0.9).judge([outcome])[0].result == result


def test_one_run_alone_can_be_asked_whether_it_stays_short():
    short, long = (made_up(name, step=[100], ratio=[ratio]) for name, ratio in (("short", 0.5), ("long", 1.5)))
    [found] = StaysShort("claim", 0.9, label="short").judge([long, short])
    assert (found.claim, found.result) == ("short: claim", "PASS")
    assert [each.result for each in StaysShort("claim", 0.9).judge([long, short])] == ["MISS", "PASS"]
