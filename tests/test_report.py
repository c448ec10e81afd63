"""The report: what a reader sees first, what it must never do, and stored runs with holes in them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightrope.cli import main
from tightrope.errors import StoreError
from tightrope.store import RunRecord, RunWriter, read_run
from tightrope.views import comparison, panels, write_report
from tightrope.views.axes import ratio_reach
from tightrope.views.decimation import MAX_POINTS, extremes
from tightrope.views.facts import as_float, labels
from tightrope.views.palette import COLORS, DARK

WORDS = "Adam reached its edge of stability at step 20 and stays there."
START = {
    "method": "Adam",
    "preconditioner": "sqrt(nu) + eps",
    "threshold": 38000.0,
    "num_parameters": 300,
    "num_examples": 20,
    "versions": {"tightrope": "0.1.0", "torch": "2.13.0"},
    "num_threads": 1,
}
VERDICT = {"name": "at the edge", "words": WORDS, "median": 0.994, "residual": 6e-5, "low": 0.96, "high": 1.01}
END = {"step": 40, "outcome": "completed", "seconds": 8.0, "measuring_seconds": 2.0}


def measurement(step: int, ratio: float, **more: Any) -> dict[str, Any]:
    """One converged measurement with every column a run stores."""
    return {
        "step": step,
        "ratio": ratio,
        "residual": 1e-3,
        "lower": ratio,
        "upper": ratio * 1.05,
        "upper_kind": "probabilistic",
        "confidence": 0.95,
        "threshold": 38000.0,
        "preconditioned_sharpness": 38000.0 * ratio,
        "sharpness": 2.0 + step,
        "num_products": 8,
        "seconds": 0.1,
        "status": "converged",
        "reason": "",
        "is_audit": step == 1,
        "verdict": "stable",
        "words": f"ratio {ratio:.3g}",
        **more,
    }


def of_watched(path: Path) -> RunRecord:
    """A watched loop of 2,000 steps: a row in ten, sharpness at every sixth of its readings, one of which failed."""
    with RunWriter.new(path, "[watch]\nbudget = 0.03\n") as writer:
        writer.write("start", method="AdamW", num_parameters=300)
        for step in range(10, 2000, 10):
            writer.write("step", step=step, loss=1 / step, lr=min(step, 1000) * 1e-5, grad_norm=1.0)
        for i in range(13):
            nan = float("nan")
            more = {"sharpness": 2.0 + i if i % 6 == 0 else nan, **({"ratio": nan} if i == 8 else {})}
            writer.write("measurement", **{**measurement(100 * (i + 1), 0.5 + i / 100), **more})
        writer.write("end", step=2000, outcome="closed", seconds=9.0, measuring_seconds=0.2)
    return read_run(path)


def test_raw_sharpness_is_drawn_through_the_readings_that_took_it(tmp_path):
    """A gap stays where nothing was measured at all."""
    figure = next(panel for panel in panels([of_watched(tmp_path / "run")]) if panel.name == "sharpness").figure
    [raw] = [trace for trace in figure["data"] if trace.get("yaxis") == "y2"]
    assert raw["x"] == [100, 700, 900, 1300]
    assert raw["y"] == [2, 8, None, 14]
    assert raw["mode"] == "lines+markers"


def test_a_watched_run_is_listed_and_compared_by_what_it_did(tmp_path, monkeypatch, capsys):
    of_watched(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["runs", ".", "--json"])
    [row] = json.loads(capsys.readouterr().out)
    assert row == {
        "run": "run", "method": "AdamW", "lr": 0.01, "steps": 2000, "loss": 1 / 1990, "outcome": "closed",
        "verdict": None, "ratio": 0.62,
    }  # fmt: skip
    [row] = comparison([read_run(tmp_path / "run")])
    assert [row[name] for name in ("name", "lr", "steps", "ratio", "sharpness")] == ["AdamW", 0.01, 2000, 0.62, 14]


LOSSES = [1 / step for step in range(1, 41)]
MEASUREMENTS = [measurement(step, step / 40) for step in (1, 10, 20, 30, 40)]


def write_run(
    path: Path,
    *,
    losses: Sequence[float] = LOSSES,
    measurements: Sequence[dict[str, Any]] = MEASUREMENTS,
    start: dict[str, Any] = START,
    verdict: dict[str, Any] | None = VERDICT,
    end: dict[str, Any] | None = END,
) -> RunRecord:
    """A run directory, written and read back."""
    with RunWriter.new(path, 'num_steps = 40\n[problem]\nname = "chebyshev"\n') as writer:
        writer.write("start", **start)
        for step, loss in enumerate(losses, start=1):
            writer.write("step", step=step, loss=loss, lr=1e-3, grad_norm=loss)
        for columns in measurements:
            writer.write("measurement", **columns)
        if verdict is not None:
            writer.write("verdict", **verdict)
        if end is not None:
            writer.write("end", **end)
    return read_run(path)


class Page(HTMLParser):
    """A written report, taken apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.islands: dict[str, Any] = {}
        self.code: list[str] = []
        self.whole = path.read_text(encoding="utf-8")
        self.feed(self.whole)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and self.lasttag == "script" and attributes.get("type") == "application/json":
            self.islands.setdefault(str(attributes["id"]), "")
            self.islands[str(attributes["id"])] += data
        elif tag == "script":
            self.code.append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def report(runs: list[RunRecord], tmp_path: Path) -> Page:
    return Page(write_report(runs, tmp_path / "report.html"))


