"""Panels of what runs came to: a number of each at its end, against a setting or against the steps it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrope.store import RunRecord
from tightrope.views import Chart, Line, fit

from .check import Outcome
from .grouping import Group, groups, series_of, setting
from .panels import Panel

TITLES = {"sharpness": "sharpness at the end"}
"""Names of numbers, where the runs have no training loss in common to be named as well."""
AXES = {"lr": "learning rate", "beta2": "1 - beta2", "beta1": "1 - beta1", "steps": "steps to the end"}


@dataclass(frozen=True)
class AtTheEnd(Panel):
    """A number of each run at its end, in one chart, a line a series; several seeds of a setting are one point.

    Such a point is their mean, with a shade from the lowest to the highest. A run that diverged, that was to reach a
    training loss and did not, or whose number was not found at its end, has no point and a note.

    Attributes:
        number: "test_error" or "test_loss", or a column of the measurements, whose last value counts.
        against: A setting of the run or of its method, drawn as 1 - beta for "beta1" and "beta2"; or "steps".
        series: Those to draw; none named means all.
        is_log: Whether the number's axis is logarithmic.
    """

    number: str
    against: str = "lr"
    series: tuple[str, ...] = ()
    is_log: bool = True

    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        found = {name: runs for name, runs in series_of(outcomes).items() if not self.series or name in self.series}
        drawn = [outcome for runs in found.values() for outcome in runs]
        chart = Chart(
            lines=tuple(self._line(look, name, groups(runs)) for look, (name, runs) in enumerate(found.items())),
            x_title=_axis_words(self.against, drawn),
            y_title=_number_words(self.number, drawn),
            is_x_log=True,
            is_y_log=self.is_log,
            notes=tuple(note for runs in found.values() for note in _notes(runs, self.number)),
        )
        return fit([chart])

    def _line(self, look: int, name: str, found: Sequence[Group]) -> Line:
        points = sorted(point for group in found for point in self._point(group))
        x, mean, low, high = (np.array(column) for column in zip(*points, strict=True)) if points else [np.zeros(0)] * 4
        num_open = sum(outcome.record is None for group in found for outcome in group.outcomes)
        num_runs = sum(len(group.outcomes) for group in found)
        label = f"{name} ({num_open} of {num_runs} runs not there yet)" if num_open else name
        has_band = bool((high > low).any())
        return Line(x, mean, label, look, has_marks=True, band=(low, high) if has_band else None, is_missing=not points)

    def _point(self, group: Group) -> list[tuple[float, float, float, float]]:
        """Where a group stands: x, mean, lowest and highest; nothing without a run that counts."""
        records = [record for record in group.records if not _why_not(record, self.number)]
        if not records:
            return []
        y = np.array([_ending(record, self.number) for record in records])
        x = np.mean([_place(record, self.against) for record in records])
        return [(float(x), float(y.mean()), float(y.min()), float(y.max()))]


def _axis_words(against: str, outcomes: Sequence[Outcome]) -> str:
    """What runs are placed by: a setting, or their steps to the training loss they end at."""
    loss = _common_loss(outcomes, against) if against == "steps" else None
    return f"steps to training loss {loss:g}" if loss else AXES.get(against, against.replace("_", " "))


def _number_words(number: str, outcomes: Sequence[Outcome]) -> str:
    """A number with the training loss at which all runs are compared, where they have one in common."""
    loss, words = _common_loss(outcomes, number), number.replace("_", " ")
    return f"{words} at training loss {loss:g}" if loss else TITLES.get(number, words)


def _common_loss(outcomes: Sequence[Outcome], number: str) -> float | None:
    """The training loss at which a number is taken of every run; None where they differ in it, or have none."""
    losses = {_loss_of(outcome.config, number) for outcome in outcomes}
    return losses.pop() if len(losses) == 1 else None


def _loss_of(config: Mapping[str, Any], number: str) -> float | None:
    """The training loss at which a run's configuration has a number taken, last of all; None where that is open."""
    measure = config.get("measure") or {}
    if number == "steps" or number.startswith("test_") or measure.get("at_end"):
        return (config.get("stop") or {}).get("loss")
    is_once = measure.get("every") == 0 and not measure.get("window")
    return measure.get("at_loss") if is_once else None


def _ending(record: RunRecord, number: str) -> float:
    """The number at the end of a run; NaN where it was not stored."""
    if number.startswith("test_"):
        return _as_float(record.test.get(number.removeprefix("test_")))
    values = record.measurements.get(number, np.zeros(0))
    return float(values[-1]) if len(values) else float("nan")


def _place(record: RunRecord, against: str) -> float:
    if against == "steps":
        return float(record.num_steps)
    value = _as_float(setting(record.config, against))
    return 1 - value if against in ("beta1", "beta2") else value


def _notes(outcomes: Sequence[Outcome], number: str) -> list[str]:
    return [
        f"{outcome.label}: {why}; it has no point."
        for outcome in outcomes
        if outcome.record is not None
        for why in [_why_not(outcome.record, number)]
        if why
    ]


def _why_not(record: RunRecord, number: str) -> str:
    if record.outcome == "diverged":
        return "diverged"
    target = (record.config.get("stop") or {}).get("loss")
    if target and record.outcome != "target_loss":
        return f"ended before its training loss came to {target:g}"
    return "" if np.isfinite(_ending(record, number)) else f"no {number.replace('_', ' ')} was found at its end"


def _as_float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
