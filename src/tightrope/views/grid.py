"""A picture on a page: its charts as the plots of one plotly figure, each where it belongs."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrangement import Place, Sizes, below, places, title_size
from .axes import layout, value_axis
from .charts import Chart, Line, Picture, named_marks
from .figures import Figure, Panel
from .palette import INK, RED
from .ticks import decades, is_plain, powers, spans_few_decades
from .traces import Trace, as_json, shared_line

SIZES = Sizes(width=1000, height=190, lone_height=320, title=30, gap=24, x_axis=54, y_axis=70, no_axis=16, entry=19)
"""Pixels on a wide page; the fractions they make hold on any other."""
TITLE = 13.0
"""Pixels, where the columns are wide enough."""


@dataclass(frozen=True)
class Plot:
    """One chart as plotly knows it.

    Attributes:
        chart: It.
        number: Of its axes, from 1.
        x, y: Its domain on the figure's paper.
        legend: Number of the legend of its lines, 1 for that below the figure.
        place: Where it stands.
    """

    chart: Chart
    number: int
    x: tuple[float, float]
    y: tuple[float, float]
    legend: int
    place: Place

    def name(self, letter: str) -> str:
        """Of one of its axes, as a trace refers to it."""
        return letter if self.number == 1 else f"{letter}{self.number}"

    def key(self, letter: str) -> str:
        """Of one of its axes, in a layout."""
        return f"{letter}axis{self.number if self.number > 1 else ''}"


def picture_panel(picture: Picture) -> Panel:
    """A picture as a panel of a page; a click on an entry of the legend hides its lines in every plot."""
    stand = places(picture, SIZES)
    total, margin = max(place.bottom for place in stand), int(below(picture, picture.blocks[-1], SIZES))
    figure: Figure = {"data": [], "layout": layout(int(total) + margin + 22, shapes=[], annotations=[])}
    figure["layout"]["margin"] = {"l": 4, "r": 16, "t": 22, "b": margin}
    figure["layout"]["showlegend"] = True  # also where there is one entry
    shown: set[str] = set()
    titles = title_size(stand, SIZES.width, TITLE)
    for number, place in enumerate(stand, start=1):
        x = (place.left / SIZES.width, place.right / SIZES.width)
        y = (max(0.0, 1 - place.bottom / total), 1 - place.top / total)
        plot = Plot(place.chart, number, x, y, 1 if picture.has_one_legend else 2 + place.column, place)
        _add_axes(figure["layout"], plot, titles)
        for line in plot.chart.lines:
            figure["data"] += _traces(plot, line, shown)
        if plot.legend > 1 and place.has_x:
            where = {"x": x[0], "xanchor": "left", "y": y[0] - (SIZES.x_axis - 6) / total, "yanchor": "top"}
            figure["layout"][f"legend{plot.legend}"] = {"font": {"size": 11.5}, "tracegroupgap": 0, **where}
    figure["data"] += [_mark_entry(name, dash) for name, dash in named_marks(picture.charts).items()]
    return Panel(picture.name, picture.title, picture.caption, figure, picture.notes)


def _add_axes(arrangement: dict[str, Any], plot: Plot, title_size: float) -> None:
    chart = plot.chart
    x = _axis(chart.x_title if plot.place.has_x else "", chart.x_range, chart.is_x_log)
    y = _axis(chart.y_title if plot.place.has_y_name else "", chart.y_range, chart.is_y_log)
    x |= {"domain": list(plot.x), "anchor": plot.name("y"), "showticklabels": plot.place.has_x, "tickangle": 0}
    y |= {"domain": list(plot.y), "anchor": plot.name("x"), "showticklabels": plot.place.has_y}
    arrangement |= {plot.key("x"): x, plot.key("y"): y}
    here = {
        "xref": "paper",
        "x": sum(plot.x) / 2,
        "xanchor": "center",
        "yref": "paper",
        "y": plot.y[1],
        "showarrow": False,
        "font": {"size": title_size},
    }
    if chart.title:
        arrangement["annotations"].append({"text": html.escape(chart.title), "yanchor": "bottom", "yshift": 2, **here})
    across = {"xref": f"{plot.name('x')} domain", "x0": 0, "x1": 1, "yref": plot.name("y")}
    for height in chart.levels:
        arrangement["shapes"].append(_rule(across, "y", height, INK, "dash"))
    for line in chart.lines:
        if isinstance(line.level, float | int):
            arrangement["shapes"].append(_rule(across, "y", float(line.level), line.color, "dash"))
    upright = {"yref": f"{plot.name('y')} domain", "y0": 0, "y1": 1, "xref": plot.name("x")}
    for place in chart.marks:
        arrangement["shapes"].append(_rule(upright, "x", place, RED, "dot"))


def _axis(title: str, shown: tuple[float, float] | None, is_log: bool) -> dict[str, Any]:
    more: dict[str, Any] = {"automargin": False, "nticks": 6, "tickfont": {"size": 11}, "showline": True}
    more |= {"type": "log"} if is_log else {"exponentformat": "none", "separatethousands": True}
    if shown is not None:
        more["range"] = [float(end) for end in (np.log10(shown) if is_log else shown)]
        more |= _numbers(*shown) if is_log else {}
    return value_axis(html.escape(title), **more)


def _numbers(low: float, high: float) -> dict[str, Any]:
    """How a logarithmic axis is numbered: 1, 2, 5, 10 where it spans few decades, else powers of ten alone."""
    if spans_few_decades(low, high):
        num_ticks = int(np.ceil(decades(low, high) / 0.3)) - 1  # from more on plotly numbers 3, 4, 6, ..., too
        return {"nticks": max(3, num_ticks), "tickformat": "~g" if is_plain(low, high) else "~e"}
    found = powers(low, high)
    words = [f"10<sup>{power}</sup>".replace("-", "\u2212") for power in found]
    return {"tickmode": "array", "tickvals": [10.0**power for power in found], "ticktext": words}


def _rule(along: dict[str, Any], letter: str, at: float, color: str, dash: str) -> dict[str, Any]:
    line = {"color": color, "dash": dash, "width": 1.3}
    return {"type": "line", f"{letter}0": at, f"{letter}1": at, "line": line, **along}


def _traces(plot: Plot, line: Line, shown: set[str]) -> Iterator[Trace]:
    """A line with its shade, its moving level and the marks of what lies above, under one entry of its legend."""
    drawn = plot.chart.drawn(line)
    group = f"{plot.legend} {html.escape(line.label)}"
    common: Trace = {
        "type": "scatter", "name": html.escape(line.label), "legendgroup": group, "showlegend": False,
        "xaxis": plot.name("x"), "yaxis": plot.name("y"), "legend": f"legend{plot.legend if plot.legend > 1 else ''}",
    }  # fmt: skip
    quiet = {**common, "hoverinfo": "skip"}
    if drawn.band is not None:
        yield {**quiet, "mode": "lines", "line": {"width": 0}, "fill": "toself", **_ribbon(drawn, line.color)}
    yield {
        **common,
        "x": as_json(drawn.x) or [None],  # a line without a point stands in the legend all the same
        "y": as_json(drawn.y) or [None],
        "mode": "lines+markers" if line.has_marks else "lines",
        "line": {"color": line.color, "dash": line.dash, "width": 1.6, "simplify": False},
        "marker": {"color": line.color, "size": 7},
        "opacity": 0.5 if line.is_missing else 1,
        "showlegend": bool(line.label) and group not in shown,
        "hovertemplate": f"{html.escape(plot.chart.x_title)} %{{x:.6~g}}<br>%{{y:.4g}}<extra>{_named(line)}</extra>",
    }
    shown.add(group)
    if isinstance(drawn.level, np.ndarray):
        style = {"color": line.color, "dash": "dash", "width": 1.3}
        yield {**quiet, "mode": "lines", "x": as_json(drawn.x), "y": as_json(drawn.level), "line": style}
    above = plot.chart.above(line)
    if len(above) and plot.chart.y_range is not None:
        pin = {"symbol": "triangle-up", "size": 8, "color": line.color}
        height = [plot.chart.y_range[1]] * len(above)
        yield {**quiet, "mode": "markers", "x": as_json(above), "y": height, "marker": pin, "cliponaxis": False}


def _ribbon(line: Line, color: str) -> dict[str, Any]:
    """The outline of a shade, where both its ends are known."""
    assert line.band is not None
    low, high = line.band
    known = np.isfinite(low) & np.isfinite(high)
    x, low, high = line.x[known], low[known], high[known]
    outline = {"x": as_json(np.concatenate([x, x[::-1]])), "y": as_json(np.concatenate([high, low[::-1]]))}
    return {**outline, "fillcolor": color + "44"}


def _named(line: Line) -> str:
    return "%{fullData.name}" if line.label else ""


def _mark_entry(name: str, dash: str) -> Trace:
    entry = shared_line(html.escape(name), dash)
    return entry if dash == "dash" else {**entry, "line": {**entry["line"], "color": RED}}
