"""Runs side by side: what is known of each method, and what it did here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightrope.store import RunRecord

from .facts import as_float, labels

KNOWN = {
    "method": "method",
    "step_size": "step size follows",
    "guarantee": "proven",
    "used_for": "usual for",
}
"""Columns about a method, with their headings."""

SHOWN = {
    "run": "run",
    "method": "method",
    "lr": "lr",
    "edge": "edge",
    "steps": "steps",
    "loss": "last loss",
    "ratio": "ratio",
    "sharpness": "sharpness",
    "verdict": "verdict",
}
"""Columns about what a run did, with their headings."""


def comparison(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One row a run, with the keys of `KNOWN` and `SHOWN`; what a run does not hold is None.

    `edge` is the threshold on the preconditioned sharpness; `ratio` the median over the plateau, or the last one
    measured where there is no plateau; `sharpness` the last of the raw Hessian.
    """
    return [
        {
            "run": label,
            "method": run.start.get("method"),
            **{key: (run.start.get("traits") or {}).get(key) for key in ("step_size", "guarantee", "used_for")},
            "lr": run.config.get("method", {}).get("lr"),
            "edge": _finite(run.start.get("threshold")),
            "steps": len(run.steps["step"]),
            "loss": _last(run.steps["loss"]),
            "ratio": _finite(run.verdict.get("median")) or _last(run.measurements["ratio"]),
            "sharpness": _last(run.measurements["sharpness"]),
            "verdict": run.verdict.get("name"),
        }
        for label, run in zip(labels(runs), runs, strict=True)
    ]


def _finite(value: Any) -> float | None:
    number = as_float(value)
    return number if np.isfinite(number) else None


def _last(column: np.ndarray) -> float | None:
    """The last finite number of a column."""
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else None
