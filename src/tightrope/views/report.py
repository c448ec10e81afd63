"""A report: runs as one HTML file that opens from disk, without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tightrope.errors import StoreError
from tightrope.store import RunRecord

from .facts import labels
from .figures import panels
from .page import render

DOCTYPE = b"<!doctype html>"


def write_report(runs: Sequence[RunRecord], out: Path, *, title: str | None = None) -> Path:
    """The path of one self-contained HTML file about the runs; an earlier report of that name is replaced.

    Args:
        runs: At least one, as `read_run` returns them; several are drawn over each other.
        out: File to write; folders above it are made.
        title: Of the page; made of the run's name, or the number of runs, where it is None.
    Returns:
        `out`.
    Raises:
        StoreError: no run is given, `out` is a directory or another file, or it cannot be written.
    """
    out = Path(out)
    if not runs:
        raise StoreError(
            "report: needs at least one run; got none. Name a run directory, as in `tightrope report RUN`."
        )
    from plotly.offline import get_plotlyjs  # here, so that importing tightrope does not load plotly

    return write_page(out, render(runs, panels(runs), title or _title(runs), get_plotlyjs()))


def write_page(out: Path, page: str) -> Path:
    """The path of a page, written as a whole; an earlier page of that name is replaced.

    Raises:
        StoreError: `out` is a directory or another file, or it cannot be written.
    """
    try:
        _replace(out, page)
    except StoreError:
        raise
    except IsADirectoryError as error:
        raise StoreError(
            f"report: out must be a file; {out} is a directory. Name a file in it: {out / 'report.html'}."
        ) from error
    except OSError as error:
        raise StoreError(f"report: {out} must be writable; {error.strerror or error}. Choose another file.") from error
    return out


def _title(runs: Sequence[RunRecord]) -> str:
    return f"tightrope: {labels(runs)[0]}" if len(runs) == 1 else f"tightrope: {len(runs)} runs"


def _replace(out: Path, page: str) -> None:
    """Write beside the file, then rename: a reader sees the old page or the new one, never half."""
    if out.is_dir():
        raise IsADirectoryError(out)
    if out.exists() and not out.read_bytes()[: len(DOCTYPE)].lower() == DOCTYPE:
        raise StoreError(f"report: out must be new, or an earlier report; {out} is another file. Choose another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
