"""Runs as rows of a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tightrope.errors import TightropeError

COLUMNS = ("run", "method", "lr", "steps", "loss", "outcome", "verdict", "ratio")


def listed(path: Path) -> dict[str, Any]:
    """A run directory as a row of the table, with the keys of `COLUMNS`; one that cannot be read says why."""
    from tightrope.store import read_run

    try:
        record = read_run(path)
    except TightropeError as error:
        return {**dict.fromkeys(COLUMNS), "run": str(path), "outcome": f"unreadable: {error}"}
    loss, lrs = record.steps["loss"], [lr for lr in record.steps["lr"].tolist() if math.isfinite(lr)]
    ratios = [ratio for ratio in record.measurements["ratio"].tolist() if math.isfinite(ratio)]
    method, median = record.config.get("method"), record.verdict.get("median")
    lr = method.get("lr") if isinstance(method, dict) else max(lrs, default=None)
    values = (
        str(path),
        record.method_name,
        lr,
        record.num_steps,
        float(loss[-1]) if len(loss) and math.isfinite(loss[-1]) else None,
        record.outcome,
        record.verdict.get("name"),
        median if median is not None else ratios[-1] if ratios else None,
    )
    return dict(zip(COLUMNS, values, strict=True))
