"""Verdicts say what both ends of a measurement support."""

from __future__ import annotations

import pytest

from tightrope.stability import Measurement, run_verdict, verdict


def at(ratio, residual=0.001, **more):
    return Measurement("converged", ratio=ratio, residual=residual, **more)


@pytest.mark.parametrize(
    ("ratio", "residual", "name"),
    [
        (0.5, 0.01, "stable"),
        (-0.1, 0.0, "stable"),
        (0.95, 0.01, "at the edge"),
        (1.1, 0.09, "at the edge"),
        (1.3, 0.05, "unstable"),
        (0.9, 0.01, "undecided"),
        (1.19, 0.02, "undecided"),
        (0.5, 2.0, "undecided"),
    ],
)
def test_a_verdict_needs_both_ends_in_its_band(ratio, residual, name):
    assert verdict(at(ratio, residual), step=100).name == name


def test_the_first_ten_steps_of_an_adaptive_method_are_too_early_to_say():
    assert verdict(at(5000.0), step=10).name == "too early to say"
    assert verdict(at(5000.0), step=11).name == "unstable"
    assert verdict(at(5000.0), step=1, is_adaptive=False).name == "unstable"


def test_no_ratio_is_undecided_and_says_why():
    said = verdict(Measurement("not_stepped", "take a step first."), step=100)
    assert said.name == "undecided"
    assert "take a step first." in said.words


def test_unstable_tells_the_growth():
    assert "1.77 times a step" in verdict(at(1.3, growth=1.772), step=100).words


def run_of(ratios, every=10, **more):
    steps = [every * (i + 1) for i in range(len(ratios))]
    return run_verdict("Adam", steps, [at(r) for r in ratios], **more)


def test_the_plateau_is_the_second_half_of_the_steps_after_the_ratio_first_passes_nine_tenths():
    said = run_of([0.3, 0.5, 0.7, 0.95, 1.3, 1.3, 1.02, 1.0, 0.98])
    assert (said.first_step, said.plateau_start, said.plateau_stop) == (40, 70, 90)
    assert said.median == pytest.approx(1.0)
    assert said.num_measurements == 3
    assert said.name == "at the edge"


def test_a_run_that_never_comes_near_is_stable_and_names_its_highest_ratio():
    said = run_of([9.0, 0.3, 0.6, 0.5])
    assert said.name == "stable"
    assert "0.6" in said.words
    assert said.first_step is None


def test_a_run_that_falls_back_is_stable_and_one_that_stays_beyond_is_unstable():
    assert run_of([0.3, 1.0, 0.6, 0.5, 0.4]).name == "stable"
    assert run_of([0.3, 1.0, 1.5, 1.6, 1.7]).name == "unstable"


def test_a_run_without_late_measurements_is_too_early_to_say():
    assert run_of([5.0]).name == "too early to say"


def test_a_run_that_was_never_measured_says_so():
    said = run_verdict("Adam", [], [])
    assert (said.name, said.words) == ("undecided", "Adam was not measured.")


def test_a_diverged_run_is_unstable():
    said = run_of([0.5, 3.0], is_diverged=True)
    assert said.name == "unstable"
    assert said.words == "Adam diverged; the last ratio measured is 3, at step 20."


def test_a_solve_that_did_not_converge_is_never_stable():
    unconverged = Measurement(
        "max_products", ratio=0.026, residual=0.54, lower=0.026, upper=0.57, upper_kind="residual"
    )
    assert verdict(unconverged, step=100).name == "undecided"
    beyond = Measurement("max_products", ratio=2.0, residual=0.5, lower=2.0, upper=2.5, upper_kind="residual")
    assert verdict(beyond, step=100).name == "unstable"
    bounded = Measurement("max_products", ratio=0.5, residual=0.3, lower=0.5, upper=0.8, upper_kind="probabilistic")
    assert verdict(bounded, step=100).name == "stable"


def test_a_run_whose_bounds_reach_the_edge_is_not_called_short_of_it():
    said = run_verdict("Adam", [20, 30], [at(0.89, residual=0.5), at(0.5)])
    assert said.name == "undecided"


def test_a_run_stays_at_its_edge_only_with_several_measurements_that_all_lie_near():
    assert "stays there" in run_of([0.3, *[1.0] * 20]).words
    assert "stays there" not in run_of([0.3, 1.0]).words
    assert "stays there" not in run_of([0.3, *[1.0] * 16, *[0.1] * 4]).words


def test_negative_curvature_is_not_room_before_the_edge():
    words = verdict(at(-0.05, growth=1.5), step=100).words
    assert "1.5 times a step" in words
    assert "not an edge" in words


def test_numbers_that_are_not_finite_are_undecided():
    assert verdict(at(float("inf"), float("nan")), step=100).name == "undecided"
    assert verdict(at(1.0, float("nan")), step=100).name == "undecided"


def test_a_run_that_begins_above_its_edge_arrives_when_it_comes_back_to_it():
    def arrival(ratios):
        steps = [1, *(10 * n for n in range(1, len(ratios)))]
        return run_verdict("Heavy ball", steps, [at(ratio) for ratio in ratios], is_adaptive=False).first_step

    assert arrival([1.5, 0.7, 0.8, 0.95, 1.0, 1.0]) == 30
    assert arrival([1.5, 1.2, 1.1, 1.0]) == 1
    assert arrival([1.5, 0.7, 0.6]) == 1
    assert arrival([0.5, 1.0, 0.7, 1.0]) == 10


def test_a_run_that_left_its_edge_at_the_end_is_not_called_at_it():
    said = run_of([0.3, *[1.0] * 16, 0.6, 0.4, 0.2, 0.05])
    assert said.name == "stable"
    assert "0.05 at the end" in said.words
    assert run_of([0.3, *[1.0] * 8, 0.5]).name == "at the edge"


def test_one_measurement_beyond_the_edge_does_not_make_a_run_unstable():
    assert run_of([0.3, 0.5, 3.5]).name == "undecided"
    assert run_of([0.3, 0.5, 3.5, 0.02]).name != "unstable"
    assert run_of([0.3, 0.5, 3.5, 3.6]).name == "unstable"


def test_a_run_that_ends_in_growth_is_unstable():
    assert run_of([0.3, *[1.0] * 9, 1.5], is_growing=True).words == (
        "Adam is beyond its edge and grows; the last ratio measured is 1.5, at step 110."
    )
