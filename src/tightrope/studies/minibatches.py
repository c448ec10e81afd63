"""Checks of minibatch training: where the ratio lies in the middle of it, and that it never goes far beyond 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np

from tightrope.store import RunRecord

from .check import Check, Finding, Outcome, Result
from .grouping import setting

Quantity = Literal["ratio", "preconditioned_sharpness"]


@dataclass(frozen=True)
class MidTraining(Check):
    """The mean of a number over the middle half of training, averaged over seeds, moves one way with a setting.

    Judged at each value of another setting that is held; both ends of the mean residual must support the order.

    Attributes:
        claim: In words.
        quantity: The ratio, or the preconditioned sharpness.
        by: Name of the setting, of the run or of its method, such as lr.
        held: Name of the one that is held.
        rises: Whether the number rises with `by`, instead of falling.
    """

    claim: str
    quantity: Quantity
    by: str
    held: str
    rises: bool

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        waiting = [each for each in outcomes if each.record is None]
        band = "rising" if self.rises else "falling"
        if waiting:
            return [Finding(self.claim, "", band, "UNDECIDED", f"{waiting[0].label}: {waiting[0].reason}")]
        records = sorted((each.record for each in outcomes if each.record is not None), key=self._held)
        return [self._one(value, list(group), band) for value, group in groupby(records, self._held)]

    def _held(self, record: RunRecord) -> float:
        return float(setting(record.config, self.held))

    def _one(self, held: float, records: list[RunRecord], band: str) -> Finding:
        claim = f"{self.held} {held:g}: {self.claim}"
        values = sorted({float(setting(record.config, self.by)) for record in records})
        means = [self._mean([each for each in records if setting(each.config, self.by) == value]) for value in values]
        if any(math.isnan(mean) for mean, _ in means):
            return Finding(claim, "", band, "UNDECIDED", "a run has no ratio in the middle half of training")
        upward = means if self.rises else means[::-1]
        is_sure = all(a + ra < b - rb for (a, ra), (b, rb) in pairwise(upward))
        is_possible = all(a - ra < b + rb for (a, ra), (b, rb) in pairwise(upward))
        result: Result = "PASS" if is_sure else "UNDECIDED" if is_possible else "MISS"
        why = f"at {self.by} {' '.join(f'{value:g}' for value in values)}"
        return Finding(claim, " ".join(f"{mean:.3g}" for mean, _ in means), band, result, why)

    def _mean(self, records: Sequence[RunRecord]) -> tuple[float, float]:
        """Over the middle half of each run, averaged over runs; and the mean residual."""
        halves = [_middle(record, self.quantity) for record in records]
        return float(np.mean([value.mean() for value, _ in halves])), float(np.mean([r.mean() for _, r in halves]))


@dataclass(frozen=True)
class NeverFarBeyond(Check):
    """After the first steps the ratio of no run exceeds a bound.

    Attributes:
        claim: In words.
        after: Step.
        below: The bound.
    """

    claim: str
    after: int
    below: float

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        band = f"< {self.below:g}"
        waiting = [each for each in outcomes if each.record is None]
        if waiting:
            return [Finding(self.claim, "", band, "UNDECIDED", f"{waiting[0].label}: {waiting[0].reason}")]
        found = [(*_highest(each.record, self.after), each.label) for each in outcomes if each.record is not None]
        ratio, residual, label = max(found)
        low, high = ratio - residual, ratio + residual
        result: Result = "PASS" if high < self.below else "MISS" if low >= self.below else "UNDECIDED"
        beyond = sum(each[0] >= self.below for each in found)
        why = f"of {label}; {beyond} of {len(found)} runs go beyond, after step {self.after}"
        return [Finding(self.claim, f"{ratio:.3f} +- {residual:.1g}", band, result, why)]


def _middle(record: RunRecord, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    m, last = record.measurements, record.num_steps
    inside = (m["step"] >= last / 4) & (m["step"] <= 3 * last / 4) & np.isfinite(m["ratio"])
    if not inside.any():
        return np.array([math.nan]), np.array([math.nan])
    unit = m["threshold"][inside] if quantity == "preconditioned_sharpness" else 1.0
    return unit * m["ratio"][inside], unit * m["residual"][inside]


def _highest(record: RunRecord, after: int) -> tuple[float, float]:
    m = record.measurements
    late = (m["step"] > after) & np.isfinite(m["ratio"])
    place = int(np.argmax(np.where(late, m["ratio"], -math.inf)))
    return float(m["ratio"][place]), float(m["residual"][place])
