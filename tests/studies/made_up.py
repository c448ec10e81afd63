"""Stored runs made up column by column, for the checks that look at more than a plateau."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tightrope.store import MEASUREMENT, RunRecord
from tightrope.studies import Outcome


def made_up(label, series="", *, config=None, outcome="completed", verdict=None, steps=None, test=None, **measured):
    """A run that ended; columns of its measurements by name, what is not given is NaN."""
    num = len(measured["step"]) if "step" in measured else 0
    columns = {column.name: np.full(num, np.nan) for column in MEASUREMENT}
    columns |= {name: np.array(values, dtype=float) for name, values in measured.items()}
    for residual in ("residual", "sharpness_residual"):
        columns[residual] = np.nan_to_num(columns[residual])
    last = int(max([0, *measured.get("step", [])]))
    end = {"outcome": outcome, "step": last, "seconds": 2.0, "measuring_seconds": 0.5}
    stored = {"config": config or {}, "steps": steps or {}, "test": test or {}, "verdict": verdict or {}, "end": end}
    return Outcome(label, series, RunRecord(Path("r"), measurements=columns, **stored))


def plateau(start, stop=8000, median=1.0, num=20):
    """The verdict of a run that came to its edge and stayed."""
    return {
        "name": "at the edge", "first_step": 2 * start - stop, "plateau_start": start, "plateau_stop": stop,
        "median": median, "residual": 0.001, "low": median, "high": median, "num_measurements": num, "words": "",
    }  # fmt: skip
