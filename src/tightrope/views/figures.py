"""The panels of a report: stored runs in, plotly figures out, as plain dicts that are JSON already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrope.store import RunRecord

from . import traces
from .axes import Reach, layout, log_or_linear, ratio_reach, sharpness_reach, stacked, step_axis, value_axis
from .decimation import MAX_POINTS
from .facts import audits, labels, number, plural, share_of_time, unfinished_business
from .palette import FAINT, INK

Figure = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One picture and what a reader needs to read it.

    Attributes:
        name: Short and unique, fit for an HTML id.
        heading: Of the panel.
        caption: What it shows and how to read it.
        figure: A plotly figure, `{"data": [...], "layout": {...}}`; null stands where a number is not finite.
        notes: What these runs lack, or what is drawn otherwise; plain text.
    """

    name: str
    heading: str
    caption: str
    figure: Figure
    notes: tuple[str, ...] = ()


def panels(runs: Sequence[RunRecord]) -> list[Panel]:
    """Every panel of a report, from the top down."""
    return [panel(runs) for panel in (loss_panel, ratio_panel, sharpness_panel, gradient_panel, cost_panel)]


def loss_panel(runs: Sequence[RunRecord]) -> Panel:
    """The training loss of every step; a cross where a run diverged."""
    figure = _step_figure(runs, "loss", "training loss")
    crosses = [cross for pen, run in _pens(runs) for cross in traces.divergence(pen, run)]
    figure["data"] += crosses + ([traces.shared_mark("diverged", "x-thin")] if crosses else [])
    caption = (
        "The loss before each step, on that step's data: lower is better. Near the edge short spikes are common, and "
        "most heal by themselves."
    )
    return Panel("loss", "Training loss", caption, figure, _thinned([run.steps for run in runs]))


def ratio_panel(runs: Sequence[RunRecord]) -> Panel:
    """The ratio with its band, its audits and the edge at 1."""
    reach = ratio_reach([run.measurements["ratio"] for run in runs])
    data = [trace for pen, run in _pens(runs) for trace in traces.ratio(pen, run, reach)]
    arrangement = layout(400, yaxis=reach.axis("ratio"), xaxis=step_axis(runs), shapes=[_edge()])
    figure = _measured_figure(runs, data + _ratio_legend(runs, reach), arrangement)
    caption = (
        "The ratio is the largest curvature the optimizer feels, divided by the largest its step size can take. "
        "Below 1 a small disturbance dies out, above 1 it grows; 1 is the edge (dashed). Being at the edge is normal: "
        "most healthy runs climb to 1 and hover there. The shade around a line is ratio ± residual; an open diamond "
        "is an audit, found anew from a random start"
    ) + ("." if _is_crowded(runs) else ", and its bar spans lower to upper bound.")
    notes = (*_off_axis(runs, "ratio", reach), *_statuses(runs), *_thinned([run.measurements for run in runs]))
    return Panel("ratio", "The ratio: how far from the edge", caption, figure, notes)


def sharpness_panel(runs: Sequence[RunRecord]) -> Panel:
    """Preconditioned sharpness against its threshold, above raw sharpness."""
    felt, thresholds, raw = (
        [run.measurements[name] for run in runs] for name in ("preconditioned_sharpness", "threshold", "sharpness")
    )
    reach = sharpness_reach(felt, thresholds)
    upper = reach.axis("preconditioned") if reach else value_axis("preconditioned")
    data = [trace for pen, run in _pens(runs) for trace in traces.sharpness(pen, run, reach)]
    data.append(traces.shared_line("threshold", "dash"))
    figure = _measured_figure(runs, data, stacked(runs, upper, log_or_linear(raw, "raw"), 520))
    caption = (
        "Top: the sharpness the optimizer feels, the largest eigenvalue of the preconditioned Hessian, and the "
        "threshold its step size sets, dashed. A run at the edge flattens out on that line. Bottom: the sharpness of "
        "the loss itself, which under an adaptive optimizer often keeps rising meanwhile."
    )
    notes = _lacking_sharpness(runs)
    if reach:
        notes += _off_axis(runs, "preconditioned_sharpness", reach)
    return Panel("sharpness", "Sharpness: preconditioned and raw", caption, figure, notes)


def gradient_panel(runs: Sequence[RunRecord]) -> Panel:
    """The length of the gradient at every step."""
    caption = (
        "The length of the gradient at each step. Bounded wiggles are what a run at the edge looks like; steady "
        "growth, step after step, is what a loss of stability looks like."
    )
    figure = _step_figure(runs, "grad_norm", "gradient norm")
    return Panel("gradient", "Gradient norm", caption, figure, _thinned([run.steps for run in runs]))


