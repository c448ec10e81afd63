"""Figures for paper and page: one description, two renderers that draw the same."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.legend import Legend

from tightrope.errors import ConfigError, StoreError
from tightrope.views import Chart, Line, Picture, block, fit, picture_panel, prints, write_prints, write_sheet
from tightrope.views.decimation import MAX_POINTS
from tightrope.views.palette import DARK, INK, RAMP, RED
from tightrope.views.prints import drawing
from tightrope.views.ticks import in_digits, in_powers, powers

X = np.arange(1.0, 6.0)
RISING = Line(X, X / 5, "lr 0.1", rank=0.0, level=1.0, band=(X / 6, X / 4))
FALLING = Line(X, 10 / X, "lr 0.2", rank=1.0, level=5 / X)
MISSING = Line(np.zeros(0), np.zeros(0), "lr 0.3: not run yet", rank=0.5, is_missing=True)
MARKED = {"levels": (1.0,), "level_name": "edge", "marks": (2.0,), "mark_name": "crossing"}


def chart(*lines, **more):
    return fit([Chart(lines, **{"y_title": "ratio", **more})])[0]


def whole(*rows):
    rows = rows or ([chart(RISING, FALLING, MISSING, **MARKED)],)
    return Picture("fig0", "Figure 0", "A title", "A caption.", (block(rows),))


def printed(picture):
    """The lines of every plot of a print: colour, whether dashed, x and y."""
    with drawing(picture) as figure:
        return [
            [(line.get_color(), line.is_dashed(), *(np.array(line.get_data(orig=True)[i]) for i in (0, 1)))
             for line in axes.get_lines()]
            for axes in figure.axes
        ]  # fmt: skip


def traces(picture):
    return [trace for trace in picture_panel(picture).figure["data"] if trace["x"] != [None]]


def test_the_same_picture_gives_the_same_bytes_and_another_gives_others():
    first, second, other = prints(whole()), prints(whole()), prints(whole([chart(FALLING)]))
    assert first == second
    assert first["pdf"] != other["pdf"]
    assert first["png"] != other["png"]


def test_a_pdf_holds_its_fonts_as_outlines_and_no_date():
    pdf = prints(whole())["pdf"]
    assert b"/FontFile2" in pdf
    assert b"/Subtype /Type3" not in pdf
    assert b"/CreationDate" not in pdf
    assert b"A caption." in pdf


def test_drawing_neither_changes_a_setting_of_matplotlib_nor_heeds_one():
    import matplotlib

    plain = prints(whole())["png"]
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert prints(whole())["png"] == plain
        assert dict(matplotlib.rcParams) == before


def test_the_views_load_no_matplotlib_and_prints_no_pyplot():
    code = (
        "import sys, numpy as np, tightrope.views as v; assert 'matplotlib' not in sys.modules;"
        "line = v.Line(np.ones(2), np.ones(2));"
        "v.prints(v.Picture('a', 'b', 'c', 'd', (v.block([[v.Chart((line,))]]),)));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_dashed_level_has_the_colour_of_its_line_on_paper():
    [lines] = printed(whole())
    dashed = {color: y.tolist() for color, is_dashed, _, y in lines if is_dashed and color != RED}
    assert dashed == {INK: [1, 1], RISING.color: [1, 1], FALLING.color: (5 / X).tolist()}
    solid = {color: y.tolist() for color, is_dashed, x, y in lines if not is_dashed and len(x)}
    assert solid == {RISING.color: RISING.y.tolist(), FALLING.color: FALLING.y.tolist()}


def test_every_dashed_level_has_the_colour_of_its_line_on_the_page():
    figure = picture_panel(whole()).figure
    rules = {
        shape["line"]["color"]: shape["y0"] for shape in figure["layout"]["shapes"] if shape["line"]["dash"] == "dash"
    }
    assert rules == {INK: 1.0, RISING.color: 1.0}
    curves = [(trace["line"]["color"], trace["y"]) for trace in traces(whole()) if trace["line"].get("dash") == "dash"]
    assert curves == [(FALLING.color, (5 / X).tolist())]


def test_both_draw_the_same_numbers():
    wild = Line(np.arange(6.0), np.array([1.0, np.nan, np.inf, 0.0, -1.0, 2.0]), "wild")
    picture = whole([chart(wild, is_y_log=True), chart(wild)])
    (on_log, *_), (on_linear, *_) = printed(picture)
    log, linear = (trace for trace in traces(picture) if trace["mode"] == "lines")
    nan = np.nan
    np.testing.assert_array_equal(on_log[3], [1, nan, nan, nan, nan, 2])
    np.testing.assert_array_equal(on_linear[3], [1, nan, nan, 0, -1, 2])
    assert log["y"] == [1, None, None, None, None, 2]
    assert linear["y"] == [1, None, None, 0, -1, 2]
    assert any("no place for what is 0 or less" in note for note in picture.notes)


def test_a_long_line_is_thinned_and_loses_no_spike():
    y = np.zeros(20 * MAX_POINTS)
    y[777] = 5.0
    picture = whole([chart(Line(np.arange(float(len(y))), y, "long"))])
    [(_, _, x, drawn)], [trace] = printed(picture)[0][:1], traces(picture)
    assert len(x) <= MAX_POINTS + 2
    assert x[drawn.argmax()] == 777
    assert max(trace["y"]) == 5
    assert any("no spike is lost" in note for note in picture.notes)


def test_what_lies_above_the_axis_is_pinned_to_its_top():
    spiky = Line(np.arange(40.0), np.array([1e6, *[1.0] * 39]), "spiky")
    [cut] = fit([Chart((spiky,), y_title="ratio")], cuts_spikes=True)
    assert cut.y_range[1] < 2
    pins = [trace for trace in traces(whole([cut])) if trace["mode"] == "markers"]
    assert [(pin["x"], pin["y"]) for pin in pins] == [([0], [cut.y_range[1]])]
    assert any(x.tolist() == [0] for _, _, x, _ in printed(whole([cut]))[0])


def test_a_missing_line_stands_grey_in_the_legend_of_both():
    with drawing(whole()) as figure:
        [legend] = [artist for artist in figure.artists if hasattr(artist, "get_texts")]
        entries = {text.get_text(): line.get_color() for text, line in zip(legend.get_texts(), legend.get_lines())}  # noqa: B905
    assert entries == {
        "lr 0.1": RISING.color, "lr 0.2": FALLING.color, MISSING.label: MISSING.color, "edge": INK, "crossing": RED,
    }  # fmt: skip
    shown = {
        trace["name"]: trace["line"]["color"]
        for trace in picture_panel(whole()).figure["data"]
        if trace.get("showlegend", True)
    }
    assert shown == entries


def test_one_legend_serves_columns_that_agree_and_each_has_its_own_where_they_do_not():
    alike = whole([chart(RISING), chart(RISING)])
    assert alike.has_one_legend
    assert sum(trace["showlegend"] for trace in traces(alike)) == 1
    apart = whole([chart(RISING), chart(FALLING, Line(X, X, "lr 0.1", rank=0.5))])
    assert not apart.has_one_legend
    assert {trace["legend"] for trace in traces(apart) if trace["showlegend"]} == {"legend2", "legend3"}


def test_columns_share_their_steps_and_name_them_once():
    picture = whole([chart(RISING), chart(FALLING)], [chart(Line(3 * X, X, "lr 0.1", rank=0.0)), chart(FALLING)])
    (upper, _), (lower, _) = picture.blocks[0]
    assert upper.x_range == lower.x_range == pytest.approx((0.79, 15.21))
    layout = picture_panel(picture).figure["layout"]
    assert [layout[name]["title"]["text"] for name in ("xaxis", "xaxis3")] == ["", "step"]
    assert [layout[name]["title"]["text"] for name in ("yaxis", "yaxis2")] == ["ratio", ""]
    with drawing(picture) as figure:
        assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "step", "step"]


def test_plots_do_not_overlap():
    picture = whole(*[[chart(RISING, title=str(row)) for _ in range(4)] for row in range(3)])
    layout = picture_panel(picture).figure["layout"]
    boxes = [(*layout[f"xaxis{n}"]["domain"], *layout[f"yaxis{n}"]["domain"]) for n in ["", *range(2, 13)]]
    with drawing(picture) as figure:
        boxes = [boxes, [(b.x0, b.x1, b.y0, b.y1) for b in (axes.get_position() for axes in figure.axes)]]
    for ours in boxes:
        assert len(ours) == 12
        assert all(0 <= low < high <= 1 for box in ours for low, high in (box[:2], box[2:]))
        for place, a in enumerate(ours):
            assert all(a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2] for b in ours[place + 1 :])


def test_every_figure_is_one_that_plotly_accepts_with_a_twin_for_each_colour():
    import plotly.graph_objects as go

    figure = picture_panel(whole()).figure
    go.Figure(figure)
    named = re.findall(r'"\w*color": "(#[0-9a-f]{6})', json.dumps(figure))
    assert set(named) <= set(DARK)
    assert {RAMP[0], RAMP[-1], RED, INK} <= set(named)


def test_text_on_a_page_is_escaped_wherever_it_stands(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    line = Line(X, X, evil)
    charts = [chart(line, title=evil, y_title=evil, x_title=evil, level_name=evil, levels=(1.0,), notes=(evil,))]
    picture = Picture("fig0", evil, evil, evil, (block([charts]),))
    row = {"claim": evil, "result": "PASS"}
    page = write_sheet(
        picture, tmp_path / "a.html", found=[row], headings={"claim": evil, "result": evil}, facts=[evil]
    )
    text = page.read_text(encoding="utf-8")
    assert evil not in text
    drawn = json.loads(re.search(r'id="figure-fig0">(.*?)</script>', text).group(1))
    assert not [trace["name"] for trace in drawn["data"] if "<" in trace["name"]]
    assert "<" not in drawn["layout"]["annotations"][0]["text"]
    assert "<" not in drawn["layout"]["xaxis"]["title"]["text"] + drawn["layout"]["yaxis"]["title"]["text"]


def test_a_dollar_in_a_label_is_a_dollar():
    assert prints(whole([chart(Line(X, X, "_costs $5 or $6"), title="$\\oops$")]))["png"]


def test_a_name_keeps_its_underscore_in_every_heading_and_its_entry_in_the_legend():
    picture = replace(whole([chart(Line(X, X, "_Under"), title="_Under")]), heading="_Under", caption="_Under too.")
    with drawing(picture) as figure:
        assert [text.get_text() for text in figure.texts] == ["_Under: A title", "_Under too."]
        assert figure.axes[0].get_title() == "_Under"
        [legend] = [each for each in figure.artists if isinstance(each, Legend)]
        assert [text.get_text() for text in legend.get_texts()] == ["Under"]


def test_letters_that_the_font_of_a_print_lacks_bring_no_warning_and_any_other_is_heard(tmp_path, monkeypatch):
    picture = replace(whole([chart(replace(RISING, label="优化器"))]), heading="优化器")
    assert prints(picture)["pdf"].startswith(b"%PDF")  # warnings are errors here
    assert "<h1>优化器</h1>" in write_sheet(picture, tmp_path / "a.html").read_text(encoding="utf-8")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: warnings.warn("another", stacklevel=1))
    with pytest.warns(UserWarning, match="another"):
        prints(whole())


def test_a_page_shows_what_was_found(tmp_path):
    found = [{"claim": "a < b", "result": "MISS"}]
    page = write_sheet(whole(), tmp_path / "a.html", found=found, headings={"claim": "claim", "result": "result"})
    text = page.read_text(encoding="utf-8")
    assert "<td>a &lt; b</td>" in text
    assert '<span class="badge bad">MISS</span>' in text


def test_prints_are_written_over_earlier_ones_alone(tmp_path):
    paths = write_prints(whole(), tmp_path / "new")
    assert [path.name for path in paths] == ["fig0.pdf", "fig0.png"]
    assert paths == write_prints(whole(), tmp_path / "new")
    paths[1].write_text("a diary")
    with pytest.raises(StoreError, match=r"fig0.png must be new, or an earlier figure; it is another file"):
        write_prints(whole(), tmp_path / "new")
    assert paths[1].read_text() == "a diary"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"must be writable; .*\. Choose another --into"):
        write_prints(whole(), tmp_path / "file")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install tightrope\[print\]"):
        prints(whole())


def test_values_close_to_each_other_get_a_linear_axis_and_others_a_logarithmic_one():
    near, far, crossing = ([2.0, 3.0], [1.0, 100.0], [-1.0, 2.0, 3.0])
    charts = [chart(Line(np.arange(len(y)), np.array(y)), is_y_log=True) for y in (near, far, crossing)]
    assert [each.is_y_log for each in charts] == [False, True, True]
    low, high = charts[0].y_range
    assert 1.9 < low < 2 < 3 < high < 3.1


def numbered(low, high):
    """The numbers of a logarithmic axis: on paper those that are seen, on the page how they are made."""
    line = Line(np.array([low, high]), np.array([low, high]))
    picture = whole([chart(line, is_x_log=True, is_y_log=True)])
    with drawing(picture) as figure:
        figure.draw_without_rendering()
        [axes] = figure.axes
        first, last = axes.get_ylim()
        labels = [t.get_text() for t in axes.get_yticklabels() if first <= t.get_position()[1] <= last]
    return labels, picture_panel(picture).figure["layout"]["yaxis"]


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((1e-4, 3e-3), ["0.0001", "0.0002", "0.0005", "0.001", "0.002"]),
        ((150, 1600), ["200", "500", "1000", "2000"]),
        ((8e3, 2e5), [rf"${digit}{{\times}}10^{{{power}}}$" for digit, power in ("14", "24", "54", "15", "25")]),
        ((2e-6, 3e-5), [rf"${digit}{{\times}}10^{{-{power}}}$" for digit, power in ("26", "56", "15", "25")]),
    ],
)
def test_all_numbers_of_an_axis_of_few_decades_are_written_in_one_way(ends, labels):
    on_paper, on_page = numbered(*ends)
    assert on_paper == labels
    assert on_page["tickformat"] == ("~e" if "10^" in labels[0] else "~g")


def test_an_axis_of_many_decades_is_numbered_in_powers_of_ten_alone():
    on_paper, on_page = numbered(1e-3, 50.0)
    assert on_paper == [rf"$\mathdefault{{10^{{{power}}}}}$" for power in (-3, -2, -1, 0, 1)]
    words = dict(zip(on_page["tickvals"], on_page["ticktext"], strict=True))
    assert [words[value] for value in (1e-3, 0.1, 1.0, 10.0)] == [
        f"10<sup>{power}</sup>" for power in ("\u22123", "\u22121", "0", "1")
    ]


def test_an_axis_from_one_end_of_the_floats_to_the_other_is_numbered():
    found = powers(3e-308, 1e308)
    assert all(0 < 10.0**power < np.inf for power in found)
    assert 4 <= len(found) <= 12


def test_numbers_between_those_of_an_axis_are_not_rounded_away():
    assert in_powers(1.25e6) == ("1.25", 6)
    assert in_powers(9.9999999e-7) == ("1", -6)
    assert [in_digits(value) for value in (6e-5, 0.1 + 1e-17, 20000.0)] == ["0.00006", "0.1", "20000"]


def test_the_caption_stands_on_paper_between_the_headline_and_the_charts():
    words = "A caption of WIDE LETTERS and others, that costs $5 or $6 and fills several lines. " * 4
    picture = replace(whole([chart(RISING, title="A chart"), chart(FALLING)]), caption=words.strip())
    with drawing(picture) as figure:
        headline, caption = (text.get_window_extent() for text in figure.texts)
        charts = [axes.get_tightbbox() for axes in figure.axes]
        assert figure.texts[1].get_text().replace("\n", " ").replace("\\", "") == picture.caption
        assert caption.height > 2 * headline.height
        assert caption.x1 <= figure.bbox.x1
        assert max(box.y1 for box in charts) <= caption.y0 < caption.y1 <= headline.y0
    assert b"Description\x00A caption of WIDE" in prints(picture)["png"]


def test_the_caption_stands_on_the_page_between_the_title_and_the_charts(tmp_path):
    [line] = [Line(np.arange(3.0), np.array([1.0, 0.0, 2.0]), "line")]
    page = write_sheet(whole([chart(line, is_y_log=True)]), tmp_path / "a.html").read_text(encoding="utf-8")
    places = [page.index(f"{words}<") for words in ("A title", "A caption.", "the line breaks there.")]
    assert places[0] < places[1] < page.index('<div class="plot"') < places[2]


def test_titles_of_charts_side_by_side_do_not_meet():
    title = "Adam with its bias corrected, lr 0.001 (threshold 38/lr)"
    apart = [replace(RISING, y=RISING.y * 2**place) for place in range(4)]
    for picture in (whole([chart(line, title=title) for line in lines]) for lines in ([RISING] * 4, apart)):
        with drawing(picture) as figure:
            boxes = [axes.title.get_window_extent() for axes in figure.axes]
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
            assert boxes[-1].x1 <= figure.bbox.x1
        [size] = {note["font"]["size"] for note in picture_panel(picture).figure["layout"]["annotations"]}
        assert 0.5 * size * len(title) < 250
    [short] = picture_panel(whole([chart(RISING, title="Adam")])).figure["layout"]["annotations"]
    assert short["font"]["size"] == 13


def test_the_charts_of_a_column_with_nothing_in_it_share_an_axis_and_one_legend():
    missing = Line(np.zeros(0), np.zeros(0), "lr 1: not run yet", is_missing=True)
    there = Line(np.arange(3.0), np.arange(3.0) + 1, "lr 2")
    rows = [[chart(there), chart(missing)], [chart(there), chart(missing)]]
    made = block(rows)
    assert made[0][1].x_range == made[1][1].x_range is not None
    with drawing(Picture("name", "Figure", "title", "", (made,))) as figure:
        labels = [text.get_text() for legend in figure.findobj(Legend) for text in legend.get_texts()]
        shown = [axes for axes in figure.axes if axes.xaxis.get_tick_params()["labelbottom"]]
    assert labels.count("lr 1: not run yet") == 1
    assert len(shown) == 2
