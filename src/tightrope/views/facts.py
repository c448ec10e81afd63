"""What a stored run says about itself, as short plain text: its label, its settings, its key numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tightrope.store import RunRecord

MISSING = "—"


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run: its directory's, with as many folders before it as tell it from the others."""
    paths = [run.path.absolute() for run in runs]
    names = {path: path.name for path in paths}
    for depth in range(2, max(len(path.parts) for path in paths)):
        shared = {name for name, times in Counter(names.values()).items() if times > 1}
        names = {path: "/".join(path.parts[-depth:]) if name in shared else name for path, name in names.items()}
    seen: Counter[Path] = Counter()
    told = []
    for path in paths:
        seen[path] += 1
        told.append(names[path] if seen[path] == 1 else f"{names[path]} ({seen[path]})")
    return told


def number(value: Any, digits: int = 3) -> str:
    """A number with a few digits, thousands apart; a dash where there is none.

    Example:
        >>> number(38000.0), number(0.99427), number(None), number(1.2e-5)
        ('38,000', '0.994', '—', '1.2e-05')
    """
    value = as_float(value)
    if np.isnan(value):
        return MISSING
    if value == round(value, 6) and abs(value) < 1e9 and float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.{digits}g}"


def as_float(value: Any) -> float:
    """The value as a float; NaN where it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def plus_minus(value: Any, residual: Any) -> str:
    """A value with its residual, as "0.994 ± 6e-05"."""
    return number(value, 4) if np.isnan(as_float(residual)) else f"{number(value, 4)} ± {as_float(residual):.1g}"


def plural(amount: int, noun: str) -> str:
    """An amount of a thing.

    Example:
        >>> plural(1, "audit"), plural(2000, "audit")
        ('1 audit', '2,000 audits')
    """
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def settings(run: RunRecord) -> list[str]:
    """The run's method, problem, length and versions: what its start event, configuration and steps hold."""
    start, config = run.start, run.config
    facts = [
        _when(start.get("method"), "{}"),
        _when(start.get("preconditioner"), "P = {}"),
        _threshold(start.get("threshold")),
        _rates(run.steps.get("lr")),
        _when(part(config, "problem", "name"), "problem: {}"),
        _amount(start.get("num_parameters"), "parameter"),
        _amount(start.get("num_examples"), "example"),
        _batches(config),
        _steps(run),
        _when(config.get("dtype"), "{}"),
        _when(config.get("seed"), "seed {}"),
        _when(start.get("device"), "{}"),
        _amount(start.get("num_threads"), "thread"),
        *(f"{name} {version}" for name, version in _mapping(start.get("versions")).items()),
    ]
    return [fact for fact in facts if fact]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def part(stored: dict[str, Any], *keys: str) -> Any:
    """What lies at a path of nested tables; None where a key is missing or what it is in is no table."""
    value: Any = stored
    for key in keys:
        value = _mapping(value).get(key)
    return value


def _when(value: Any, words: str) -> str:
    return "" if value is None else words.format(value)


def _amount(value: Any, noun: str) -> str:
    return plural(int(value), noun) if np.isfinite(as_float(value)) else ""


def _threshold(value: Any) -> str:
    if value is None:
        return ""
    return f"stability threshold {number(value)}" if np.isfinite(as_float(value)) else "no single threshold"


def _rates(lr: np.ndarray | None) -> str:
    known = np.array([]) if lr is None else lr[np.isfinite(lr)]
    if not len(known):
        return ""
    low, high = known.min(), known.max()
    return f"learning rate {number(low)}" + ("" if low == high else f" to {number(high)}")


def _batches(config: dict[str, Any]) -> str:
    if "watch" in config:
        return "a loop that was watched"
    return "full batch" if config.get("batch_size") is None else f"batches of {number(config['batch_size'])}"


def _steps(run: RunRecord) -> str:
    taken = run.num_steps
    planned = as_float(run.config.get("num_steps"))
    is_short = np.isfinite(planned) and taken < planned
    return f"{taken:,} of {int(planned):,} steps" if is_short else plural(taken, "step")


def audits(run: RunRecord) -> np.ndarray:
    """(num_measurements,) True where the ratio was found from a cold random start."""
    return np.array([bool(value) for value in column(run, "is_audit")], dtype=bool)


def column(run: RunRecord, name: str) -> np.ndarray:
    """A column of the measurements that is not numeric; None for each measurement of a run without it."""
    stored = run.measurements.get(name)
    return np.full(len(run.measurements["step"]), None) if stored is None else stored


def share_of_time(run: RunRecord) -> float | None:
    """Share of the run's processing time that went into measuring, 0 to 1; None where it is not stored."""
    total, measuring = as_float(run.end.get("seconds")), as_float(run.end.get("measuring_seconds"))
    return measuring / total if total > 0 and np.isfinite(measuring) else None


def unfinished_business(run: RunRecord) -> Iterable[str]:
    """A sentence for each status other than "converged": how many measurements have it, and the last reason."""
    statuses, reasons = column(run, "status"), column(run, "reason")
    for status, times in Counter(str(status) for status in statuses if status not in (None, "converged")).items():
        reason = next(
            (why for was, why in zip(statuses[::-1], reasons[::-1], strict=True) if was == status and why), ""
        )
        words = f"{times:,} of {plural(len(statuses), 'measurement')} ended with status “{status.replace('_', ' ')}”"
        yield f"{words}: {reason}" if reason else f"{words}."


def surroundings(run: RunRecord) -> Iterable[str]:
    """A sentence for each thing around the method: clipping, averaged weights, resumptions."""
    clipping = run.verdict.get("clipping")
    if isinstance(clipping, str) and clipping:
        yield f"{clipping[0].upper()}{clipping[1:]}."
    if run.average:
        loss = number(run.average.get("loss"), 4)
        yield f"The average of {number(run.average.get('count'))} restart ends has loss {loss}."
    if run.test:
        error, n = as_float(run.test.get("error")), number(run.test.get("num_examples"))
        yield f"On {n} held-out examples the loss is {number(run.test.get('loss'), 4)}, {error:.1%} of them wrong."
    if run.num_resumed:
        yield f"The run was taken up again {plural(run.num_resumed, 'time')} after a stop."


def key_numbers(run: RunRecord) -> dict[str, str]:
    """The numbers to remember a run by: header of a table, and its cell."""
    verdict, measured = run.verdict, run.measurements
    low, high = as_float(verdict.get("low")), as_float(verdict.get("high"))
    stretch = [number(verdict.get(end)) for end in ("plateau_start", "plateau_stop")]
    share = share_of_time(run)
    known = np.flatnonzero(np.isfinite(measured["ratio"]))
    last = plus_minus(measured["ratio"][known[-1]], measured["residual"][known[-1]]) if len(known) else MISSING
    return {
        "Median ratio on plateau": plus_minus(verdict.get("median"), verdict.get("residual")),
        "5\u00a0% to 95\u00a0%": MISSING if np.isnan(low + high) else f"{low:.2f} to {high:.2f}",
        "Plateau, steps": MISSING if MISSING in stretch else " to ".join(stretch),
        "At the edge from step": number(verdict.get("first_step")),
        "Last ratio": last,
        "Measured": f"{len(measured['step']):,}",
        "Audits": f"{int(audits(run).sum()):,}",
        "Products": f"{int(np.nansum(measured['num_products'])):,}",
        "Time spent measuring": MISSING if share is None else f"{share:.1%}",
    }
