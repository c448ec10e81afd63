"""Lines on standard output; a reader that went away ends the talk, not the run."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def say(text: str) -> None:
    """Print one line now; after the reader or the disk gave out, print nothing."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:
        # Nobody listens any more; without this the interpreter would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(headings: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a row's values under their headings, by key; a dash where there is none.

    On a terminal text is folded to its width, elsewhere lines are as long as they need; numbers stay whole.
    """
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    table = Table(box=None, pad_edge=False)
    for key, heading in headings.items():
        is_text = any(isinstance(row[key], str) for row in rows)
        table.add_column(heading, overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in headings))
    printed = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    Console(file=printed, width=width).print(table)
    say("\n".join(line.rstrip() for line in printed.getvalue().splitlines()))


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
