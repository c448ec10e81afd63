"""What a study draws of made-up runs: the numbers that were stored, in the look of their place."""

import numpy as np
import pytest

from tightrope.errors import ConfigError
from tightrope.studies import (
    STUDIES,
    AtTheEnd,
    Computed,
    Exact,
    GradientSplit,
    Outcome,
    OverSteps,
    Study,
    TopEigenvalues,
    picture,
)
from tightrope.views import Chart, Line

from .records import course, short


def adam(lr, seed=0, **more):
    return {"seed": seed, "method": {"name": "adam", "lr": lr, **more.pop("method", {})}, **more}


def sharp(label, lr, values, threshold, series="Adam"):
    thresholds = [threshold] * len(values) if np.isscalar(threshold) else threshold
    steps = {"step": range(1, len(values) + 1), "lr": [lr] * len(values), "loss": values}
    columns = {"preconditioned_sharpness": values, "threshold": thresholds, "ratio": np.array(values) / thresholds}
    return course(label, series, adam(lr), steps, **columns)


def test_a_run_is_a_line_of_what_was_stored_with_its_threshold_in_its_colour():
    runs = [sharp("lr 0.01", 0.01, [1.0, 3000.0, 3800.0], 3800.0), sharp("lr 0.1", 0.1, [1.0, 370.0, 380.0], 380.0)]
    [chart] = OverSteps("preconditioned_sharpness").charts(runs)
    small, large = chart.lines
    assert (small.x.tolist(), small.y.tolist(), small.level) == ([1, 2, 3], [1, 3000, 3800], 3800)
    assert (large.label, large.level, large.rank) == ("lr 0.1", 380, 1.0)
    assert small.rank == 0.0
    assert chart.title == "preconditioned sharpness (threshold 38/lr)"
    assert chart.is_y_log


def test_a_threshold_that_moves_is_a_curve():
    [chart] = OverSteps("preconditioned_sharpness").charts([sharp("run", 0.1, [10.0, 9.0, 8.0], [400.0, 200.0, 100.0])])
    assert chart.lines[0].level.tolist() == [400, 200, 100]


def test_a_series_is_a_chart_named_with_the_threshold_its_runs_share():
    runs = [sharp("Adam, lr 0.1", 0.1, [380.0], 380.0), sharp("GD, lr 0.1", 0.1, [20.0], 20.0, "GD")]
    runs.append(sharp("GD, lr 0.2", 0.2, [10.0], 10.0, "GD"))
    charts = OverSteps("loss").charts(runs)
    assert [chart.title for chart in charts] == ["Adam, lr 0.1 (threshold 38/lr)", "GD (threshold 2/lr)"]
    assert [[line.label for line in chart.lines] for chart in charts] == [["lr 0.1"], ["lr 0.1", "lr 0.2"]]
    assert [chart.y_title for chart in charts] == ["training loss"] * 2
    differing = [sharp("a", 0.1, [380.0], 380.0), sharp("b", 0.2, [20.0], 20.0)]
    assert OverSteps("preconditioned_sharpness").charts(differing)[0].title == "preconditioned sharpness"


def test_a_title_names_the_run_of_a_chart_that_has_one():
    runs = [sharp("small rate, lr 0.1", 0.1, [380.0], 380.0, "small rate"), sharp("GD", 0.1, [20.0], 20.0, "GD")]
    charts = OverSteps("loss").charts(runs)
    assert [chart.title for chart in charts] == ["small rate, lr 0.1 (threshold 38/lr)", "GD, lr 0.1 (threshold 2/lr)"]
    assert [chart.lines[0].label for chart in charts] == ["", ""]
    [_, missing] = OverSteps("loss").charts([runs[0], Outcome("GD", "GD")])
    assert missing.lines[0].label == "GD: not run yet"


def test_a_title_names_the_rate_that_all_runs_of_a_chart_keep():
    small = sharp("small lr", 0.001, [38000.0], 38000.0, "small lr")
    moves = course("up", "up", adam(0.1), {"step": [1.0, 2.0], "lr": [0.05, 0.1]}, step=[2.0], threshold=[380.0])
    apart = [sharp(f"lr {lr}", lr, [1.0], 38 / lr, "apart") for lr in (0.1, 0.2)]
    titles = [chart.title for chart in TopEigenvalues().charts([small, moves, *apart])]
    assert titles == ["small lr, 0.001 (threshold 38/lr)", "up (threshold 38/lr)", "apart (threshold 38/lr)"]
    differing = [sharp("beta1 0", 0.1, [20.0], 20.0), sharp("beta1 0.9", 0.1, [380.0], 380.0)]
    [chart] = OverSteps("preconditioned_sharpness").charts(differing)
    assert chart.title == "preconditioned sharpness, lr 0.1"
    [chart] = OverSteps("preconditioned_sharpness").charts([*differing, Outcome("lr 0.2", "Adam", config=adam(0.2))])
    assert chart.title == "preconditioned sharpness"


