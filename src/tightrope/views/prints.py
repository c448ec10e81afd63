"""A picture on paper: PDF and PNG, drawn with matplotlib; the same picture gives the same bytes."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tightrope.errors import ConfigError, StoreError
from tightrope.store import replace_file

from .arrangement import LETTER, Place, Sizes, below, places, title_size
from .charts import Chart, Line, Picture, columns, named_lines, named_marks
from .palette import FAINT, GRID, INK, RED
from .ticks import in_digits, in_powers, is_plain, spans_few_decades

WIDTHS, LEAST_WIDTH = {1: 6.2, 2: 4.2, 3: 3.4, 4: 2.8}, 2.5
"""Inches of a column, by the number of columns."""
SIZES = Sizes(
    width=0.0, height=1.7, lone_height=2.5, title=0.3, gap=0.16, x_axis=0.5, y_axis=0.7, no_axis=0.16, entry=0.155
)
HEADING, LINE, MARGIN, ENTRY = 0.32, 0.15, 0.12, 0.19
"""Inches of the headline, of a line of the caption, at the right and left, and of a row of the last legend."""
HEADLINE: dict[str, Any] = {"fontsize": 11, "fontweight": "bold"}
CAPTION: dict[str, Any] = {"fontsize": 8.0, "linespacing": 1.25}
POINT = 1 / 72
"""An inch is 72."""
DOTS_PER_INCH = 200
STYLES: dict[str, Any] = {"solid": "-", "dash": (0, (4, 2.5)), "dot": (0, (1, 2))}
KINDS = {"pdf": b"%PDF", "png": b"\x89PNG"}
"""Kinds of files, with what each begins with."""
MISSING_LETTER = r"Glyph \d+ .* missing from font"
"""How matplotlib begins to say that it draws a box instead of a letter."""
SETTINGS: Any = {
    "pdf.fonttype": 42,  # whole outlines that journals accept and editors can edit
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 10.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.formatter.limits": (-2, 5),  # beyond, a power of ten above the axis keeps labels short
    "axes.formatter.use_mathtext": True,
    "legend.fontsize": 8.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "path.simplify": False,  # lines are thinned to their extremes already
}


def write_prints(picture: Picture, folder: Path) -> list[Path]:
    """Paths of NAME.pdf and NAME.png in a folder, which is made; earlier ones are replaced.

    Raises:
        ConfigError: matplotlib is not installed.
        StoreError: one cannot be written, or another kind of file has its name.
    """
    made = [(Path(folder) / f"{picture.name}.{kind}", content) for kind, content in prints(picture).items()]
    for path, content in made:
        _write(path, content)
    return [path for path, _ in made]


def prints(picture: Picture) -> dict[str, bytes]:
    """A picture as files: their content by kind, pdf and png.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    title = f"{picture.heading}: {picture.title}"
    words = " ".join([picture.caption, *picture.notes])
    metadata = {
        "pdf": {"Title": title, "Subject": words, "Creator": "tightrope", "CreationDate": None},
        "png": {"Title": title, "Description": words},
    }
    made = {}
    with drawing(picture) as figure:
        for kind, about in metadata.items():
            file = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", MISSING_LETTER)  # the page has the name whole
                figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, metadata=about)
            made[kind] = file.getvalue()
    return made


