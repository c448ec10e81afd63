"""Stored runs made up for the checks to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tightrope.store import RunRecord
from tightrope.studies import Outcome


def settled(label, median, residual=0.001, series="", ratios=(), residuals=None):
    """A run with a plateau; `ratios` are its measurements there, by default ten of the median."""
    ratios = np.array(ratios or [median] * 10, dtype=float)
    steps = np.arange(100.0, 100 * len(ratios) + 1, 100)
    verdict = {
        "name": "at the edge",
        "first_step": 50,
        "plateau_start": 100,
        "plateau_stop": int(steps[-1]),
        "median": median,
        "residual": residual,
        "low": median - 0.1,
        "high": median + 0.1,
        "num_measurements": len(ratios),
        "words": "",
    }
    residuals = np.full(len(ratios), residual) if residuals is None else np.array(residuals)
    return record(label, series, "completed", verdict, {"step": steps, "ratio": ratios, "residual": residuals})


def short(label, highest, name="stable", series=""):
    """A run that never came to its edge, after a first step that means nothing."""
    verdict = {"name": name, "words": f"the highest ratio is {highest}", "first_step": None, "median": None}
    columns = {"step": np.array([1.0, 100.0]), "ratio": np.array([500.0, highest]), "residual": np.array([0.0, 0.0])}
    return record(label, series, "completed", verdict, columns)


def diverged(label, series=""):
    columns = {"step": np.array([1.0]), "ratio": np.array([1.0]), "residual": np.array([0.0])}
    return record(label, series, "diverged", {"name": "unstable", "median": None, "words": ""}, columns)


def course(label, series="", config=None, steps=None, verdict=None, test=None, outcome="completed", **measured):
    """A run with columns of its steps and of its measurements, which start at step 1 as they do."""
    columns = {name: np.array(values) for name, values in measured.items()}
    columns.setdefault("step", np.arange(1.0, 1 + max((len(values) for values in columns.values()), default=0)))
    taken = {name: np.array(values, dtype=float) for name, values in (steps or {}).items()}
    run = RunRecord(
        Path("r"),
        config or {},
        steps=taken,
        measurements=columns,
        verdict=verdict or {},
        test=test or {},
        end={"outcome": outcome, "step": int(columns["step"][-1]) if len(columns["step"]) else 0},
    )
    return Outcome(label, series, run, config=config or {})


def record(label, series, outcome, verdict, measurements):
    end = {"outcome": outcome, "step": 1000, "seconds": 2.0, "measuring_seconds": 0.5}
    return Outcome(label, series, RunRecord(Path("r"), {}, measurements=measurements, verdict=verdict, end=end))