def test_a_colour_follows_the_one_setting_that_varies_whatever_the_order_of_the_grid():
    def ranks(*configs):
        runs = [course(str(place), "", config, loss=[1.0]) for place, config in enumerate(configs)]
        return [line.rank for line in OverSteps("loss").charts(runs)[0].lines]

    assert ranks(adam(0.3), adam(0.1), adam(0.2)) == [1.0, 0.0, 0.5]
    assert ranks(adam(0.1, method={"beta2": 0.9}), adam(0.1, method={"beta2": 0.99})) == [0.0, 1.0]
    assert ranks(adam(0.1, method={"beta2": 0.9}), adam(0.2, method={"beta2": 0.99})) == [None, None]


def test_runs_that_differ_in_their_seed_alone_are_one_line_with_an_interval():
    columns = {"step": [1.0, 2.0, 3.0], "ratio": [0.1, 0.2, 0.3]}, {"step": [1.0, 3.0], "ratio": [0.3, 0.5]}
    runs = [course(f"lr 0.1, seed {seed}", "", adam(0.1, seed), **each) for seed, each in enumerate(columns)]
    missing = Outcome("lr 0.1, seed 2", config=adam(0.1, 2))
    [chart] = OverSteps("ratio").charts([*runs, missing])
    [line] = chart.lines
    assert line.x.tolist() == [1, 3]
    assert line.y == pytest.approx([0.2, 0.4])
    assert [end.tolist() for end in line.band] == [[0.1, 0.3], [0.3, 0.5]]
    assert line.label == "lr 0.1 (2 of 3 seeds)"


def test_what_is_not_there_is_named_and_what_stays_short_is_marked():
    runs = [
        Outcome("lr 0.1", config=adam(0.1)),
        short("lr 0.2", 0.5),
        course("lr 0.3", "", adam(0.3), ratio=[9.0], outcome="diverged"),
        course("lr 0.4", "", adam(0.4), loss=[1.0]),
    ]
    [chart] = OverSteps("ratio").charts(runs)
    labels = [line.label for line in chart.lines]
    assert labels == ["lr 0.1: not run yet", "lr 0.2 (short)", "lr 0.3 (diverged)", "lr 0.4"]
    assert [line.is_missing for line in chart.lines] == [True, False, False, False]
    assert "lr 0.4: ratio was not stored." in chart.notes


def test_runs_of_small_batches_are_not_marked_short_for_staying_below():
    full, small = short("lr 0.1", 0.5), short("lr 0.2", 0.5)
    small.record.config["batch_size"] = 20
    [chart] = OverSteps("ratio").charts([full, small])
    assert [line.label for line in chart.lines] == ["lr 0.1 (short)", "lr 0.2"]


def test_early_ratios_without_meaning_do_not_ruin_the_axis_and_are_counted():
    [chart] = OverSteps("ratio").charts([course("run", ratio=[1e4, *[1.0] * 40])])
    assert chart.y_range == pytest.approx((0, 1.375))
    assert any("marks 1 value above the axis, up to 1e+04, all at step 1" in note for note in chart.notes)
    assert chart.above(chart.lines[0]).tolist() == [1]
    losses = OverSteps("loss").charts([course("run", steps={"step": range(41), "loss": [0.3, 900, *[0.1] * 39]})])
    assert losses[0].y_range == pytest.approx((0.1 / 1.3, 0.3 * 1.3))
    whole = OverSteps("loss").charts([course("run", steps={"step": range(41), "loss": [0.3, 2, *[0.1] * 39]})])
    assert whole[0].y_range == pytest.approx((0.1 / 1.3, 2 * 1.3))


def test_ratios_of_all_series_share_an_axis_and_sharpnesses_do_not():
    runs = [sharp("a", 0.1, [0.5] * 20, 1.0, "first"), sharp("b", 0.1, [1.8] * 20, 1.0, "second")]
    assert len({chart.y_range for chart in OverSteps("ratio").charts(runs)}) == 1
    assert len({chart.y_range for chart in OverSteps("preconditioned_sharpness").charts(runs)}) == 2


def test_a_window_cuts_and_marks_where_the_ratio_rises_through_one():
    ratio = [1.5, 0.9, 1.1, 0.95, 0.99, 1.0, 1.2, 0.9]
    run = course("run", steps={"step": range(1, 9), "loss": range(1, 9)}, ratio=ratio)
    [chart] = OverSteps("loss", window=(2, 7), marks_crossings=True).charts([run])
    assert chart.lines[0].x.tolist() == [2, 3, 4, 5, 6, 7]
    assert list(chart.marks) == [3, 6]
    [last] = OverSteps("ratio", window=lambda record: (record.num_steps - 1, record.num_steps)).charts([run])
    assert last.lines[0].y.tolist() == [1.2, 0.9]


