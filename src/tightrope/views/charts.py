"""Charts as plain values: lines, axes and what marks them, without a word about what draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .axes import Reach, ratio_reach, settled_reach, sharpness_reach, whole_reach
from .decimation import MAX_POINTS, extremes
from .facts import number, plural
from .palette import FAINT, look, shade

Dash = Literal["solid", "dash", "dot"]
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart.

    Attributes:
        x, y: (n,) each; the line breaks where a value is not finite.
        label: In the legend; "" for none.
        look: Index of its look among lines without an order.
        rank: Its place among lines that have one, 0 for the smallest to 1 for the largest; None for no order.
        dash: How it is stroked.
        has_marks: Whether each point is marked.
        band: (n,) low and high ends of an interval about it, drawn as a shade.
        level: What its values are held against, one number or (n,), drawn dashed in the line's own colour.
        is_missing: There is nothing to draw; its label stands grey in the legend.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    look: int = 0
    rank: float | None = None
    dash: Dash = "solid"
    has_marks: bool = False
    band: tuple[np.ndarray, np.ndarray] | None = None
    level: float | np.ndarray | None = None
    is_missing: bool = False

    @property
    def color(self) -> str:
        """Of the line, its band and its level."""
        if self.is_missing:
            return FAINT
        return look(self.look).color if self.rank is None else shade(self.rank)

    @property
    def levels(self) -> np.ndarray:
        """The level as an array, empty without one."""
        return np.zeros(0) if self.level is None else np.atleast_1d(np.asarray(self.level, dtype=float))


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines on one pair of axes.

    Attributes:
        lines: In the order of the legend.
        title: Above it.
        x_title, y_title: Of its axes.
        is_x_log, is_y_log: Whether an axis is logarithmic; it then leaves out what is 0 or less.
        levels: Heights of dashed lines that belong to no line, such as the edge at 1.
        level_name: What dashed lines are, for the legend.
        marks: Places of dotted vertical lines.
        mark_name: What they are, for the legend.
        x_range, y_range: The part of an axis that is shown; None for all. What lies above is marked at the top.
        notes: What is not drawn, or drawn otherwise; plain text.
    """

    lines: tuple[Line, ...]
    title: str = ""
    x_title: str = "step"
    y_title: str = ""
    is_x_log: bool = False
    is_y_log: bool = False
    levels: tuple[float, ...] = ()
    level_name: str = ""
    marks: tuple[float, ...] = ()
    mark_name: str = ""
    x_range: Range | None = None
    y_range: Range | None = None
    notes: tuple[str, ...] = ()

    def drawn(self, line: Line) -> Line:
        """A line as it is drawn: with gaps where the axes have no place, thinned to its extremes where it is long."""
        x, y = _placed(line.x, self.is_x_log), _placed(line.y, self.is_y_log)
        kept = extremes(y)
        band = line.band and (_placed(line.band[0], self.is_y_log)[kept], _placed(line.band[1], self.is_y_log)[kept])
        level = line.level[kept] if isinstance(line.level, np.ndarray) else line.level
        return replace(line, x=x[kept], y=y[kept], band=band, level=level)

    def above(self, line: Line) -> np.ndarray:
        """Where a line lies above the axis."""
        if self.y_range is None:
            return np.zeros(0)
        places = np.flatnonzero(line.y > self.y_range[1])
        found: np.ndarray = line.x[places[extremes(line.y[places])]]
        return found


EMPTY = (1.0, 10.0)
"""Range of an axis on which there is nothing."""

