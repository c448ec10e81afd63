"""How each run looks in every panel: a colour with a twin for dark pages, a dash and a symbol."""

from __future__ import annotations

from dataclasses import dataclass

INK = "#24292f"
FAINT = "#6a737d"
GRID = "#e3e6ea"
PAPER = "#ffffff"

DARK = {
    INK: "#e4e7eb",
    FAINT: "#a3abb5",
    GRID: "#31363e",
    PAPER: "#15181d",
    "#0072b2": "#4a9fe8",
    "#d55e00": "#f2873b",
    "#00835f": "#2fc79c",
    "#b8569b": "#e68fca",
    "#6b4200": "#f2e338",
    "#3c216d": "#7f5be6",
    "#4a96de": "#bfe3ff",
    "#86888c": "#9aa0a8",
    "#c4281c": "#ff8f7a",
    "#041981": "#486fcc",
    "#3b1e8e": "#7b70d5",
    "#61228f": "#a572d4",
    "#842584": "#cb76ca",
    "#a22b72": "#eb7db7",
    "#bb3659": "#ff8ea2",
    "#cc4837": "#ffa99a",
    "#d16401": "#ffc19d",
    "#c88302": "#ffd6a5",
}
"""Twin, for dark pages, of every colour a figure uses; a page swaps them, a figure alone is light."""

COLORS = tuple(DARK)[4:12]
RED = tuple(DARK)[12]
"""Of the marks for moments, which belong to no run."""
RAMP = tuple(DARK)[13:]
"""Dark blue to amber, for what has an order: from the smallest to the largest."""
SYMBOLS = ("circle", "square", "cross", "x", "pentagon", "star", "hexagon", "bowtie")


@dataclass(frozen=True)
class Look:
    """What tells one run from another, by more than its colour."""

    color: str
    dash: str
    symbol: str


def look(index: int) -> Look:
    """Look of the run of this index; the colours return, on dotted lines, from the ninth run on.

    Example:
        >>> look(0).color == look(8).color, look(8).dash
        (True, 'dot')
    """
    cycle, place = divmod(index, len(COLORS))
    return Look(COLORS[place], ("solid", "dot")[cycle % 2], SYMBOLS[(place + cycle) % len(SYMBOLS)])


def shade(rank: float) -> str:
    """Colour of what is so far up an order, 0 for the smallest and 1 for the largest.

    Example:
        >>> shade(0.0) == RAMP[0], shade(0.5) == RAMP[4], shade(1.0) == RAMP[-1]
        (True, True, True)
    """
    return RAMP[round(rank * (len(RAMP) - 1))]
