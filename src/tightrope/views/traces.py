"""What is drawn of one run: lines, bands, audits and marks, as plain plotly traces."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrope.store import RunRecord

from .axes import Reach
from .decimation import extremes
from .facts import audits, column, number, plus_minus, share_of_time
from .palette import INK, look

Trace = dict[str, Any]
LONGEST_NAME = 28
MANY = 150
"""Lines of more points than this get small markers."""


@dataclass(frozen=True)
class Pen:
    """Draws the lines and marks of one run, all in its look and under its one entry of the legend."""

    index: int
    label: str
    is_crowded: bool = False

    @property
    def top(self) -> float:
        """How far up an axis, 0 to 1, this run marks what lies above: runs stand under each other."""
        return 0.96 - 0.045 * (self.index % 8)

    def line(self, x: np.ndarray, y: np.ndarray, **more: Any) -> Trace:
        """A line, broken where a value is not finite."""
        style = look(self.index)
        return {
            **self._trace(x, y),
            "mode": "lines",
            "line": {"color": style.color, "dash": style.dash, "width": 1.8, "simplify": False},
            "marker": {"color": style.color, "symbol": style.symbol, "size": 6 if len(x) <= MANY else 3},
            **more,
        }

    def marks(self, x: np.ndarray, y: np.ndarray, symbol: str, size: int, *, width: float = 1.5, **more: Any) -> Trace:
        """Markers alone, without an entry in the legend."""
        color = look(self.index).color
        marker = {"color": color, "symbol": symbol, "size": size, "line": {"width": width, "color": color}}
        return {**self._trace(x, y), "mode": "markers", "marker": marker, "showlegend": False, **more}

    def pins(self, x: np.ndarray, height: float, symbol: str, texts: list[str]) -> list[Trace]:
        """Marks at one height for points that have no place on the axis; nothing for no points."""
        more = {"cliponaxis": False, **said(texts)}
        return [self.marks(x, np.full(len(x), height), symbol, 9, **more)] if len(x) else []

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> Trace:
        """The region between two lines, open where either is not finite."""
        corners_x, corners_y = [np.zeros(0)], [np.zeros(0)]
        known = np.isfinite(low) & np.isfinite(high)
        for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1):
            if len(part) and known[part[0]]:
                corners_x += [x[part], x[part][::-1], np.array([np.nan])]
                corners_y += [high[part], low[part][::-1], np.array([np.nan])]
        return {
            **self._trace(np.concatenate(corners_x), np.concatenate(corners_y)),
            "mode": "lines",
            "line": {"width": 0},
            "fill": "toself",
            "fillcolor": look(self.index).color + "44",
            "hoverinfo": "skip",
            "showlegend": False,
        }

    def _trace(self, x: np.ndarray, y: np.ndarray) -> Trace:
        is_long = len(self.label) > LONGEST_NAME
        return {
            "type": "scatter",
            "x": as_json(x),
            "y": as_json(y),
            "name": html.escape("…" + self.label[1 - LONGEST_NAME :] if is_long else self.label),
            "legendgroup": f"run {self.index}",
        }


def as_json(values: np.ndarray) -> list[float | None]:
    """The values as JSON has them: null where one is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def said(texts: list[str]) -> dict[str, Any]:
    """Hover texts, a text a point."""
    return {"text": texts, "hovertemplate": "%{text}<extra>%{fullData.name}</extra>"}


def shared_mark(name: str, symbol: str) -> Trace:
    """Legend entry of a mark that means the same in every run."""
    marker = {"symbol": symbol, "color": INK, "size": 9, "line": {"width": 2, "color": INK}}
    return {"type": "scatter", "x": [None], "y": [None], "mode": "markers", "marker": marker, "name": name}


def shared_line(name: str, dash: str) -> Trace:
    """Legend entry of a line that means the same in every run."""
    line = {"dash": dash, "color": INK, "width": 1.5}
    return {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "line": line, "name": name}


def every_step(pen: Pen, run: RunRecord, name: str) -> Trace:
    """A column of the steps, thinned to its extremes where it is long."""
    kept = extremes(run.steps[name])
    hover = "step %{x:,}<br>%{y:.4g}<extra>%{fullData.name}</extra>"
    return pen.line(run.steps["step"][kept], run.steps[name][kept], hovertemplate=hover)


def divergence(pen: Pen, run: RunRecord) -> list[Trace]:
    """A cross on the last loss of a run that diverged."""
    known = np.flatnonzero(np.isfinite(run.steps["loss"]))[-1:]
    if run.outcome != "diverged" or not len(known):
        return []
    hover = said([f"diverged at step {number(run.end.get('step'))}"])
    return [pen.marks(run.steps["step"][known], run.steps["loss"][known], "x-thin", 16, width=3.5, **hover)]


def ratio(pen: Pen, run: RunRecord, reach: Reach) -> list[Trace]:
    """The ratio of every measurement: band, line, audits with their bounds, and marks for what is off the axis."""
    kept = extremes(run.measurements["ratio"])
    step, value, residual = (run.measurements[name][kept] for name in ("step", "ratio", "residual"))
    hover = [_hover(run, place) for place in kept.tolist()]
    with np.errstate(invalid="ignore"):  # infinity less infinity is a gap of the band
        low, high = value - residual, value + residual
    traces = [
        pen.band(step, low, high),
        pen.line(step, value, mode="lines" if pen.is_crowded else "lines+markers", **said(hover)),
    ]
    audited = np.flatnonzero(audits(run) & np.isfinite(run.measurements["ratio"]))
    if len(audited):
        traces.append(_audits(pen, run, audited[extremes(run.measurements["ratio"][audited])]))
    above, absent = reach.is_above(run.measurements["ratio"]), np.isnan(run.measurements["ratio"])
    for is_off, symbol, height in ((above, "triangle-up", pen.top), (absent, "line-ns", 0.02)):
        places = np.flatnonzero(is_off)
        places = places[extremes(run.measurements["ratio"][places])]
        texts = [_hover(run, place) for place in places.tolist()]
        traces += pen.pins(run.measurements["step"][places], reach.at(height), symbol, texts)
    return traces