def cost_panel(runs: Sequence[RunRecord]) -> Panel:
    """Products of each measurement, above the share of the run's time spent measuring so far."""
    upper = value_axis("products", rangemode="tozero")
    lower = value_axis("share of time", rangemode="tozero", tickformat=".0%")
    data = [trace for pen, run in _pens(runs) for trace in traces.cost(pen, run)]
    if any(audits(run).any() for run in runs):
        data.append(traces.shared_mark("audit", "diamond-open"))
    figure = _measured_figure(runs, data, stacked(runs, upper, lower, 440))
    caption = (
        "Top: how many Hessian-vector products each measurement took; it starts from the last one and needs few, an "
        "audit starts from nothing and needs more. Bottom: the share of the run's whole computing time that went "
        "into measuring, up to each step."
    )
    notes = tuple(
        f"{pen.label}: the run stored no end yet, so its share of time is not known."
        for pen, run in _pens(runs)
        if len(run.measurements["step"]) and share_of_time(run) is None
    )
    return Panel("cost", "What measuring cost", caption, figure, notes)


def _pens(runs: Sequence[RunRecord]) -> list[tuple[traces.Pen, RunRecord]]:
    named = zip(labels(runs), runs, strict=True)
    return [(traces.Pen(index, label, _is_crowded(runs)), run) for index, (label, run) in enumerate(named)]


def _is_crowded(runs: Sequence[RunRecord]) -> bool:
    """Too many runs in one picture to draw every mark of each."""
    return len(runs) > 4


def _step_figure(runs: Sequence[RunRecord], name: str, title: str) -> Figure:
    if not any(len(run.steps["step"]) for run in runs):
        return _empty("No step is stored.")
    axis = log_or_linear([run.steps[name] for run in runs], title)
    data = [traces.every_step(pen, run, name) for pen, run in _pens(runs)]
    return {"data": data, "layout": layout(340, yaxis=axis, xaxis=step_axis(runs))}


def _measured_figure(runs: Sequence[RunRecord], data: list[traces.Trace], arrangement: dict[str, Any]) -> Figure:
    is_measured = any(len(run.measurements["step"]) for run in runs)
    return {"data": data, "layout": arrangement} if is_measured else _empty("No measurement is stored.")


def _empty(words: str) -> Figure:
    """A figure that says why there is none."""
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    note = {"text": words, "font": {"size": 15, "color": FAINT}, **place}
    hidden = {"visible": False}
    return {"data": [], "layout": {**layout(130, xaxis=hidden, yaxis=hidden), "annotations": [note]}}


def _edge() -> dict[str, Any]:
    line = {"color": INK, "dash": "dash", "width": 1.5}
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": line,
        "name": "edge of stability", "showlegend": True,
    }  # fmt: skip


def _ratio_legend(runs: Sequence[RunRecord], reach: Reach) -> list[traces.Trace]:
    ratios = [run.measurements["ratio"] for run in runs]
    marks = (
        ("audit", "diamond-open", any(audits(run).any() for run in runs)),
        ("above the axis", "triangle-up", any(reach.is_above(values).any() for values in ratios)),
        ("no ratio", "line-ns", any(np.isnan(values).any() for values in ratios)),
    )
    return [traces.shared_mark(name, symbol) for name, symbol, is_drawn in marks if is_drawn]


def _thinned(columns: Sequence[dict[str, np.ndarray]]) -> tuple[str, ...]:
    if all(len(events["step"]) <= MAX_POINTS for events in columns):
        return ()
    stretches = MAX_POINTS // 2
    return (
        f"Lines of more than {MAX_POINTS:,} points are drawn through the lowest and the highest value of each of "
        f"{stretches:,} equal stretches, so that no spike is lost.",
    )


def _off_axis(runs: Sequence[RunRecord], name: str, reach: Reach) -> tuple[str, ...]:
    """Sentences that count the points above the axis (early ones usually) and those a logarithm cannot show."""
    return (*_above(runs, name, reach), *(_not_positive(runs, name) if reach.is_log else ()))


def _not_positive(runs: Sequence[RunRecord], name: str) -> tuple[str, ...]:
    amount = int(sum((run.measurements[name] <= 0).sum() for run in runs))
    return (
        (f"{plural(amount, 'measurement')} of 0 or less: the logarithmic axis has no place for it.",) if amount else ()
    )


def _above(runs: Sequence[RunRecord], name: str, reach: Reach) -> tuple[str, ...]:
    columns = [(run.measurements["step"], run.measurements[name]) for run in runs]
    above = [(steps[reach.is_above(values)], values[reach.is_above(values)]) for steps, values in columns]
    steps, values = (np.concatenate(parts) for parts in zip(*above, strict=True))
    if not len(values):
        return ()
    where = f"the last at step {number(steps.max())}" if len(values) > 1 else f"at step {number(steps.max())}"
    return (
        f"▲ marks {plural(len(values), 'measurement')} above the axis, up to {number(values.max())}, {where}. "
        "Point at one for its numbers.",
    )


def _statuses(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """What each run could not measure, and why."""
    return tuple(
        f"{pen.label}: {words}"
        for pen, run in _pens(runs)
        for words in (unfinished_business(run) if len(run.measurements["step"]) else ["no measurement is stored."])
    )


def _lacking_sharpness(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    lacks = {
        "threshold": "no single threshold is stored, as when parameter groups differ; its ratio says how far it is.",
        "sharpness": "raw sharpness was not measured.",
    }
    return tuple(
        f"{pen.label}: {words}"
        for pen, run in _pens(runs)
        for name, words in lacks.items()
        if len(run.measurements["step"]) and not np.isfinite(run.measurements[name]).any()
    )