def test_the_top_eigenvalues_are_their_ratios_times_the_threshold():
    ratios = np.empty(2, dtype=object)
    ratios[:] = [[1.0, 0.5, 0.25, 0.125], [1.1, 0.4]]
    run = course("run", ratios=ratios, threshold=[100.0, 100.0])
    [chart] = TopEigenvalues().charts([run])
    np.testing.assert_allclose(
        np.stack([line.y for line in chart.lines], axis=1), [[100, 50, 25, 12.5], [110, 40, np.nan, np.nan]]
    )
    assert [line.level for line in chart.lines] == [100, None, None, None]


def test_the_rest_of_the_gradient_is_all_of_it_less_that_along_the_top():
    run = course("run", semi_gradient_sq=[5.0, 100.0], semi_gradient_sq_top=[1.0, 97.0])
    [chart] = GradientSplit().charts([run])
    assert [line.y.tolist() for line in chart.lines] == [[5, 100], [1, 97], [4, 3]]
    [lacking] = GradientSplit().charts([course("run", ratio=[1.0])])
    assert not len(lacking.lines[0].x)


def ended(lr, seed, sharpness, **more):
    series = more.pop("series", "Adam")
    config = {**adam(lr, seed, method={"beta2": more.pop("beta2", 0.9)}), "stop": {"loss": 0.1}}
    values = {"sharpness": [1.0, 2.0, sharpness], "outcome": "target_loss", **more}
    return course(f"lr {lr}, seed {seed}", series, config, **values)


def test_runs_are_points_of_what_they_came_to_against_a_setting():
    runs = [ended(0.1, 0, 30.0), ended(0.1, 1, 50.0), ended(0.01, 0, 100.0), ended(0.01, 1, 200.0)]
    [chart] = AtTheEnd("sharpness").charts(runs)
    [line] = chart.lines
    assert line.x == pytest.approx([0.01, 0.1])
    assert line.y == pytest.approx([150, 40])
    assert [end.tolist() for end in line.band] == [[100, 30], [200, 50]]
    assert (line.label, chart.x_title, chart.is_x_log) == ("Adam", "learning rate", True)


def test_a_beta_is_drawn_as_its_distance_from_one_and_steps_as_they_were_taken():
    runs = [ended(0.1, 0, 30.0, beta2=0.999), ended(0.1, 0, 60.0, beta2=0.9)]
    [chart] = AtTheEnd("sharpness", "beta2").charts(runs)
    assert chart.lines[0].x == pytest.approx([0.001, 0.1])
    assert chart.lines[0].y == pytest.approx([30, 60])
    fast = ended(0.1, 0, 10.0, series="momentum")
    slow = course("slow", "Adam", adam(0.1), step=[1.0, 500.0], sharpness=[1.0, 90.0])
    [chart] = AtTheEnd("sharpness", "steps").charts([slow, fast])
    assert [(line.label, line.x.tolist(), line.y.tolist()) for line in chart.lines] == [
        ("Adam", [500], [90]),
        ("momentum", [3], [10]),
    ]
    assert [line.color for line in chart.lines] == ["#0072b2", "#d55e00"]


def compared(stop, series="Adam", **measure):
    config = {**adam(0.1), "stop": {"loss": stop}, "measure": {"every": 0, "at_end": False, **measure}}
    return Outcome(f"to {stop}", series, config=config)


def axes(number, runs, against="steps"):
    [chart] = AtTheEnd(number, against).charts(runs)
    return chart.x_title, chart.y_title


def test_axes_name_the_training_loss_at_which_each_number_is_taken():
    on_the_way, at_end = compared(0.05, at_loss=0.1), compared(0.03, at_end=True)
    assert axes("sharpness", [on_the_way]) == ("steps to training loss 0.05", "sharpness at training loss 0.1")
    assert axes("test_error", [on_the_way], "lr") == ("learning rate", "test error at training loss 0.05")
    assert axes("sharpness", [at_end] * 2) == ("steps to training loss 0.03", "sharpness at training loss 0.03")
    later = compared(0.01, at_end=True, at_loss=0.1)
    assert axes("sharpness", [later]) == ("steps to training loss 0.01", "sharpness at training loss 0.01")


