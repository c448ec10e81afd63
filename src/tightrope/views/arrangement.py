"""Where the charts of a picture stand: columns side by side, blocks and their legends below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .charts import Block, Chart, Picture, columns, named_lines


@dataclass(frozen=True)
class Sizes:
    """Lengths in one unit, pixels or inches.

    Attributes:
        width: Of all columns together.
        height, lone_height: Of a plot, and of one in a picture of one row.
        title: Above a block whose charts have titles.
        gap: Between the rows of a block, and above one without titles.
        x_axis: Below a block, for the numbers and the name of its x axes.
        y_axis, no_axis: On the left of a plot, with and without the numbers of its y axis.
        entry: Of a legend, one below the other under a block.
    """

    width: float
    height: float
    lone_height: float
    title: float
    gap: float
    x_axis: float
    y_axis: float
    no_axis: float
    entry: float


@dataclass(frozen=True)
class Place:
    """One chart and where it stands.

    Attributes:
        chart: It.
        left, right, top, bottom: In the unit of the sizes, from the upper left corner.
        column: Its number among the columns of all blocks.
        has_x: Whether its x axis is named and numbered; else the chart below says what x is.
        has_y_name, has_y: Whether its y axis is named, and numbered; else the chart on the left says what y is.
    """

    chart: Chart
    left: float
    right: float
    top: float
    bottom: float
    column: int
    has_x: bool
    has_y_name: bool
    has_y: bool


def places(picture: Picture, sizes: Sizes) -> list[Place]:
    """The charts of a picture from the top down, and from left to right."""
    num_columns = max(len(columns(block)) for block in picture.blocks)
    slot = sizes.width / num_columns
    found, top, first = [], 0.0, 0
    for block in picture.blocks:
        is_narrow = [all(_goes_on(row, column) for row in block) for column in range(len(columns(block)))]
        top += sizes.title if any(chart.title for chart in block[0]) else sizes.gap
        for row, charts in enumerate(block):
            bottom = top + _height(picture, sizes)
            for column, chart in enumerate(charts):
                left = column * slot + (sizes.no_axis if is_narrow[column] else sizes.y_axis)
                has_x = not _is_continued(block, row, column)
                has_name = column == 0 or charts[column - 1].y_title != chart.y_title
                here = (left, (column + 1) * slot, top, bottom, first + column)
                found.append(Place(chart, *here, has_x, has_name, not is_narrow[column]))
            top = bottom + sizes.gap
        top += below(picture, block, sizes) - sizes.gap
        first += len(columns(block))
    return found


def below(picture: Picture, block: Block, sizes: Sizes) -> float:
    """What stands under a block: numbers and names of its x axes, and legends of its columns."""
    entries = 0 if picture.has_one_legend else max(len(named_lines(column)) for column in columns(block))
    return sizes.x_axis + sizes.entry * entries


LETTER = 0.53
"""Width of an average letter, in its size."""
GAP = 2
"""Letters between titles side by side."""


def title_size(stand: Sequence[Place], width: float, usual: float) -> float:
    """Size at which titles meet neither each other nor the ends of the width, at most the usual one.

    All titles of a picture have it: the same words in different sizes would seem to differ in weight.
    """
    titled = [(place.left + place.right, place.top, len(place.chart.title)) for place in stand if place.chart.title]
    rooms = [usual]
    rooms += [min(twice, 2 * width - twice) / (LETTER * letters) for twice, _, letters in titled]
    for (left, top, first), (right, other_top, second) in pairwise(titled):
        rooms += [(right - left) / (LETTER * (first + second + GAP))] if top == other_top else []
    return min(rooms)


def _height(picture: Picture, sizes: Sizes) -> float:
    is_lone = len(picture.blocks) == 1 and len(picture.blocks[0]) == 1
    return sizes.lone_height if is_lone else sizes.height


def _goes_on(row: tuple[Chart, ...], column: int) -> bool:
    """Whether a chart shares its y axis with the one on its left, which says what it is."""
    if column == 0 or column >= len(row):
        return column > 0
    left, chart = row[column - 1], row[column]
    is_alike = (left.y_title, left.is_y_log) == (chart.y_title, chart.is_y_log)
    return is_alike and chart.y_range is not None and left.y_range == chart.y_range


def _is_continued(block: Block, row: int, column: int) -> bool:
    """Whether the chart below shows the same x axis, and says what it is."""
    if row + 1 >= len(block) or column >= len(block[row + 1]):
        return False
    above, under = block[row][column], block[row + 1][column]
    return above.x_title == under.x_title and above.x_range == under.x_range is not None