def figure(runs: list[RunRecord], name: str) -> dict[str, Any]:
    return panel(runs, name).figure


def panel(runs: list[RunRecord], name: str) -> Any:
    return next(panel for panel in panels(runs) if panel.name == name)


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    from plotly.offline import get_plotlyjs

    page = report([write_run(tmp_path / "run")], tmp_path)
    assert {"link", "img", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [attributes for tag, attributes in page.tags if "src" in attributes or "href" in attributes]
    own = page.whole.replace(get_plotlyjs(), "")
    assert len(own) < len(page.whole) - 1_000_000, "plotly.js is inlined, once"
    assert not re.search(r"https?://|url\(|@import|<script src|<link href", own)
    assert "default-src 'none'" in own


def test_the_plots_offer_no_upload(tmp_path):
    own_script = report([write_run(tmp_path / "run")], tmp_path).code[-1]
    assert "showSendToCloud: false" in own_script
    assert 'plotlyServerURL: ""' in own_script


def test_the_verdict_in_words_comes_before_the_first_figure(tmp_path):
    whole = report([write_run(tmp_path / "run")], tmp_path).whole
    assert whole.index("<h1>") < whole.index(WORDS) < whole.index("at the edge</span>") < whole.index("<figure")
    assert "completed</span>" in whole


def test_the_facts_of_a_run_are_on_its_card(tmp_path):
    text = report([write_run(tmp_path / "run")], tmp_path).text
    for fact in ("Adam", "P = sqrt(nu) + eps", "stability threshold 38,000", "learning rate 0.001", "300 parameters",
                 "20 examples", "full batch", "40 steps", "1 thread", "torch 2.13.0"):  # fmt: skip
        assert fact in text


def test_the_table_holds_the_key_numbers(tmp_path):
    text = report([write_run(tmp_path / "run")], tmp_path).text
    for cell in ("0.994 ± 6e-05", "0.96 to 1.01", "1 ± 0.001", "40", "25.0%"):
        assert cell in text


def test_stored_text_is_escaped_wherever_it_is_shown(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>&amp;"
    run = write_run(
        tmp_path / "<img src=x>&",
        start={**START, "method": evil},
        verdict={**VERDICT, "words": evil, "name": evil},
        measurements=[measurement(1, np.nan, status=evil, reason=evil, verdict=evil, words=evil, upper_kind=evil)],
    )
    page = Page(write_report([run, run], tmp_path / "report.html", title=evil))
    assert "img" not in {tag for tag, _ in page.tags}
    assert [tag for tag, _ in page.tags].count("script") == len(panels([run])) + 3
    assert page.text.count(evil) >= 6
    drawn = [trace.get("name", "") for trace in strict_json(page.islands["figure-ratio"])["data"]]
    assert "&lt;img src=x&gt;&amp;" in drawn
    assert not [name for name, island in page.islands.items() if "<" in island]


def test_every_figure_is_one_that_plotly_accepts(tmp_path):
    import plotly.graph_objects as go

    runs = [write_run(tmp_path / "run"), write_run(tmp_path / "empty", losses=(), measurements=())]
    for each in ([runs[0]], [runs[1]], runs):
        for drawn in panels(each):
            go.Figure(drawn.figure)


def test_several_runs_lie_over_each_other_in_a_colour_each_that_no_panel_changes(tmp_path):
    runs = [write_run(tmp_path / f"run-{index}") for index in range(10)]
    for drawn in panels(runs):
        lines = [trace for trace in drawn.figure["data"] if trace.get("legendgroup")]
        looks = {
            trace["name"]: (trace["line"]["color"], trace["line"]["dash"], trace["marker"]["symbol"])
            for trace in lines if trace.get("showlegend", True)
        }  # fmt: skip
        assert list(looks) == [f"run-{index}" for index in range(10)]
        assert len(set(looks.values())) == 10
        assert [color for color, _, _ in looks.values()] == [*COLORS, *COLORS[:2]]


def test_every_colour_of_a_figure_has_a_twin_for_dark_pages(tmp_path):
    def colors(part: Any) -> list[str]:
        if isinstance(part, dict):
            named = [value for key, value in part.items() if key.endswith("color") and isinstance(value, str)]
            return named + [color for value in part.values() for color in colors(value)]
        return [color for value in part for color in colors(value)] if isinstance(part, list) else []

    runs = [write_run(tmp_path / f"run-{index}", end={**END, "outcome": "diverged"}) for index in range(9)]
    found = {color[:7] for drawn in panels(runs) for color in colors(drawn.figure)}
    assert found <= set(DARK)
    assert len(found) > len(COLORS)


def test_a_run_without_measurements_says_so(tmp_path):
    run = write_run(tmp_path / "run", measurements=(), verdict=None, end=None)
    page = report([run], tmp_path)
    assert "No verdict and no measurement is stored yet." in page.text
    assert strict_json(page.islands["figure-ratio"])["layout"]["annotations"][0]["text"] == "No measurement is stored."
    assert len(strict_json(page.islands["figure-loss"])["data"][0]["x"]) == 40


def test_an_unfinished_run_shows_the_words_of_its_last_measurement(tmp_path):
    run = write_run(tmp_path / "run", verdict=None, end=None)
    page = report([run], tmp_path)
    assert "So far, at step 40: ratio 1" in page.text
    assert "unfinished" in page.text
    assert any("share of time is not known" in note for note in panel([run], "cost").notes)
    assert not [trace for trace in figure([run], "cost")["data"] if trace.get("yaxis") == "y2"]


def test_no_number_that_is_not_finite_enters_the_page(tmp_path):
    nothing, infinity = float("nan"), float("inf")
    run = write_run(
        tmp_path / "run",
        losses=[1.0, nothing, infinity],
        measurements=[
            measurement(1, infinity, residual=infinity, upper=infinity),
            measurement(
                2, nothing, threshold=None, preconditioned_sharpness=None, seconds=nothing, num_products=nothing
            ),
            measurement(3, 1.0, upper=infinity, sharpness=-infinity, lower=-infinity, is_audit=True),
        ],
        end={**END, "outcome": "diverged", "seconds": nothing},
    )
    page = report([run], tmp_path)
    for island in page.islands.values():
        strict_json(island)
    assert strict_json(page.islands["figure-loss"])["data"][0]["y"] == [1.0, None, None]


def test_a_diverged_run_ends_in_a_cross(tmp_path):
    run = write_run(tmp_path / "run", losses=[1.0, 10.0, float("inf")], end={**END, "outcome": "diverged", "step": 3})
    cross = next(trace for trace in figure([run], "loss")["data"] if trace["mode"] == "markers")
    assert (cross["x"], cross["y"], cross["text"]) == ([2.0], [10.0], ["diverged at step 3"])
    assert "diverged</span>" in report([run], tmp_path).whole


def test_a_measurement_without_a_ratio_is_a_gap_with_its_reason(tmp_path):
    gone = measurement(20, float("nan"), status="not_finite", reason="the Hessian product is not finite.")
    run = write_run(tmp_path / "run", measurements=[measurement(10, 0.5), gone, measurement(30, 0.7)])
    drawn = panel([run], "ratio")
    assert drawn.notes == (
        "run: 1 of 3 measurements ended with status “not finite”: the Hessian product is not finite.",
    )
    band, line, mark, *_ = drawn.figure["data"]
    assert line["y"] == [0.5, None, 0.7]
    assert band["x"] == [10.0, 10.0, None, 30.0, 30.0, None]
    assert mark["x"] == [20.0]
    assert "not finite: the Hessian product" in mark["text"][0]


def test_groups_without_one_threshold_still_have_a_ratio(tmp_path):
    rows = [measurement(step, 0.9, threshold=None, preconditioned_sharpness=None) for step in (10, 20)]
    run = write_run(tmp_path / "run", start={**START, "threshold": float("nan")}, measurements=rows)
    assert figure([run], "ratio")["data"][1]["y"] == [0.9, 0.9]
    assert any("no single threshold" in note for note in panel([run], "sharpness").notes)
    assert "no single threshold" in report([run], tmp_path).text
    assert panel([write_run(tmp_path / "one")], "sharpness").notes == ()


def test_an_audit_is_an_open_diamond_with_a_bar_from_lower_to_upper(tmp_path):
    rows = [measurement(10, 0.5, lower=0.49, upper=0.55, is_audit=True), measurement(20, 0.6)]
    data = figure([write_run(tmp_path / "run", measurements=rows)], "ratio")["data"]
    audit = next(trace for trace in data if trace.get("error_y"))
    assert (audit["marker"]["symbol"], audit["x"]) == ("diamond-open", [10.0])
    assert audit["error_y"]["array"] == pytest.approx([0.05])
    assert audit["error_y"]["arrayminus"] == pytest.approx([0.01])


def test_a_hover_tells_what_is_known_of_the_ratio(tmp_path):
    run = write_run(tmp_path / "run", measurements=[measurement(10, 0.5, is_audit=True)])
    text = figure([run], "ratio")["data"][1]["text"][0]
    assert text == "step 10<br>ratio 0.5 ± 0.001<br>at most 0.525 (probabilistic, 95%)<br>stable<br>8 products, audit"


def test_early_ratios_far_above_the_edge_do_not_stretch_the_axis(tmp_path):
    rows = [measurement(1, 601.0), *(measurement(step, min(step / 20, 1.0)) for step in range(10, 41))]
    drawn = panel([write_run(tmp_path / "run", measurements=rows)], "ratio")
    low, high = drawn.figure["layout"]["yaxis"]["range"]
    assert low == 0
    assert 1.2 < high < 2.3
    mark = next(trace for trace in drawn.figure["data"] if trace.get("marker", {}).get("symbol") == "triangle-up")
    assert mark["x"] == [1.0]
    assert low < mark["y"][0] < high
    assert "601" in mark["text"][0]
    assert "1 measurement above the axis, up to 601, at step 1" in drawn.notes[0]


def test_a_run_that_lives_far_above_the_edge_has_a_logarithmic_axis_that_shows_it_whole():
    reach = ratio_reach([np.array([0.3, 40.0, 50.0, 60.0])])
    assert reach.is_log
    assert reach.low < 0.3
    assert not reach.is_above(np.array([60.0, 1.0])).any()


def test_one_run_far_off_does_not_flatten_the_others():
    reach = ratio_reach([np.array([1e5] * 9), np.linspace(0.1, 1.0, 9)])
    assert (reach.is_log, reach.high) == (False, pytest.approx(1.375))


def test_the_edge_is_a_dashed_line_at_one(tmp_path):
    (edge,) = figure([write_run(tmp_path / "run")], "ratio")["layout"]["shapes"]
    assert (edge["y0"], edge["y1"], edge["line"]["dash"]) == (1, 1, "dash")


def test_each_threshold_is_dashed_in_the_colour_of_its_run(tmp_path):
    runs = [write_run(tmp_path / "first"), write_run(tmp_path / "second")]
    dashed = [trace for trace in figure(runs, "sharpness")["data"] if trace["line"].get("dash") == "dash"]
    assert [trace["line"]["color"] for trace in dashed[:2]] == list(COLORS[:2])
    assert dashed[0]["y"] == [38000.0] * 5


def test_the_share_of_time_ends_at_what_the_run_recorded(tmp_path):
    share = next(t for t in figure([write_run(tmp_path / "run")], "cost")["data"] if t.get("yaxis") == "y2")
    assert share["y"] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25])


