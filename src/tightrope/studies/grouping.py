"""Which runs are drawn together: a series shares a chart, runs that differ in their seed alone share a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from tightrope.store import STEP, RunRecord
from tightrope.views import Line

from .check import Outcome, stays_short

Window = tuple[float, float] | Callable[[RunRecord], tuple[float, float]]
"""First and last step to draw, or what gives them for a run."""
Band = tuple[np.ndarray, np.ndarray]
SAME = 5e-3
"""Relative spread within which thresholds times learning rates are one number; AdamW's decay moves it a little."""


@dataclass(frozen=True)
class Group:
    """Runs that are one line.

    Attributes:
        outcomes: They; more than one differ in their seed.
        label: In the legend.
        look: Of the line among those of its chart.
        rank: Its place among them where one setting tells them apart, 0 for the smallest to 1 for the largest.
    """

    outcomes: tuple[Outcome, ...]
    label: str
    look: int
    rank: float | None

    @property
    def records(self) -> list[RunRecord]:
        """Of the runs that are there."""
        return [outcome.record for outcome in self.outcomes if outcome.record is not None]

    def course(self, column: str, window: Window | None) -> tuple[np.ndarray, np.ndarray, Band | None]:
        """Steps, and a column at them: of one run, or the mean of several with its lowest and highest."""
        courses = [_course(record, column, window) for record in self.records]
        courses = [(steps, values) for steps, values in courses if len(steps)]
        if not courses:
            return np.zeros(0), np.zeros(0), None
        if len(courses) == 1:
            return *courses[0], None
        common = reduce(np.intersect1d, [steps for steps, _ in courses])
        values = np.stack([values[np.isin(steps, common)] for steps, values in courses])
        return common, values.mean(axis=0), (values.min(axis=0), values.max(axis=0))

    def listed(self, column: str, num: int, window: Window | None) -> np.ndarray:
        """The first entries of a column of lists, (num_measurements, num); NaN where one is shorter."""
        rows = [row for record in self.records[:1] for row in _within(record, column, window)[1]]
        padded = [[float(each) for each in (row or [])[:num]] for row in rows]
        return np.array([row + [np.nan] * (num - len(row)) for row in padded]).reshape(-1, num)

    def line(self, x: np.ndarray, y: np.ndarray, band: Band | None) -> Line:
        """The line in its look, its label saying what became of the runs."""
        found = self.records
        if not found:
            return Line(x, y, f"{self.label}: {self.outcomes[0].reason}", self.look, self.rank, is_missing=True)
        label = self.label
        if all(record.outcome == "diverged" for record in found):
            label += " (diverged)"
        elif all(_ends_short(record) for record in found):
            label += " (short)"
        if len(found) < len(self.outcomes):
            label += f" ({len(found)} of {len(self.outcomes)} seeds)"
        return Line(x, y, label, self.look, self.rank, band=band)


def series_of(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The runs of each series, in the order of the grid."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.series, []).append(outcome)
    return found


def titled_series(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The runs of each series by the title of its chart, which names the run where each chart has one."""
    found = series_of(outcomes)
    if len(found) < 2 or not is_lone(outcomes):
        return found
    return {_full(name, groups(members)[0].label): members for name, members in found.items()}


def is_lone(outcomes: Sequence[Outcome]) -> bool:
    """Whether each series has one line."""
    return all(len(groups(members)) == 1 for members in series_of(outcomes).values())


def groups(outcomes: Sequence[Outcome]) -> list[Group]:
    """The lines of one series, in the order of the grid."""
    members: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        members.setdefault(_without_seed(outcome), []).append(outcome)
    ranks = _ranks([group[0] for group in members.values()])
    return [
        Group(tuple(group), _label(group), look, rank)
        for look, (group, rank) in enumerate(zip(members.values(), ranks, strict=True))
    ]


def setting(config: Mapping[str, Any], name: str) -> Any:
    """A setting of a run's configuration by its name, of the run or of its method; None where it has none."""
    method = config.get("method", {})
    return config.get(name, method.get(name))


def threshold_words(outcomes: Sequence[Outcome]) -> str:
    """The threshold that runs share, as "38/lr"; "" where they have different ones, or none."""
    products: list[float] = []
    for outcome in outcomes:
        if outcome.record is not None and "threshold" in outcome.record.measurements and len(outcome.record.steps):
            steps, threshold = _course(outcome.record, "threshold", None)
            taken, lr = _course(outcome.record, "lr", None)
            at = np.interp(steps, taken, lr) if len(taken) else np.full(len(steps), np.nan)
            products += list((threshold * at)[np.isfinite(threshold * at)][-1:])
    if not products or np.ptp(products) > SAME * max(products):
        return ""
    return f"{np.median(products):.3g}/lr"


def rate_words(outcomes: Sequence[Outcome]) -> str:
    """The learning rate that runs share and keep, as "lr 0.001"; "" where it moves, or not all surely share it."""
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    rates = np.unique(np.concatenate([np.zeros(0), *(_course(record, "lr", None)[1] for record in records)]))
    is_one = len(records) == len(outcomes) and len(rates) == 1 and np.isfinite(rates).all()
    return f"lr {rates[0]:g}" if is_one else ""


def _ends_short(record: RunRecord) -> bool:
    """Whether a run of the full batch never came to its edge (Appendix D); one of small batches is to stay below."""
    return record.config.get("batch_size") is None and stays_short(record)


def _course(record: RunRecord, column: str, window: Window | None) -> tuple[np.ndarray, np.ndarray]:
    steps, values = _within(record, column, window)
    return steps, np.array([np.nan if value is None else value for value in values], dtype=float)


def _within(record: RunRecord, column: str, window: Window | None) -> tuple[np.ndarray, np.ndarray]:
    """Steps in a window, and a column at them; nothing of a run without that column."""
    is_of_steps = column in {each.name for each in STEP} and column in record.steps
    events = record.steps if is_of_steps else record.measurements
    if column not in events:
        return np.zeros(0), np.zeros(0)
    steps = events["step"]
    first, last = (-np.inf, np.inf) if window is None else window(record) if callable(window) else window
    is_in = (steps >= first) & (steps <= last)
    return steps[is_in], events[column][is_in]


def _without_seed(outcome: Outcome) -> str:
    """Equal for runs that differ in their seed alone; a run whose configuration is not known is alone."""
    if not outcome.config:
        return outcome.label
    return json.dumps({key: value for key, value in outcome.config.items() if key != "seed"}, sort_keys=True)


def _label(group: Sequence[Outcome]) -> str:
    """What the labels have in common, without the series, which stands above the chart, and without the seed."""
    label = group[0].label
    if len(group) > 1:
        label = re.sub(r",? *seed \d+", "", label)
    return label.removeprefix(f"{group[0].series}, ") or label


def _full(series: str, label: str) -> str:
    return label if label in (series, "") or not series else f"{series}, {label}"


def _ranks(outcomes: Sequence[Outcome]) -> list[float | None]:
    """Places on the way from the smallest to the largest of the one setting in which runs differ; else None."""
    flat = [_flat(outcome.config) for outcome in outcomes]
    names = {name for each in flat for name in each if name != "seed"}
    varied = [name for name in names if len({repr(each.get(name)) for each in flat}) > 1]
    values = [each.get(varied[0]) for each in flat] if len(varied) == 1 else []
    if len(outcomes) < 2 or not values or not all(isinstance(value, int | float) for value in values):
        return [None] * len(outcomes)
    places = np.argsort(np.argsort(np.array(values, dtype=float), kind="stable"))
    return [float(place) / (len(places) - 1) for place in places]


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return found