@contextmanager
def drawing(picture: Picture) -> Iterator[Any]:
    """The picture as matplotlib's `Figure`, under our settings in the block; a user's own are there again afterwards.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # here, so that importing tightrope does not load it
    except ImportError as error:
        raise ConfigError(
            "figure: matplotlib must be installed for PDF and PNG; it is not. Try `pip install tightrope[print]`."
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield _figure(picture)


def _figure(picture: Picture) -> Any:
    from matplotlib.figure import Figure

    num_columns = max(len(columns(block)) for block in picture.blocks)
    sizes = replace(SIZES, width=num_columns * WIDTHS.get(num_columns, LEAST_WIDTH) + MARGIN)
    stand = places(picture, sizes)
    entries = _entries(picture)
    rows = _rows(entries, sizes.width)
    caption = textwrap.wrap(picture.caption, int(sizes.width / (LETTER * CAPTION["fontsize"] * POINT)))
    top, legend = HEADING + LINE * len(caption), ENTRY * len(rows) + 0.1
    height = top + max(p.bottom for p in stand) + below(picture, picture.blocks[-1], sizes) + legend
    width = sizes.width + 2 * MARGIN
    figure = Figure(figsize=(width, height))
    figure.text(MARGIN / width, 1 - 0.1 / height, _plain(f"{picture.heading}: {picture.title}"), va="top", **HEADLINE)
    figure.text(MARGIN / width, 1 - HEADING / height, _plain("\n".join(caption)), va="top", **CAPTION)
    titles = title_size(stand, sizes.width, SETTINGS["axes.titlesize"] * POINT) / POINT
    for place in stand:
        axes = _add_place(figure, place, sizes, top)
        axes.title.set_size(titles)
        if place.has_x and not picture.has_one_legend:
            column = [each.chart for each in stand if each.column == place.column]
            under = 1 - (top + place.bottom + sizes.x_axis) / height
            _legend(figure, _handles(column), place.left / width, under)
    for row, (start, stop) in enumerate(rows):
        at = (legend - ENTRY * row) / height
        _legend(figure, entries[start:stop], 0.5, at, loc="upper center", ncols=stop - start, columnspacing=1.6)
    return figure


def _add_place(figure: Any, place: Place, sizes: Sizes, top: float) -> Any:
    """The axes of a chart where it stands, so far below the upper end."""
    width, height = figure.get_size_inches()
    corner = (place.left / width, 1 - (top + place.bottom) / height)
    axes = figure.add_axes((*corner, (place.right - place.left) / width, (place.bottom - place.top) / height))
    _draw_chart(axes, place.chart)
    axes.set(xlabel=place.chart.x_title if place.has_x else "")
    axes.set(ylabel=place.chart.y_title if place.has_y_name else "")
    axes.yaxis.set_label_coords((0.22 - sizes.y_axis) / (place.right - place.left), 0.5)
    axes.tick_params(labelbottom=place.has_x, labelleft=place.has_y)
    return axes


def _entries(picture: Picture) -> list[Any]:
    """Of the legend under everything: the lines where all columns share it, and what dashed and dotted lines are."""
    handles = _handles(picture.charts) if picture.has_one_legend else []
    marks = named_marks(picture.charts).items()
    return handles + [_handle(name, RED if dash == "dot" else INK, dash) for name, dash in marks]


def _rows(entries: Sequence[Any], width: float) -> list[tuple[int, int]]:
    """First and last entry of each row of a legend, as many as its width holds."""
    widths = [0.62 + 0.068 * len(entry.get_label()) for entry in entries]
    rows, start = [], 0
    while start < len(entries):
        stop = start + 1
        while stop < len(entries) and sum(widths[start : stop + 1]) <= width:
            stop += 1
        rows.append((start, stop))
        start = stop
    return rows


def _legend(figure: Any, handles: Sequence[Any], x: float, y: float, loc: str = "upper left", **more: Any) -> None:
    if handles:
        where = {"loc": loc, "bbox_to_anchor": (x, y), "borderaxespad": 0, "borderpad": 0}
        figure.add_artist(_legend_of(figure, handles, **where, **more))


def _legend_of(figure: Any, handles: Sequence[Any], **where: Any) -> Any:
    from matplotlib.legend import Legend

    labels = [handle.get_label() for handle in handles]
    return Legend(figure, handles, labels, bbox_transform=figure.transFigure, labelspacing=0.25, **where)


def _draw_chart(axes: Any, chart: Chart) -> None:
    axes.set_title(_plain(chart.title))
    if chart.is_x_log:
        axes.set_xscale("log")
    if chart.is_y_log:
        axes.set_yscale("log")
    for height in chart.levels:
        axes.axhline(height, color=INK, linewidth=1.0, linestyle=STYLES["dash"], zorder=3)
    for place in chart.marks:
        axes.axvline(place, color=RED, linewidth=0.9, linestyle=STYLES["dot"])
    for line in chart.lines:
        if not line.is_missing:
            _draw_line(axes, chart, line)
    axes.set(xlim=chart.x_range, ylim=chart.y_range)
    axes.grid(visible=False, which="minor")
    for axis, ends, is_log in (
        (axes.xaxis, chart.x_range, chart.is_x_log),
        (axes.yaxis, chart.y_range, chart.is_y_log),
    ):
        if is_log and ends is not None and spans_few_decades(*ends):
            _number(axis, is_plain(*ends))
    if not chart.is_x_log:
        axes.locator_params(axis="x", nbins=5)


def _number(axis: Any, is_in_digits: bool) -> None:
    """Number a logarithmic axis of few decades, all its numbers in one way."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    write = in_digits if is_in_digits else _in_powers
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Any, chart: Chart, line: Line) -> None:
    drawn = chart.drawn(line)
    if drawn.band is not None:
        axes.fill_between(drawn.x, *drawn.band, color=line.color, alpha=0.25, linewidth=0)
    marker = "o" if line.has_marks else None
    style = {"color": line.color, "linestyle": STYLES[line.dash], "marker": marker, "markersize": 4}
    axes.plot(drawn.x, drawn.y, linewidth=1.1, **style)
    if isinstance(drawn.level, np.ndarray):
        axes.plot(drawn.x, drawn.level, color=line.color, linewidth=0.9, linestyle=STYLES["dash"])
    elif drawn.level is not None:
        axes.axhline(drawn.level, color=line.color, linewidth=0.9, linestyle=STYLES["dash"])
    above = chart.above(line)
    pin = {"linestyle": "", "marker": "^", "markersize": 4, "color": line.color, "clip_on": False}
    axes.plot(above, np.full(len(above), 0.985), transform=axes.get_xaxis_transform(), **pin)


def _handles(charts: Sequence[Chart]) -> list[Any]:
    """Of the lines of some charts."""
    return [
        _handle(label, color, dash, "o" if has_marks else None, 0.5 if is_missing else 1.0)
        for label, (color, dash, has_marks, is_missing) in named_lines(charts).items()
    ]


def _handle(label: str, color: str, dash: str, marker: str | None = None, alpha: float = 1.0) -> Any:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"linestyle": STYLES[dash], "marker": marker, "markersize": 4, "alpha": alpha}
    # What begins with an underscore matplotlib leaves out of a legend.
    return Line2D([], [], color=color, label=_plain(label).lstrip("_"), **style)


def _in_powers(value: float) -> str:
    digits, power = in_powers(value)
    return rf"${digits}{{\times}}10^{{{power}}}$"


def _plain(text: str) -> str:
    """Text that is no formula to matplotlib."""
    return text.replace("$", r"\$")


def _write(path: Path, content: bytes) -> None:
    begins = KINDS[path.suffix[1:]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_bytes().startswith(begins):
            raise StoreError(f"figure: {path} must be new, or an earlier figure; it is another file. Choose another.")
        replace_file(path, content)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"figure: {path} must be writable; {error.strerror or error}. Choose another --into."
        ) from error