def test_a_spike_in_a_long_run_is_drawn_and_the_thinning_is_said(tmp_path):
    losses = np.ones(8500)
    losses[[17, 4321, 8498]] = 7.0, 9.0, 0.1
    drawn = panel([write_run(tmp_path / "run", losses=losses.tolist())], "loss")
    line = drawn.figure["data"][0]
    assert len(line["x"]) <= MAX_POINTS + 2
    assert {(18.0, 7.0), (4322.0, 9.0), (8499.0, 0.1), (1.0, 1.0), (8500.0, 1.0)} <= set(
        zip(line["x"], line["y"], strict=True)
    )
    assert "lowest and the highest" in drawn.notes[0]


def test_thinning_keeps_the_extremes_of_every_stretch_and_its_gaps():
    values = np.random.default_rng(0).standard_normal(5000)
    values[[100, 3000]] = np.nan, np.inf
    kept = extremes(values, max_points=200)
    assert len(kept) <= 204
    assert (np.diff(kept) > 0).all()
    for stretch in np.split(np.arange(5000), 100):
        finite = stretch[np.isfinite(values[stretch])]
        assert {finite[values[finite].argmin()], finite[values[finite].argmax()]} <= set(kept)
    assert {100, 3000} <= set(kept)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / folder / "adam") for folder in ("a", "b")] + [write_run(tmp_path / "gd")]
    assert labels([*runs, runs[0]]) == ["a/adam", "b/adam", "gd", "a/adam (2)"]


