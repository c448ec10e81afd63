"""The paper's figures as they are defined: exact ones pass, grids are as the paper has them."""

import math
from itertools import pairwise

import pytest

from tightrope.optim import GD, GradientMethod, HeavyBall, heavy_ball
from tightrope.studies import STUDIES, StudyFolder, judge
from tightrope.studies.trajectory import on_parabola, reparameterised

EXACT = [study for study in STUDIES.values() if not study.grids]


@pytest.mark.parametrize("study", EXACT, ids=lambda study: study.name)
def test_what_is_exact_passes(study, tmp_path):
    found = judge(study, "small", StudyFolder(tmp_path / "none"))
    assert [(finding.claim, finding.number) for finding in found.findings if finding.result != "PASS"] == []
    assert found.result == "PASS"
    assert not (tmp_path / "none").exists()


def test_gradient_descent_on_the_parabola_is_a_geometric_sequence():
    path = on_parabola(lambda params: GD(params, 0.5), 10, start=3.0)
    assert path == [3 * 0.5**step for step in range(11)]


def test_momentum_given_before_the_first_step_enters_it():
    path = on_parabola(lambda params: HeavyBall(params, 10.0, 0.9, ema=True), 1, state={"m": 0.2})
    assert path[1] == pytest.approx(1 - 10 * (0.9 * 0.2 + 0.1))


def test_the_two_runs_of_proposition_1_move_and_differ_unless_each_has_its_own_preconditioner():
    def make(params, **options):
        return GradientMethod(params, 0.5, momentum=heavy_ball(0.9, ema=True), **options)

    ours, theirs = reparameterised(make, 50)
    assert (ours[-1] - ours[0]).norm() > 0.1
    assert (ours - theirs).abs().max() < 1e-12
    ours, theirs = reparameterised(lambda params, **options: make(params), 50)
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "num_series"), [("fig1a", 2), ("fig5", 8), ("fig13", 3)])
def test_a_sweep_has_five_rates_a_method_evenly_spaced_on_a_logarithmic_axis(name, num_series):
    series = {}
    for case in STUDIES[name].cases("small"):
        series.setdefault(case.series, []).append(math.log10(case.config.method.lr))
    assert len(series) == num_series
    for rates in series.values():
        steps = [late - early for early, late in pairwise(rates)]
        assert len(rates) == 5
        assert steps == pytest.approx([sum(steps) / 4] * 4, abs=0.01)


def test_the_papers_own_preconditioner_is_used():
    for name in ("fig1a", "fig1b", "fig1c", "fig5"):
        for case in STUDIES[name].cases("small"):
            method = case.config.method
            assert method.eps == 1e-7
            is_corrected = case.series in ("Adam, bias corrected", "AdamW")
            assert getattr(method, "bias_correction", False) is is_corrected


def test_figure_13_is_named_by_what_its_checks_decide():
    study = STUDIES["fig13"]
    decided = "above its edge more often than heavy ball"
    assert [check.claim for check in study.checks] == [
        f"{name} is {decided}" for name in ("Gradient descent", "Nesterov")
    ]
    assert study.title == f"Gradient descent and Nesterov are {decided.replace('its', 'their')}"
