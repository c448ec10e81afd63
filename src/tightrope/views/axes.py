"""Axes and layouts of the panels, and how far up an axis reaches when a few points lie far above the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrope.store import RunRecord

from .palette import FAINT, GRID, INK, PAPER

Axis = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
NEAR_EDGE = 2.0
"""Ratios up to here are always drawn on the axis."""
FAR_ABOVE = 10.0
"""Early losses are cut off only where they would take another decade of the axis."""
FAR_FROM_EDGE = 4.0
"""Runs that live above this are drawn on a logarithmic axis, whole."""


@dataclass(frozen=True)
class Reach:
    """The part of an axis shown at first.

    Attributes:
        low, high: Its ends.
        is_log: Logarithmic.
    """

    low: float
    high: float
    is_log: bool = False

    def is_above(self, values: np.ndarray) -> np.ndarray:
        """True for the values beyond the upper end, infinity among them."""
        is_above: np.ndarray = values > self.high
        return is_above

    def at(self, part: float) -> float:
        """The value at this part, 0 to 1, of the way up."""
        if self.is_log:
            return float(self.low ** (1 - part) * self.high**part)
        return self.low + part * (self.high - self.low)

    def axis(self, title: str) -> Axis:
        """The axis that shows this part."""
        if self.is_log:
            ends = [float(np.log10(end)) for end in (self.low, self.high)]
            return value_axis(title, type="log", range=ends, nticks=_num_ticks(ends[1] - ends[0]))
        return value_axis(title, range=[self.low, self.high])


def ratio_reach(columns: Sequence[np.ndarray]) -> Reach:
    """Zero to a bit above the edge; logarithmic and whole where most runs live far above it."""
    known = _finite(columns)
    usual = _usual_high(columns)
    if usual > FAR_FROM_EDGE:
        return _whole_log(np.append(known, 1.0))
    shown = known[known <= max(NEAR_EDGE, usual)]
    return Reach(min(0.0, 1.1 * float(shown.min(initial=0.0))), 1.1 * max(1.25, float(shown.max(initial=0.0))))


def sharpness_reach(columns: Sequence[np.ndarray], thresholds: Sequence[np.ndarray]) -> Reach | None:
    """Logarithmic: all but early values far above the rest and above the thresholds; None without a value."""
    known = _finite([*columns, *thresholds])
    known = known[known > 0]
    if not len(known):
        return None
    limits = _finite(thresholds)
    usual = max((float(np.quantile(_late(values), 0.95)) for values in columns if len(_late(values))), default=0.0)
    high = NEAR_EDGE * max(usual, float(limits.max(initial=0.0)))
    return _whole_log(known[known <= high] if (known <= high).any() else known)


def settled_reach(columns: Sequence[np.ndarray]) -> Reach | None:
    """Logarithmic: all but early values far above every first one and above all that follow; None without a value."""
    known = _finite(columns)
    known = known[known > 0]
    if not len(known):
        return None
    first = [_finite([values])[0] for values in columns if np.isfinite(values).any()]
    high = max(*first, *(float(_late(values).max(initial=0.0)) for values in columns), float(known.min()))
    return _whole_log(known[known <= (high if known.max() > FAR_ABOVE * high else np.inf)])


CLOSE = 4.0
"""Largest over smallest, below which a logarithmic axis has no two ticks worth having."""


def whole_reach(columns: Sequence[np.ndarray], *, is_log: bool) -> Reach | None:
    """Every finite value, every positive one on a logarithmic axis; None without a value.

    Values that are all positive and close to each other get a linear axis, whose ticks tell them apart.
    """
    known = _finite(columns)
    is_close = len(known) > 0 and known.min() > 0 and known.max() < CLOSE * known.min()
    known = known[known > 0] if is_log else known
    if not len(known):
        return None
    if is_log and not is_close:
        return _whole_log(known)
    low, high = float(known.min()), float(known.max())
    room = 0.06 * (high - low) or max(0.1 * abs(high), sys.float_info.min)
    return Reach(low - room, high + room)


def _whole_log(values: np.ndarray) -> Reach:
    positive = values[values > 0]
    low, high = float(positive.min()), float(positive.max())
    return Reach(max(low / 1.3, sys.float_info.min), min(high * 1.3, sys.float_info.max), is_log=True)


def _finite(columns: Iterable[np.ndarray]) -> np.ndarray:
    every = np.concatenate([np.zeros(0), *columns])
    known: np.ndarray = every[np.isfinite(every)]
    return known


def _late(values: np.ndarray) -> np.ndarray:
    """The finite values past the first tenth, while an adaptive preconditioner fills up."""
    late = _finite([values[len(values) // 10 + 1 :]])
    return late if len(late) else _finite([values])


def _usual_high(columns: Sequence[np.ndarray]) -> float:
    """High end of the usual values of the middle run: one run far off must not flatten the others."""
    highs = [float(np.quantile(_late(values), 0.95)) for values in columns if len(_late(values))]
    return float(np.quantile(highs, 0.5, method="lower")) if highs else 0.0


def value_axis(title: str, **more: Any) -> Axis:
    """A y axis."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "power",
        **more,
    }


def log_or_linear(columns: Sequence[np.ndarray], title: str) -> Axis:
    """Logarithmic where every value is positive."""
    known = _finite(columns)
    if not len(known) or known.min() <= 0:
        return value_axis(title)
    return value_axis(title, type="log", nticks=_num_ticks(float(np.log10(known.max()) - np.log10(known.min()))))


def _num_ticks(decades: float) -> int:
    """As many as make plotly label powers of ten, and 2 and 5 between them only where there are few."""
    return min(max(int(np.ceil(1.15 * decades)), 3), 7)


def step_axis(runs: Sequence[RunRecord], **more: Any) -> Axis:
    """The x axis; every panel shows the same steps."""
    last = max((float(steps.max()) for run in runs for steps in _steps(run)), default=1.0)
    return {
        "title": {"text": "step", "standoff": 6},
        "range": [-0.015 * last, 1.015 * last],
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "separatethousands": True,
        "tickangle": 0,
        **more,
    }


def _steps(run: RunRecord) -> list[np.ndarray]:
    columns = (run.steps["step"], run.measurements["step"])
    return [steps[np.isfinite(steps)] for steps in columns if np.isfinite(steps).any()]


def layout(height: int, **axes: Any) -> dict[str, Any]:
    """A layout in the light look; the legend stands below, where it covers nothing."""
    return {
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "margin": {"l": 72, "r": 14, "t": 32, "b": 50},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": PAPER, "bordercolor": FAINT, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"},
        **axes,
    }


def stacked(runs: Sequence[RunRecord], upper: Axis, lower: Axis, height: int) -> dict[str, Any]:
    """Layout of two plots, one above the other, that share their steps."""
    return layout(
        height,
        yaxis={**upper, "domain": [0.54, 1.0]},
        yaxis2={**lower, "domain": [0.0, 0.46], "anchor": "x"},
        xaxis=step_axis(runs, anchor="y2"),
    )