def _audits(pen: Pen, run: RunRecord, places: np.ndarray) -> Trace:
    columns = ("step", "ratio", "lower", "upper")
    step, value, lower, upper = (run.measurements[name][places] for name in columns)
    bar = {
        "type": "data",
        "symmetric": False,
        "array": as_json(np.nan_to_num(upper - value, posinf=0, neginf=0)),
        "arrayminus": as_json(np.nan_to_num(value - lower, posinf=0, neginf=0)),
        "thickness": 1.3,
        "width": 3,
        "color": look(pen.index).color,
    }
    hover = said([_hover(run, place) for place in places.tolist()])
    if pen.is_crowded:
        return pen.marks(step, value, "diamond-open", 6, **hover)
    return pen.marks(step, value, "diamond-open", 9, error_y=bar, **hover)


def _hover(run: RunRecord, place: int) -> str:
    """What is known of one measurement; stored text escaped."""
    numbers = {name: run.measurements[name][place] for name in ("step", "ratio", "residual", "upper", "num_products")}
    texts = {
        name: column(run, name)[place]
        for name in ("upper_kind", "confidence", "verdict", "status", "reason", "is_audit")
    }
    lines = [f"step {number(numbers['step'])}", f"ratio {plus_minus(numbers['ratio'], numbers['residual'])}"]
    if np.isfinite(numbers["upper"]):
        sure = f", {texts['confidence']:.0%}" if isinstance(texts["confidence"], float) else ""
        lines.append(f"at most {number(numbers['upper'])} ({texts['upper_kind'] or 'kind not stored'}{sure})")
    lines.append(str(texts["verdict"] or ""))
    if texts["status"] not in (None, "converged"):
        lines.append(f"{str(texts['status']).replace('_', ' ')}: {texts['reason']}"[:90])
    lines.append(f"{number(numbers['num_products'])} products" + (", audit" if texts["is_audit"] else ""))
    return "<br>".join(html.escape(line) for line in lines if line)


def sharpness(pen: Pen, run: RunRecord, reach: Reach | None) -> list[Trace]:
    """Preconditioned sharpness and threshold on the upper plot, raw sharpness on the lower one."""
    measured = run.measurements
    kept = extremes(measured["preconditioned_sharpness"])
    step, value = measured["step"][kept], measured["preconditioned_sharpness"][kept]
    hover = "step %{x:,}<br>%{y:.4g}<extra>%{fullData.name}</extra>"
    color = look(pen.index).color
    threshold = {"showlegend": False, "line": {"color": color, "dash": "dash", "width": 1.3}}
    # A watched run takes the raw sharpness at some of its readings only: the line goes on to the next that has it.
    taken = np.flatnonzero(np.isfinite(measured["sharpness"]) | ~np.isfinite(measured["ratio"]))
    raw = taken[extremes(measured["sharpness"][taken])]
    is_sparse = len(taken) < len(measured["sharpness"]) and not pen.is_crowded
    lower = {"yaxis": "y2", "showlegend": False, "mode": "lines+markers" if is_sparse else "lines"}
    traces = [
        pen.line(step, value, hovertemplate=hover),
        pen.line(step, measured["threshold"][kept], hovertemplate="threshold " + hover, **threshold),
        pen.line(measured["step"][raw], measured["sharpness"][raw], hovertemplate=hover, **lower),
    ]
    if reach:
        above = np.flatnonzero(reach.is_above(measured["preconditioned_sharpness"]))
        above = above[extremes(measured["preconditioned_sharpness"][above])]
        texts = [f"step {measured['step'][p]:,.0f}<br>{measured['preconditioned_sharpness'][p]:.4g}" for p in above]
        traces += pen.pins(measured["step"][above], reach.at(pen.top), "triangle-up", texts)
    return traces


def cost(pen: Pen, run: RunRecord) -> list[Trace]:
    """Products of every measurement on the upper plot, the share of time so far on the lower one."""
    measured, audited = run.measurements, np.flatnonzero(audits(run))
    kept = extremes(measured["num_products"])
    step, products = measured["step"], measured["num_products"]
    hover = "step %{x:,}<br>%{y:,} products<extra>%{fullData.name}</extra>"
    traces = [pen.line(step[kept], products[kept], mode="markers", hovertemplate=hover)]
    if len(audited):
        more: dict[str, Any] = {"hovertemplate": "audit, " + hover}
        traces.append(pen.marks(step[audited], products[audited], "diamond-open", 9, **more))
    share, seconds = share_of_time(run), np.nan_to_num(measured["seconds"], posinf=0)
    if share is not None and seconds.sum() > 0:
        course = share * seconds.cumsum() / seconds.sum()
        kept = extremes(course)
        hover = "up to step %{x:,}<br>%{y:.1%}<extra>%{fullData.name}</extra>"
        traces.append(pen.line(step[kept], course[kept], hovertemplate=hover, yaxis="y2", showlegend=False))
    return traces
