"""What becomes of the ratio while the learning rate warms up, on runs made up for each check."""

import numpy as np
import pytest

from tightrope.studies import STUDIES, LargerBatchHigher, Outcome, PushedDown, ShortOnAverage, SpikesLate

from .made_up import made_up

STEPS = np.arange(0, 601, 50)
STEPS[0] = 1
BAND = (0.6, 1.2)


def warming(label, ratio, residual=0.01, warmup=500, at=STEPS, outcome="completed"):
    """A run of 600 steps whose rate warms up over the first 500; the threshold is 38/lr with a peak rate of 1e-3."""
    rate = 1e-3 * np.minimum(1, np.asarray(at) / warmup)
    config = {"schedule": {"name": "linear_warmup", "num_steps": warmup}}
    measured = {"step": at, "ratio": ratio, "residual": np.full(len(at), residual), "threshold": 38 / rate}
    return made_up(label, config=config, outcome=outcome, **measured)


def rising(crosses, level=1.0, below=0.3):
    """A ratio that is `level` from a step on, and small before it."""
    return np.where(crosses <= STEPS, level, below)


def pushed(ratio, residual=0.01, **options):
    check = PushedDown("pushed down", ("run",), BAND, falls=3, **options)
    return check.judge([warming("run", ratio, residual), warming("another", ratio)])


def test_the_threshold_falls_by_the_rates_of_the_end_of_warmup_and_the_crossing():
    [band, fall] = pushed(rising(150))
    assert band.claim == "run: pushed down"
    assert fall.number == "3.33 times"  # 500 / 150; the last step, 600, is past the warmup
    assert [band.result, fall.result] == ["PASS", "PASS"]
    assert band.why == "8 of 8 in it, median 1.000, steps 150 to 500"
    assert fall.why == "steps 150 to 500"


@pytest.mark.parametrize(
    ("ratio", "residual", "results"),
    [
        (rising(200), 0.01, ["PASS", "MISS"]),  # 500 / 200 is less than 3
        (np.where(STEPS == 400, 1.3, rising(150)), 0.01, ["MISS", "PASS"]),
        (np.where(STEPS == 400, 0.5, rising(150)), 0.01, ["MISS", "PASS"]),
        (np.where(STEPS == 600, 5.0, rising(150)), 0.01, ["PASS", "PASS"]),
        (np.where(STEPS == 1, 5.0, rising(150)), 0.01, ["PASS", "PASS"]),
        (np.where(STEPS == 400, 1.19, rising(150)), 0.02, ["UNDECIDED", "PASS"]),
        (np.where(STEPS == 150, 0.905, rising(200)), 0.01, ["PASS", "UNDECIDED"]),
        (np.full(len(STEPS), np.nan), 0.01, ["UNDECIDED"]),
        (rising(150, level=0.8), 0.01, ["MISS"]),
        (rising(350), 0.01, ["UNDECIDED", "MISS"]),
    ],
)
def test_every_ratio_from_the_crossing_to_the_end_of_warmup_counts_and_no_other(ratio, residual, results):
    assert [finding.result for finding in pushed(ratio, residual)] == results


def test_a_run_that_is_to_stay_short_crosses_lower():
    assert [finding.result for finding in pushed(rising(150, level=0.8), reaches=0.6)] == ["PASS", "PASS"]


def test_what_comes_late_can_be_left_to_another_check():
    spiking = np.where(STEPS > 400, 3.0, rising(100))
    assert [finding.result for finding in pushed(spiking)] == ["MISS", "PASS"]
    [band, fall] = pushed(spiking, share=0.8)
    assert [band.result, fall.result, fall.number] == ["PASS", "PASS", "5 times"]
    assert [finding.result for finding in pushed(rising(450), share=0.8)] == ["MISS"]
    [found] = LargerBatchHigher("higher", (("run", "small"),), share=0.8).judge(
        [warming("run", spiking), warming("small", rising(100, level=0.7))]
    )
    assert found.number == "1.000 against 0.700"


@pytest.mark.parametrize(("outcome", "result"), [("diverged", "MISS"), ("completed", "UNDECIDED")])
def test_a_run_that_ends_within_the_warmup_is_not_pushed_down(outcome, result):
    check = PushedDown("pushed down", ("run",), BAND, falls=3)
    [found] = check.judge([warming("run", rising(150), warmup=601, outcome=outcome)])
    assert found.result == result
    assert found.why.endswith("at step 600, while the rate warmed up")