Block = tuple[tuple[Chart, ...], ...]
"""Rows of charts, one above the other; the charts of a column share their x axis."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure: blocks of charts under one title.

    Attributes:
        name: Of its files.
        heading: What it is, such as "Figure 2".
        title: What it shows, in a few words.
        caption: How to read it.
        blocks: From the top down.
    """

    name: str
    heading: str
    title: str
    caption: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> list[Chart]:
        """Every chart."""
        return [chart for block in self.blocks for row in block for chart in row]

    @property
    def has_one_legend(self) -> bool:
        """Whether one legend serves all columns: no column calls a line otherwise, or gives a name another look."""
        legends = [named_lines(column) for block in self.blocks for column in columns(block)]
        longest = max(legends, key=len, default={})
        return all(longest.get(label) == look for legend in legends for label, look in legend.items())

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all charts, each once."""
        notes = [note for chart in self.charts for note in chart.notes]
        lines = [line for chart in self.charts for line in chart.lines]
        if any(len(line.y) > MAX_POINTS for line in lines):
            notes.append(
                f"Lines of more than {MAX_POINTS:,} points are drawn through the lowest and the highest value of each "
                f"of {MAX_POINTS // 2:,} equal stretches, so that no spike is lost."
            )
        if any((line.y <= 0).any() for chart in self.charts if chart.is_y_log for line in chart.lines):
            notes.append("A logarithmic axis has no place for what is 0 or less: the line breaks there.")
        return tuple(dict.fromkeys(notes))


def columns(block: Block) -> list[list[Chart]]:
    """The charts of each column, from the top down."""
    return [[row[place] for row in block if place < len(row)] for place in range(max(map(len, block), default=0))]


def named_lines(charts: Sequence[Chart]) -> dict[str, tuple[str, Dash, bool, bool]]:
    """What a legend of the lines of some charts says, a label an entry: colour, dash, whether marked, and missing."""
    found: dict[str, tuple[str, Dash, bool, bool]] = {}
    for line in (line for chart in charts for line in chart.lines if line.label):
        found.setdefault(line.label, (line.color, line.dash, line.has_marks, line.is_missing))
    return found


def named_marks(charts: Sequence[Chart]) -> dict[str, Dash]:
    """What a legend says of dashed and dotted lines that mean the same in every run."""
    has_level = [c for c in charts if c.level_name and (c.levels or any(len(line.levels) for line in c.lines))]
    dashes: dict[str, Dash] = {chart.level_name: "dash" for chart in has_level}
    return dashes | {chart.mark_name: "dot" for chart in charts if chart.mark_name and chart.marks}


def block(rows: Sequence[Sequence[Chart]]) -> Block:
    """Rows of charts as one block: titles at the top only, and one range of x a column."""
    top = [[chart if not above else replace(chart, title="") for chart in row] for above, row in enumerate(rows)]
    made = tuple(tuple(row) for row in top)
    spans = [_x_span(column) for column in columns(made)]
    return tuple(tuple(replace(chart, x_range=spans[place]) for place, chart in enumerate(row)) for row in made)


def fit(charts: Sequence[Chart], *, is_shared: bool = False, cuts_spikes: bool = False) -> list[Chart]:
    """Charts with the part of their y axes to show.

    Args:
        charts: Of one quantity.
        is_shared: Whether all of them show the same part.
        cuts_spikes: Leave early values above all that follow, the first ones and the levels, off the axis, or, where
            there are levels, far above what is usual; a note counts them.
    """
    groups = [list(charts)] if is_shared else [[chart] for chart in charts]
    fitted = [_shown(chart, reach) for group in groups for reach in [_reach(group, cuts_spikes)] for chart in group]
    notes = _cut(fitted)
    return [replace(chart, notes=(*chart.notes, *notes)) for chart in fitted]


def _shown(chart: Chart, reach: Reach | None) -> Chart:
    return chart if reach is None else replace(chart, y_range=(reach.low, reach.high), is_y_log=reach.is_log)


def _cut(charts: Sequence[Chart]) -> tuple[str, ...]:
    """A sentence on what lies above the axes of all charts together."""
    tops = [(chart.y_range[1], line) for chart in charts if chart.y_range for line in chart.lines]
    x = np.concatenate([np.zeros(0), *(line.x[line.y > high] for high, line in tops)])
    y = np.concatenate([np.zeros(0), *(line.y[line.y > high] for high, line in tops)])
    if not len(y):
        return ()
    name, unit = charts[0].y_title or charts[0].title, charts[0].x_title
    last = f"at {unit} {number(x.max())}"
    where = (
        f"all {last}" if x.min() == x.max() else f"{(x == x.min()).sum()} at {unit} {number(x.min())}, the last {last}"
    )
    return (f"{name}: ▲ marks {plural(len(y), 'value')} above the axis, up to {y.max():.3g}, {where}.",)


def _reach(charts: Sequence[Chart], cuts_spikes: bool) -> Reach | None:
    values = [line.y for chart in charts for line in chart.lines if len(line.y)]
    levels = [line.levels for chart in charts for line in chart.lines]
    levels += [np.array(chart.levels) for chart in charts if chart.levels]
    if not any(np.isfinite(column).any() for column in values):
        return None
    levels_known = any(len(column) for column in levels)
    if not cuts_spikes:
        bands = [end for chart in charts for line in chart.lines if line.band for end in line.band]
        return whole_reach([*values, *levels, *bands], is_log=charts[0].is_y_log)
    if not charts[0].is_y_log:
        return ratio_reach(values)
    return sharpness_reach(values, levels) if levels_known else settled_reach(values)


def _placed(values: np.ndarray, is_log: bool) -> np.ndarray:
    """The values that an axis has a place for; NaN for the others."""
    with np.errstate(invalid="ignore"):
        is_there = np.isfinite(values) & ((values > 0) | (not is_log))
    return np.where(is_there, values, np.nan)


def _x_span(charts: Sequence[Chart]) -> Range | None:
    """The range of all x of a column, a little wider; None where its charts differ in what x is."""
    kinds = {(chart.x_title, chart.is_x_log) for chart in charts}
    x = np.concatenate([np.zeros(0), *(_placed(line.x, chart.is_x_log) for chart in charts for line in chart.lines)])
    x = x[np.isfinite(x)]
    if len(kinds) > 1:
        return None
    if not len(x):
        return EMPTY
    low, high = float(x.min()), float(x.max())
    if charts[0].is_x_log:
        room = (high / low) ** 0.04 if high > low else 1.5
        return low / room, high * room
    room = 0.015 * (high - low) or 1.0
    return low - room, high + room
