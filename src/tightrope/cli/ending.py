"""What is said of a run that ended, and what the command exits with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .exit_codes import DIVERGED, INTERRUPTED, UNMEASURED
from .output import say

if TYPE_CHECKING:
    from tightrope.store import RunRecord


def conclude(record: RunRecord, has_report: bool) -> int:
    """Say how a run ended, write its report if asked, and return the exit code."""
    _say(record)
    if has_report:
        write_page([record], record.path / "report.html")
    is_to_be_measured = record.config.get("measure", {}).get("every", 1) != 0
    if record.outcome in ("completed", "target_loss") and is_to_be_measured and not _is_measured(record):
        return UNMEASURED
    return {"diverged": DIVERGED, "interrupted": INTERRUPTED}.get(record.outcome, 0)


def write_page(records: Sequence[RunRecord], out: Path) -> None:
    """Write the report of runs and say where it is."""
    from tightrope.views import write_report

    say(f"Report: {write_report(records, out)}")


def _say(record: RunRecord) -> None:
    ends = {
        "completed": f"Done after {record.end.get('step')} steps.",
        "target_loss": f"Target loss reached at step {record.end.get('step')}.",
        "diverged": f"Diverged at step {record.end.get('step')}; everything up to there is stored.",
        "interrupted": f"Interrupted at step {record.end.get('step')}; `tightrope resume {record.path}` goes on.",
    }
    say(ends[record.outcome])
    say(record.verdict["words"])
    if record.verdict.get("clipping"):
        say(f"Clipped: {record.verdict['clipping']}.")
    if record.average:
        say(f"Average of {record.average['count']} restart ends: loss {record.average['loss']:.4g}.")
    if record.test:
        say(f"Held-out: loss {record.test['loss']:.4g}, {record.test['error']:.1%} wrong.")
    say(f"Run: {record.path}")


def _is_measured(record: RunRecord) -> bool:
    return any(math.isfinite(ratio) for ratio in record.measurements["ratio"])