def test_axes_name_no_training_loss_in_which_runs_differ_or_after_which_they_are_measured():
    both = [compared(0.03, at_end=True), compared(0.01, "GD", at_end=True)]
    assert axes("sharpness", both) == ("steps to the end", "sharpness at the end")
    assert axes("test_error", both)[1] == "test error"
    often = compared(0.05, at_loss=0.1, every=50)
    assert axes("sharpness", [often]) == ("steps to training loss 0.05", "sharpness at the end")
    [chart] = AtTheEnd("sharpness", "steps", series=("GD",)).charts(both)
    assert chart.y_title == "sharpness at training loss 0.01"
    assert axes("sharpness", [compared(None)]) == ("steps to the end", "sharpness at the end")


def test_test_error_is_that_of_the_held_out_data():
    run = course("run", "Adam", adam(0.1), test={"error": 0.25, "loss": 1.0}, ratio=[1.0])
    [chart] = AtTheEnd("test_error", is_log=False).charts([run])
    assert chart.lines[0].y.tolist() == [0.25]


def test_a_run_that_did_not_come_to_its_loss_has_a_note_and_no_point():
    runs = [ended(0.1, 0, 30.0), ended(0.2, 0, 9.0, outcome="completed"), ended(0.3, 0, 9.0, outcome="diverged")]
    runs.append(ended(0.1, 1, np.nan))
    waiting = Outcome("lr 0.4", "Adam", config=adam(0.4))
    [chart] = AtTheEnd("sharpness").charts([*runs, waiting])
    assert chart.lines[0].x == pytest.approx([0.1])
    assert chart.notes == (
        "lr 0.2, seed 0: ended before its training loss came to 0.1; it has no point.",
        "lr 0.3, seed 0: diverged; it has no point.",
        "lr 0.1, seed 1: no sharpness was found at its end; it has no point.",
    )
    assert chart.lines[0].label == "Adam (1 of 5 runs not there yet)"


def study(*panels):
    return Study("figx", "title", "Figure X", 1, (Exact("one", lambda: 1.0, (1, 1)),), panels=panels)


def charts(number):
    return Computed(lambda: [Chart((Line(np.ones(1), np.ones(1)),), title=str(place)) for place in range(number)])


@pytest.mark.parametrize(
    ("numbers", "shape"),
    [
        ([1, 1, 1], [[3]]),
        ([3, 3], [[3, 3]]),
        ([8, 8], [[4, 4], [4, 4]]),
        ([6], [[3], [3]]),
        ([2, 3], [[2], [3]]),
        ([1] * 6, [[3], [3]]),
    ],
)
def test_a_figure_is_at_most_five_charts_wide(numbers, shape):
    made = picture(study(*(charts(number) for number in numbers)), [])
    assert [[len(row) for row in block] for block in made.blocks] == shape


def test_titles_stand_at_the_top_of_a_block_alone():
    made = picture(study(charts(2), charts(2)), [])
    assert [[chart.title for chart in row] for row in made.blocks[0]] == [["0", "1"], ["", ""]]


def test_a_study_without_panels_is_refused():
    with pytest.raises(ConfigError, match="figx must have panels"):
        picture(study(), [])


def test_the_caption_says_what_dashes_and_triangles_are_where_there_are_any():
    level, edge, above = (
        "A dashed line is a run's stability threshold",
        "The edge is a ratio of 1",
        "▲ marks what lies above an axis",
    )

    def said(column, values):
        caption = picture(study(OverSteps(column)), [sharp("lr 0.1", 0.1, values, 380.0)]).caption
        return [words in caption for words in (level, edge, above)]

    assert said("preconditioned_sharpness", [400.0] * 40) == [True, False, False]
    assert said("ratio", [400.0] * 40) == [False, True, False]
    assert said("ratio", [4e6, *[400.0] * 40]) == [False, True, True]
    assert said("loss", [400.0] * 40) == [False, False, False]


@pytest.mark.parametrize("name", ["fig10", "fig19"])
def test_the_caption_of_a_sweep_names_what_its_runs_hold(name):
    cases = STUDIES[name].cases("small")
    caption = picture(STUDIES[name], [Outcome(case.label, case.series) for case in cases]).caption
    [size] = {case.config.batch_size for case in cases} - {None}
    rates, beta2s = (
        {getattr(case.config.method, held) for case in cases if case.series.startswith(varied)}
        for varied, held in (("beta2", "lr"), ("lr", "beta2"))
    )
    [rate], [beta2] = rates, beta2s
    assert f"A large batch has {size} examples at scale small" in caption
    assert f"On the left beta2 is {beta2:g}, on the right the rate is {rate:g} " in caption


def test_the_caption_says_what_is_missing():
    made = picture(study(OverSteps("ratio")), [course("a", ratio=[1.0]), Outcome("b")])
    assert "1 of 2 runs are not there" in made.caption
