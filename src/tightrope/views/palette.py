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
}
"""Twin, for dark pages, of every colour a figure uses; a page swaps them, a figure alone is light."""

COLORS = tuple(DARK)[4:]
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
