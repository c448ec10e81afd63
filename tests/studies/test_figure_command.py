"""`tightrope study figure` as a user types it, and the exact figures against closed forms."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tightrope.cli.figures import default_folder
from tightrope.studies import STUDIES, picture

from .test_study_command import study  # noqa: F401


@pytest.fixture
def figure(study):  # noqa: F811
    return lambda *arguments: study("figure", *arguments)


def lines(name):
    """Lines of each chart of an exact figure."""
    return [chart.lines for chart in picture(STUDIES[name], []).charts]


def test_an_exact_figure_is_drawn_without_runs(figure, tmp_path):
    code, out, err = figure("fig2")
    assert (code, err) == (0, "")
    assert out.split() == [f"studies/figures/fig2.{kind}" for kind in ("html", "pdf", "png")]
    page = (tmp_path / "studies/figures/fig2.html").read_text(encoding="utf-8")
    assert "<h1>Figure 2</h1>" in page
    assert page.count('<span class="badge good">PASS</span>') == len(STUDIES["fig2"].checks)
    assert (tmp_path / "studies/figures/fig2.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fg5"], "Did you mean 'fig5'?"),
        ([], "study: name at least one, or all."),
        (["fig2", "fig5", "--scale", "papr"], "Did you mean 'paper'?"),
        (["fig2", "fig5", "--set", "lrr=1"], "--set lrr: not a setting."),
        (["fig2", "--into", "taken"], "must be writable"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(figure, tmp_path, arguments, words):
    (tmp_path / "taken").write_text("")
    code, out, err = figure(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_study_without_a_run_is_named_and_the_others_are_drawn(figure, tmp_path):
    code, out, _ = figure("fig1b", "fig14", "--into", "here")
    assert code == 5
    assert "fig1b: none of its 4 runs is there; `tightrope study run fig1b` makes them." in out
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["fig14.html", "fig14.pdf", "fig14.png"]


def test_without_matplotlib_the_page_is_drawn_and_one_line_says_how_to_get_prints(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = figure("fig2", "fig14", "--into", "here")
    assert (code, err) == (0, "")
    assert out.count("pip install tightrope[print]") == 1
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["fig14.html", "fig2.html"]


def test_runs_that_are_there_are_drawn_with_their_settings(figure, study, tmp_path):  # noqa: F811
    short = ("--set", "num_steps=60", "--set", "problem.width=10", "--set", "every=20", "--out", "here")
    assert study("run", "fig1b", "-j", "1", *short)[0] == 0
    code, out, _ = figure("fig1b", *short)
    assert (code, len(out.split())) == (0, 3)
    page = (tmp_path / "here/figures/fig1b.html").read_text(encoding="utf-8")
    assert "beta1 0.95" in page
    assert "seed 0" in page
    assert figure("fig1b", "--out", "here")[0] == 5


def test_figure_2_is_the_recurrence_of_averaged_heavy_ball():
    [found] = lines("fig2")
    for line, lr in zip(found, (36, 37, 38, 39, 40), strict=True):
        x = [1.0, 1 - 0.1 * lr]
        for _ in range(99):
            x.append((1.9 - 0.1 * lr) * x[-1] - 0.9 * x[-2])
        np.testing.assert_allclose(line.y, np.abs(x), rtol=1e-9, atol=1e-9)
    assert [line.y[-1] > 100 for line in found] == [False, False, False, True, True]


def test_figure_12_is_the_recurrence_of_rmsprop():
    (left, right, nu_left, nu_right) = lines("fig12")
    settings = [(2.2, 0.9), (2.2, 0.99), (2.2, 0.999), (2.1, 0.999), (2.2, 0.999), (2.4, 0.999)]
    for position, moment, (lr, beta2) in zip([*left, *right], [*nu_left, *nu_right], settings, strict=True):
        x, nu = [1.0], [1.0]
        for _ in range(60):
            nu.append(beta2 * nu[-1] + (1 - beta2) * x[-1] ** 2)
            x.append(x[-1] - lr * x[-1] / np.sqrt(nu[-1]))
        np.testing.assert_allclose(position.y, x, rtol=1e-9)
        np.testing.assert_allclose(moment.y, nu, rtol=1e-9)


def test_figure_14_is_the_largest_root_of_each_characteristic_polynomial():
    recurrences = (
        (0.2, 10.0, lambda z: (1 - z, 0.0)),
        (0.02, 190.0, lambda z: (1.9 - z, -0.9)),
        (0.02, 3.8 / (0.02 * 2.8), lambda z: (1.9 * (1 - z), -0.9 * (1 - z))),
    )
    made = picture(STUDIES["fig14"], []).charts
    for chart, (lr, threshold, recurrence) in zip(made, recurrences, strict=True):
        [line] = chart.lines
        assert chart.marks == pytest.approx((threshold,))
        assert line.x[-1] == pytest.approx(1.1 * threshold)
        for curvature, factor in zip(line.x[::40], line.y[::40], strict=True):
            a, b = recurrence(lr * curvature)
            assert factor == pytest.approx(np.abs(np.roots([1, -a, -b])).max(), abs=1e-6)


def test_figure_17_is_the_recurrence_from_a_momentum_of_its_own():
    x_charts, m_charts, g_charts = (lines("fig17")[start : start + 3] for start in (0, 3, 6))
    for (x_line,), (m_line,), (g_line,), lr in zip(x_charts, m_charts, g_charts, (10, 20, 30), strict=True):
        x, m = [1.0], [0.2]
        for _ in range(30):
            m.append(0.9 * m[-1] + 0.1 * x[-1])
            x.append(x[-1] - lr * m[-1])
        np.testing.assert_allclose(x_line.y, x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(m_line.y, m, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(g_line.y, np.square(x), rtol=1e-9, atol=1e-9)


def test_the_two_runs_of_proposition_1_go_far_and_stay_together():
    [(gone, apart)] = lines("p1")
    assert gone.y[-1] > 1
    assert apart.y.max() < 1e-12


def test_figures_of_different_scales_do_not_take_each_others_place():
    assert default_folder(Path("studies"), "small") == Path("studies/figures")
    assert default_folder(Path("studies"), "cpu") == Path("studies/figures/cpu")
