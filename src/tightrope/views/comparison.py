"""Runs side by side: what is known of each method, and what it did here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tightrope.store import RunRecord

from .facts import as_float, column, labels, part

KNOWN = {
    "method": "method",
    "step_size": "step size follows",
    "guarantee": "proven",
    "used_for": "usual for",
}
"""Columns about a method, with their headings."""

SHOWN = {
    "run": "run",
    "name": "method",
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

    `edge` is the last threshold on the preconditioned sharpness, None where it holds under a condition only; `ratio`
    the median over the plateau, or the last one measured where there is no plateau; `sharpness` the last of the raw
    Hessian.
    """
    return [
        {
            "run": label,
            "method": run.start.get("method"),
            "name": _short_name(run),
            **{key: part(run.start, "traits", key) for key in ("step_size", "guarantee", "used_for")},
            "lr": _rate(run),
            "edge": _edge(run),
            "steps": run.num_steps,
            "loss": _last(run.steps["loss"]),
            "ratio": _finite(run.verdict.get("median")) or _last(run.measurements["ratio"]),
            "sharpness": _last(run.measurements["sharpness"]),
            "verdict": run.verdict.get("name"),
        }
        for label, run in zip(labels(runs), runs, strict=True)
    ]


def _edge(run: RunRecord) -> float | None:
    if not len(run.measurements["step"]):
        return _finite(run.start.get("threshold"))
    return None if column(run, "condition")[-1] else _finite(run.measurements["threshold"][-1])


def _rate(run: RunRecord) -> float | None:
    """The learning rate that a configuration names; where none does, as of a watched loop, the largest taken."""
    if "method" in run.config:
        return _finite(part(run.config, "method", "lr"))
    known = run.steps["lr"][np.isfinite(run.steps["lr"])]
    return float(known.max()) if len(known) else None


def _short_name(run: RunRecord) -> str | None:
    """The method in a word, with what stands around it."""
    around = [name for name in ("sam", "clipping") if run.config.get(name)]
    return None if run.method_name is None else " + ".join([str(run.method_name), *around])


def _finite(value: Any) -> float | None:
    number = as_float(value)
    return number if np.isfinite(number) else None


def _last(column: np.ndarray) -> float | None:
    """The last finite number of a column."""
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else None