def test_what_all_runs_share_is_said_once(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", start={**START, "method": "RMSProp"})]
    text = report(runs, tmp_path).text
    assert text.count("300 parameters") == 1
    assert text.count("RMSProp") == 1


def test_a_report_replaces_the_one_before_and_leaves_no_draft(tmp_path):
    out = tmp_path / "new" / "folder" / "report.html"
    run = write_run(tmp_path / "run")
    assert write_report([run], out) == out
    write_report([run], out, title="The second & last")
    assert "<h1>The second &amp; last</h1>" in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_write_that_fails_half_way_leaves_the_report_before_as_it_was(tmp_path, monkeypatch, failing):
    def fill_the_disk(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"<!doctype")
        raise OSError(28, "No space left on device")

    run, out = write_run(tmp_path / "run"), tmp_path / "reports" / "report.html"
    write_report([run], out, title="The first")
    monkeypatch.setattr(Path, failing, fill_the_disk)
    with pytest.raises(StoreError, match="No space left on device"):
        write_report([run], out, title="The second")
    assert "<h1>The first</h1>" in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_a_report_of_no_runs_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"needs at least one run; got none\. Name a run"):
        write_report([], tmp_path / "report.html")


def test_a_directory_in_place_of_the_report_is_an_error_that_says_what_to_do(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(StoreError, match=r"must be a file; .* is a directory\. Name a file in it"):
        write_report([run], tmp_path)


def test_a_place_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"must be writable; .*\. Choose another file\."):
        write_report([run], tmp_path / "file" / "report.html")


def test_importing_the_views_loads_neither_plotly_nor_torch():
    code = "import sys, tightrope.views; sys.exit(bool({'plotly', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", [None, "half", 10**400, [1]])
def test_what_is_no_float_is_nan(value):
    assert math.isnan(as_float(value))
