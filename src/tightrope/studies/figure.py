"""A study's figure: the rows its panels give, arranged in blocks that fit a page."""

from __future__ import annotations

from collections.abc import Sequence

from tightrope.errors import ConfigError
from tightrope.views import Block, Chart, Picture, block

from .check import Outcome
from .panels import EDGE, OverSteps
from .study import Study

MOST_COLUMNS = 5
"""A block of more would not be readable."""


def picture(study: Study, outcomes: Sequence[Outcome]) -> Picture:
    """What a study shows of its runs, those that are not there named as missing.

    Raises:
        ConfigError: it has no panels.
    """
    if not study.panels:
        raise ConfigError(f"study: {study.name} must have panels to be drawn; it has none.")
    rows = [panel.charts(outcomes) for panel in study.panels]
    charts = [chart for row in rows for chart in row]
    over_steps = [row for panel, row in zip(study.panels, rows, strict=True) if isinstance(panel, OverSteps)]
    are_ordered = any(line.rank is not None for row in over_steps for chart in row for line in chart.lines)
    return Picture(
        study.name, study.figure, study.title, _caption(study, charts, outcomes, are_ordered=are_ordered), _blocks(rows)
    )


def _blocks(rows: Sequence[Sequence[Chart]]) -> tuple[Block, ...]:
    """Charts of one series side by side; of several a column each, in blocks of equally many."""
    if all(len(row) == 1 for row in rows):
        return tuple(block([part]) for part in _parts([chart for row in rows for chart in row]))
    if len({len(row) for row in rows}) == 1:
        parts = [_parts(row) for row in rows]
        return tuple(block([part[place] for part in parts]) for place in range(len(parts[0])))
    return tuple(block([part]) for row in rows for part in _parts(row))


def _parts(row: Sequence[Chart]) -> list[Sequence[Chart]]:
    """A row in as few parts as fit, of equally many charts but for the last."""
    num_parts = -(-len(row) // MOST_COLUMNS)
    size = -(-len(row) // num_parts)
    return [row[start : start + size] for start in range(0, len(row), size)]


def _caption(study: Study, charts: Sequence[Chart], outcomes: Sequence[Outcome], *, are_ordered: bool) -> str:
    """The study's own words, then what its charts do not say by themselves."""
    missing = sum(outcome.record is None for outcome in outcomes)
    words = {
        study.caption: True,
        "A dashed line is a run's stability threshold, in its colour.": any(
            len(line.levels) for chart in charts for line in chart.lines if chart.level_name == EDGE
        ),
        "The edge is a ratio of 1, dashed.": any(chart.levels for chart in charts if chart.level_name == EDGE),
        "Colours go from the smallest setting, dark blue, to the largest, amber.": are_ordered,
        "A shade reaches from the lowest to the highest seed.": any(
            line.band is not None for chart in charts for line in chart.lines
        ),
        "▲ marks what lies above an axis.": any(len(chart.above(line)) for chart in charts for line in chart.lines),
        f"{missing} of {len(outcomes)} runs are not there; their names are grey.": missing > 0,
    }
    return " ".join(sentence for sentence, is_needed in words.items() if sentence and is_needed)
