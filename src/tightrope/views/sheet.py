"""The page of a picture: what it shows, the picture, what was found of it, and what it rests on."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from .charts import Picture
from .grid import picture_panel
from .page import document
from .report import write_page

TONES = {"PASS": "good", "MISS": "bad", "UNDECIDED": "warn"}


def write_sheet(
    picture: Picture,
    out: Path,
    *,
    found: Sequence[Mapping[str, str]] = (),
    headings: Mapping[str, str] | None = None,
    facts: Sequence[str] = (),
) -> Path:
    """The path of one self-contained HTML file with a picture that answers to the pointer; an earlier one is replaced.

    Args:
        picture: What to draw.
        out: File to write; folders above it are made.
        found: Rows of the table below it; the values PASS, MISS and UNDECIDED stand out.
        headings: Of the table's columns, by key of a row, in their order.
        facts: What the picture rests on: versions, seeds, the date.
    Raises:
        StoreError: `out` is a directory or another file, or it cannot be written.
    """
    from plotly.offline import get_plotlyjs  # here, so that importing tightrope does not load plotly

    below = [_table(headings or {}, found)] if found else []
    below += [f'<p class="caption">{html.escape(" · ".join(facts))}</p>'] if facts else []
    return write_page(Path(out), document(picture.heading, (), [picture_panel(picture)], below, get_plotlyjs()))


def _table(headings: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> str:
    heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in headings.values())
    body = "".join("<tr>" + "".join(_cell(row[key]) for key in headings) + "</tr>" for row in rows)
    return (
        '<section aria-labelledby="heading-found"><h2 id="heading-found">What was found</h2>'
        '<div class="scroll" role="region" aria-labelledby="heading-found" tabindex="0">'
        f'<table class="found"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _cell(value: str) -> str:
    if value in TONES:
        return f'<td><span class="badge {TONES[value]}">{value}</span></td>'
    return f"<td>{html.escape(value)}</td>"