@pytest.mark.parametrize(
    ("small", "residual", "result"),
    [(0.8, 0.01, "PASS"), (1.1, 0.01, "MISS"), (1.0, 0.0, "MISS"), (0.97, 0.02, "UNDECIDED")],
)
def test_batches_are_compared_from_the_crossing_of_the_larger_one_on(small, residual, result):
    # Before the crossing, and after the warmup, the smaller batch is far above the larger one.
    theirs = np.where((STEPS >= 150) & (STEPS <= 500), small, 9.0)
    outcomes = [warming("large", rising(150), residual), warming("small", theirs, residual)]
    [found] = LargerBatchHigher("higher", (("large", "small"),)).judge(outcomes)
    assert found.result == result
    assert found.number == f"1.000 against {small:.3f}"


def test_batches_are_compared_at_steps_measured_in_both():
    [found] = LargerBatchHigher("higher", (("large", "small"),)).judge(
        [warming("large", rising(150)), warming("small", [0.5, 0.7, 9.0], at=np.array([200, 300, 325]))]
    )
    assert found.number == "1.000 against 0.600"
    assert found.why == "means over 2 steps from 200 on; it is above at 2 of them"


@pytest.mark.parametrize(
    ("level", "residual", "result"),
    [(0.9, 0.01, "PASS"), (1.05, 0.01, "MISS"), (0.99, 0.02, "UNDECIDED"), (0.5, 0.01, "UNDECIDED")],
)
def test_the_mean_ratio_of_a_run_that_is_to_stay_short_counts_from_where_it_comes_near(level, residual, result):
    check = ShortOnAverage("short", "run", reaches=0.6, share=0.8)
    late = np.where(STEPS > 400, 9.0, rising(150, level))  # left to another check
    [found] = check.judge([warming("run", late, residual), warming("another", rising(150, 3.0))])
    assert found.result == result
    assert found.why == (
        "mean over steps 150 to 400" if level > 0.6 else "0 measurements from the first ratio of 0.6 on"
    )


@pytest.mark.parametrize(
    ("post", "pre", "results"),
    [
        (2.0, 1.1, ["PASS", "PASS"]),
        (1.1, 1.0, ["MISS", "PASS"]),
        (2.0, 2.5, ["PASS", "MISS"]),
        (1.205, 1.195, ["UNDECIDED", "UNDECIDED"]),
        (np.nan, 1.0, ["UNDECIDED", "UNDECIDED"]),
    ],
)
def test_a_spike_is_the_highest_ratio_late_in_warmup(post, pre, results):
    # Early, and after the warmup, the other run is the higher one.
    ours = [warming("post", np.where(STEPS == 450, post, np.where(np.isnan(post), np.nan, 0.9)))]
    theirs = [warming("pre", np.where((STEPS > 300) & (STEPS <= 500), pre, 9.0))]
    found = SpikesLate("it spikes", (("post", "pre"),), above=1.2, share=0.6).judge(ours + theirs)
    assert [finding.result for finding in found] == results


def test_what_is_not_there_yet_is_open_and_says_why():
    here = warming("run", rising(150))
    checks = [
        PushedDown("pushed down", ("waiting",), BAND, falls=3),
        ShortOnAverage("short", "waiting", reaches=0.6),
        LargerBatchHigher("higher", (("run", "waiting"),)),
        LargerBatchHigher("higher", (("waiting", "run"),)),
        SpikesLate("it spikes", (("run", "waiting"),), above=1.2, share=0.6),
    ]
    found = [finding for check in checks for finding in check.judge([here, Outcome("waiting")])]
    assert {finding.result for finding in found} == {"UNDECIDED"}
    assert all("not run yet" in finding.why for finding in found)


@pytest.mark.parametrize("scale", STUDIES["fig7"].scales)
def test_the_warmup_ends_within_the_run_and_the_threshold_is_38_over_the_rate(scale):
    for case in STUDIES["fig7"].cases(scale):
        assert case.config.schedule.num_steps <= case.config.num_steps
        assert case.config.method.stability_threshold() * case.config.method.lr == pytest.approx(38)


def test_the_papers_corpus_is_named_by_settings():
    cases = STUDIES["fig7"].cases("paper", ["problem.source=mine.en", "problem.target=mine.de"])
    assert {(case.config.problem.source, case.config.problem.target) for case in cases} == {("mine.en", "mine.de")}
    assert {(case.series, case.config.batch_size) for case in cases} == {
        (norm, size) for norm in ("Pre-LN", "Post-LN") for size in (1024, 10240)
    }
