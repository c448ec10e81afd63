"""The whole spectrum of an operator: how many eigenvalues lie where, on an axis with both signs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .axes import layout, value_axis
from .facts import number
from .figures import Panel
from .page import document
from .palette import GRID, INK, look
from .report import write_page
from .traces import as_json

LOWEST_COUNT = 0.1
"""Counts below a tenth of an eigenvalue are the skirts of the window."""
DECADE = float(np.log(10))


def spectrum_panel(
    eigenvalue: np.ndarray,
    count: np.ndarray,
    error: np.ndarray,
    *,
    zero: float,
    at_zero: tuple[float, float],
    size: int,
    edge: float | None = None,
    extremes: tuple[float, float],
    title: str = "eigenvalue of the Hessian",
) -> Panel:
    """The spectrum as one curve with its band of standard errors.

    Args:
        eigenvalue: (n,) ascending.
        count: (n,) how many eigenvalues lie about each, in a window in which one alone has the height 1.
        error: (n,) standard error of the count; NaN for none.
        zero: Where the axis turns from linear to logarithmic; within it eigenvalues count as zero.
        at_zero: How many do, with the standard error of that.
        size: How many eigenvalues there are.
        edge: A threshold to mark; None for none.
        extremes: The smallest and the largest that were found.
        title: Of the axis of eigenvalues.
    """
    place = np.arcsinh(eigenvalue / zero)
    is_shown = count >= LOWEST_COUNT
    known, color = np.nan_to_num(error), look(0).color
    high = np.maximum(count + known, LOWEST_COUNT)
    low = np.maximum(count - known, LOWEST_COUNT)
    shown = np.where(is_shown, count, np.nan)
    hover = [
        f"{number(x)}: {number(y)} ± {number(e)} eigenvalues" for x, y, e in zip(eigenvalue, count, error, strict=True)
    ]
    data = [
        _band(place, low, high, color),
        {
            "type": "scatter", "x": as_json(place), "y": as_json(shown), "mode": "lines", "name": "eigenvalues",
            "line": {"color": color, "width": 2, "simplify": False}, "text": hover,
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]  # fmt: skip
    top = 2.5 * float(max(high.max(), 1.0))
    ends = (float(place[is_shown].min()), float(place[is_shown].max())) if is_shown.any() else (-1.0, 1.0)
    if edge is not None:
        ends = min(ends[0], np.arcsinh(edge / zero)), max(ends[1], np.arcsinh(edge / zero))
    margin = 0.04 * (ends[1] - ends[0])
    values, texts = _ticks(zero, ends)
    figure = {
        "data": data,
        "layout": layout(
            440,
            yaxis=_count_axis(top),
            xaxis={
                "title": {"text": title, "standoff": 6},
                "range": [ends[0] - margin, ends[1] + margin],
                "tickvals": values, "ticktext": texts, "tickangle": 0,
                "gridcolor": GRID, "linecolor": GRID, "zeroline": False,
            },
            shapes=[_zone(zero), *([] if edge is None else [_edge(np.arcsinh(edge / zero))])],
        ),
    }  # fmt: skip
    return Panel("spectrum", "The whole spectrum", _caption(edge), figure, _notes(zero, at_zero, size, extremes))


def write_spectrum(panel: Panel, out: Path, *, title: str, facts: Sequence[str] = ()) -> Path:
    """The path of one self-contained HTML file with a spectrum.

    Args:
        panel: As `spectrum_panel` makes it.
        out: File to write; an earlier page of that name is replaced.
        title: Of the page.
        facts: Sentences above the picture.
    Raises:
        StoreError: `out` is a directory or another file, or it cannot be written.
    """
    from plotly.offline import get_plotlyjs  # here, so that importing tightrope does not load plotly

    above = [f'<p class="guide">{html.escape(fact)}</p>' for fact in facts]
    return write_page(Path(out), document(title, above, [panel], (), get_plotlyjs()))


def _count_axis(top: float) -> dict[str, Any]:
    ends = [float(np.log10(end)) for end in (LOWEST_COUNT, top)]
    return value_axis("how many lie about it", type="log", dtick=1, range=ends)


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> dict[str, Any]:
    return {
        "type": "scatter", "x": as_json(np.concatenate([x, x[::-1]])), "y": as_json(np.concatenate([high, low[::-1]])),
        "mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": color + "44", "hoverinfo": "skip",
        "name": "± standard error",
    }  # fmt: skip


def _zone(zero: float) -> dict[str, Any]:
    """The strip in which eigenvalues count as zero."""
    ends = float(np.arcsinh(1.0))
    return {
        "type": "rect", "yref": "paper", "x0": -ends, "x1": ends, "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": GRID + "99", "line": {"width": 0, "color": GRID}, "name": f"within ±{number(zero)} of zero",
        "showlegend": True,
    }  # fmt: skip


def _edge(place: float) -> dict[str, Any]:
    line = {"color": INK, "dash": "dash", "width": 1.5}
    return {
        "type": "line", "yref": "paper", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": line,
        "name": "edge of stability", "showlegend": True,
    }  # fmt: skip


def _ticks(zero: float, ends: tuple[float, float]) -> tuple[list[float], list[str]]:
    """Zero and the powers of ten on either side that lie well apart from it; every second or third of many."""
    first = int(np.ceil(np.log10(zero) + 0.3))
    last = int(np.floor(np.log10(zero * np.sinh(max(abs(ends[0]), abs(ends[1]), 1.0)))))
    powers = range(last, first - 1, -max(1, (last - first + 1) // 4))
    ticks = {0.0: "0"}
    for power in powers:
        for sign, minus in ((1.0, ""), (-1.0, "\u2212")):
            place = float(np.arcsinh(sign * 10.0**power / zero))
            if ends[0] <= place <= ends[1]:
                ticks[place] = f"{minus}{10.0**power:g}" if -3 <= power <= 3 else f"{minus}10<sup>{power}</sup>"
    places = sorted(ticks)
    return places, [ticks[place] for place in places]


def _caption(edge: float | None) -> str:
    words = (
        "Every eigenvalue of the operator, estimated from random directions: the height says how many lie about a "
        "value, and one that stands alone has the height 1. The axis is logarithmic to both sides and linear within "
        "the strip about zero; what lies left of zero is negative curvature. The shade is ± one standard error over "
        "the directions."
    )
    return words if edge is None else words + f" The dashed line at {edge:g} is the edge of stability."


def _notes(zero: float, at_zero: tuple[float, float], size: int, extremes: tuple[float, float]) -> tuple[str, ...]:
    num, error = at_zero
    spread = f" ± {number(error)}" if np.isfinite(error) else ""
    return (
        f"Within ±{number(zero)} of zero: about {num:,.0f}{spread} of {size:,} eigenvalues.",
        f"Smallest found: {number(extremes[0])}; largest: {number(extremes[1])}.",
        "A lone eigenvalue is counted with an error as large as itself: where it stands is sure, its height is not.",
    )
