"""Checks decide on value +- residual, and say when they cannot."""

import math

import pytest

from tightrope.studies import AboveMoreOften, AtItsEdge, Exact, Finding, MostAtTheirEdge, Outcome, decide, verdict_of

from .records import diverged, settled, short

BAND = (0.9, 1.1)


def results(check, *outcomes):
    return [finding.result for finding in check.judge(outcomes)]


@pytest.mark.parametrize(
    ("value", "residual", "result"),
    [
        (1.0, 0.05, "PASS"),
        (0.9, 0.0, "PASS"),
        (1.1, 0.0, "PASS"),
        (0.91, 0.02, "UNDECIDED"),
        (1.09, 0.02, "UNDECIDED"),
        (0.89, 0.02, "UNDECIDED"),
        (1.0, 0.5, "UNDECIDED"),
        (0.89, 0.005, "MISS"),
        (1.12, 0.01, "MISS"),
        (math.nan, 0.0, "UNDECIDED"),
        (1.0, math.nan, "UNDECIDED"),
    ],
)
def test_a_number_passes_or_misses_only_with_both_its_ends(value, residual, result):
    assert decide(value, residual, BAND) == result


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (settled("a", 1.0), "PASS"),
        (settled("a", 0.901, 0.01), "UNDECIDED"),
        (settled("a", 0.8), "MISS"),
        (settled("a", 1.0, ratios=[1.0] * 5), "PASS"),
        (settled("a", 1.0, ratios=[1.0] * 4), "UNDECIDED"),
        (short("a", 0.7), "MISS"),
        (short("a", 0.899, name="undecided"), "UNDECIDED"),
        (diverged("a"), "MISS"),
        (Outcome("a"), "UNDECIDED"),
        (Outcome("a", reason="failed: no such file"), "UNDECIDED"),
    ],
)
def test_a_run_is_at_its_edge_where_its_plateau_says_so(outcome, result):
    [finding] = AtItsEdge("equilibrates", BAND).judge([outcome])
    assert finding.result == result
    assert finding.claim == "a: equilibrates"
    assert finding.why


def test_the_number_of_a_short_run_is_its_highest_ratio_after_the_first_step():
    [finding] = AtItsEdge("equilibrates", BAND).judge([short("a", 0.7)])
    assert finding.number == "0.700 at most"


def test_only_the_run_that_may_end_short_of_its_edge_passes_so():
    check = AtItsEdge("equilibrates", BAND, may_fall_short="slow")
    assert results(check, short("slow", 0.6), short("fast", 0.6)) == ["PASS", "MISS"]
    assert "Appendix D" in check.judge([short("slow", 0.6)])[0].why
    # What came to its edge and fell back, diverged, or is not there, is not excused.
    assert results(check, settled("slow", 0.8)) == ["MISS"]
    assert results(check, diverged("slow")) == ["MISS"]
    assert results(check, Outcome("slow")) == ["UNDECIDED"]


@pytest.mark.parametrize(
    ("medians", "result"),
    [
        ((1.0, 1.0, 1.0, 1.0, 0.5), "PASS"),
        ((1.0, 1.0, 1.0, 0.5, 0.5), "MISS"),
        ((1.0, 1.0, 1.0, None, 0.5), "UNDECIDED"),
        ((1.0, 1.0, None, 0.5, 0.5), "MISS"),
        ((1.0, 1.0, 1.0, 1.0, None), "PASS"),
    ],
)
def test_enough_runs_of_a_series_must_be_at_their_edge(medians, result):
    runs = [
        Outcome(f"lr {number}", "Adam") if median is None else settled(f"lr {number}", median, series="Adam")
        for number, median in enumerate(medians)
    ]
    assert results(MostAtTheirEdge("at the edge", BAND, at_least=4), *runs) == [result]


def test_each_series_is_judged_by_itself_and_names_what_fell_out():
    runs = [settled("x 1", 1.0, series="x"), settled("y 1", 0.5, series="y"), settled("x 2", 0.6, series="x")]
    first, second = MostAtTheirEdge("at the edge", BAND, at_least=1).judge(runs)
    assert (first.claim, first.number, first.result) == ("x: at the edge", "1 of 2 (1.000 0.600)", "PASS")
    assert first.why.startswith("x 2: 0.600")
    assert (second.claim, second.result) == ("y: at the edge", "MISS")


def above(series, share, residual=0.0):
    ratios = [1.05] * round(10 * share) + [0.95] * round(10 * (1 - share))
    return settled(series, 1.0, residual, series, ratios)


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [
        (above("gd", 0.6), above("ball", 0.2), "PASS"),
        (above("gd", 0.2), above("ball", 0.6), "MISS"),
        (above("gd", 0.4), above("ball", 0.4), "MISS"),
        # With this residual every measurement may be on either side of 1.
        (above("gd", 0.6, residual=0.1), above("ball", 0.2), "UNDECIDED"),
        (above("gd", 0.6), above("ball", 0.2, residual=0.1), "UNDECIDED"),
        (above("gd", 0.6), short("ball", 0.5, series="ball"), "UNDECIDED"),
        (above("gd", 0.6), Outcome("ball", "ball"), "UNDECIDED"),
    ],
)
def test_shares_above_the_edge_are_compared_as_intervals(ours, theirs, result):
    check = AboveMoreOften("hovers", "gd", "ball")
    assert results(check, ours, theirs) == [result]


def test_measurements_before_the_plateau_do_not_count():
    ours = settled("gd", 1.0, 0.0, "gd", [5.0] * 5 + [0.9] * 5)
    ours.record.verdict["plateau_start"] = 600
    [finding] = AboveMoreOften("hovers", "gd", "ball").judge([ours, above("ball", 0.5)])
    assert finding.number == "0 % against 50 %"
    assert finding.result == "MISS"


def test_an_exact_number_is_computed_when_it_is_judged():
    assert results(Exact("two", lambda: 2.0, (1.9, 2.1))) == ["PASS"]
    assert results(Exact("two", lambda: 3.0, (1.9, 2.1))) == ["MISS"]
    assert results(Exact("two", lambda: math.nan, (1.9, 2.1))) == ["UNDECIDED"]


def test_a_study_passes_only_with_all_its_checks():
    passed, missed, open_ = (Finding("", "", "", result) for result in ("PASS", "MISS", "UNDECIDED"))
    assert verdict_of([passed, passed]) == "PASS"
    assert verdict_of([passed, open_]) == "UNDECIDED"
    assert verdict_of([passed, open_, missed]) == "MISS"
    assert verdict_of([]) == "UNDECIDED"
