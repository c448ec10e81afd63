"""Checks of minibatch training: where the ratio lies in the middle of it, and that it never goes far beyond 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np

from tightrope.store import RunRecord

from .check import Check, Finding, Outcome, Result, below, waiting
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
        band = "rising" if self.rises else "falling"
        if missing := waiting(self.claim, band, outcomes):
            return missing
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
        if missing := waiting(self.claim, band, outcomes):
            return missing
        late = {each.label: _late(each.record, self.after) for each in outcomes if each.record is not None}
        blind = [label for label, (ratio, _, _) in late.items() if not len(ratio)]
        if blind:
            why = f"{blind[0]}: no ratio was measured after step {self.after}"
            return [Finding(self.claim, "", band, "UNDECIDED", why)]
        highest = {label: int(np.argmax(ratio)) for label, (ratio, _, _) in late.items()}
        label = max(late, key=lambda name: late[name][0][highest[name]])
        ratio, residual, step = (float(column[highest[label]]) for column in late[label])
        num = sum(len(column) for column, _, _ in late.values())
        diverged = sum(each.record is not None and each.record.outcome == "diverged" for each in outcomes)
        first = min(float(steps[0]) for _, _, steps in late.values())
        why = f"of {label}, at step {step:.0f}; {num} measurements, the first at step {first:.0f}"
        why += f"; {diverged} runs diverged" if diverged else ""
        return [Finding(self.claim, f"{ratio:.3f} +- {residual:.1g}", band, below(ratio, residual, self.below), why)]


def _middle(record: RunRecord, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    m, last = record.measurements, record.num_steps
    inside = (m["step"] >= last / 4) & (m["step"] <= 3 * last / 4) & np.isfinite(m["ratio"])
    if not inside.any():
        return np.array([math.nan]), np.array([math.nan])
    unit = m["threshold"][inside] if quantity == "preconditioned_sharpness" else 1.0
    return unit * m["ratio"][inside], unit * m["residual"][inside]


def _late(record: RunRecord, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios, residuals and steps past a step."""
    m = record.measurements
    is_late = (m["step"] > after) & np.isfinite(m["ratio"])
    return m["ratio"][is_late], m["residual"][is_late], m["step"][is_late]
