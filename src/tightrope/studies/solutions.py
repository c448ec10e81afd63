"""Checks across runs: how a number at the end of training moves with a setting, and at what speed it was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from tightrope.store import RunRecord

from .check import Check, Finding, Outcome, agreed, waiting
from .grouping import setting

Array = np.ndarray
Quantity = Literal["sharpness", "test error"]
NUM_FOR_A_RANK = 4
"""Settings below which a rank correlation says too little."""


def at_the_end(record: RunRecord, quantity: Quantity) -> tuple[float, float]:
    """A number of the run where it ended, and its residual."""
    if quantity == "test error":
        return float(record.test["error"]), 0.0
    m = record.measurements
    return float(m["sharpness"][-1]), float(m["sharpness_residual"][-1])


@dataclass(frozen=True)
class FallsWith(Check):
    """A number at the end of training falls as a setting grows: Spearman's rank correlation, seeds averaged first.

    Runs that share the setting and the series are averaged. The residuals decide as well: the correlation is taken with
    every value at either end of its own, in all combinations.

    Attributes:
        claim: In words.
        quantity: "sharpness" of the last measurement, or "test error".
        by: Name of the setting, of the run or of its method, such as lr.
        at_most: The correlation must be at most this.
        series: Of the runs.
    """

    claim: str
    quantity: Quantity
    by: str
    at_most: float
    series: str

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        claim, band = f"{self.series}: {self.claim}", f"<= {self.at_most:g}"
        mine = [each for each in outcomes if each.series == self.series]
        if missing := waiting(claim, band, mine):
            return missing
        records = [each.record for each in mine if each.record is not None]
        for outcome, record in zip(mine, records, strict=True):
            if why := _why_not(record, self.quantity):
                return [Finding(claim, "", band, "UNDECIDED", f"{outcome.label} {why}")]
        x, y, residual = _means(records, self.by, self.quantity)
        if len(x) < NUM_FOR_A_RANK:
            return [Finding(claim, "", band, "UNDECIDED", f"{len(x)} settings")]
        numbers = " ".join(f"{value:.3g}" for value in y)
        rho = rank_correlation(x, y)
        ends = [rank_correlation(x, y + np.array(signs) * residual) for signs in product((-1, 1), repeat=len(x))]
        result = agreed([end <= self.at_most for end in ends])
        return [Finding(claim, f"{rho:.2f}", band, result, f"{self.quantity} {numbers} as {self.by} grows")]


@dataclass(frozen=True)
class SharperAtEqualSteps(Check):
    """At the same number of steps to a loss one method's solution is sharper than another's, over the range they share.

    Sharpness is interpolated between the runs of a series, in logarithms of steps and sharpness; the number is the
    smallest ratio of the two over the range of steps that both series cover.

    Attributes:
        claim: In words.
        series, than: The two.
    """

    claim: str
    series: str
    than: str

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        band = f"{self.series} / {self.than} > 1"
        both = [each for each in outcomes if each.series in (self.series, self.than)]
        if missing := waiting(self.claim, band, both):
            return missing
        left_out = [
            f"; without {each.label}, which {why}"
            for each in both
            if each.record is not None and (why := _why_not(each.record, "sharpness"))
        ]
        ours, theirs = (_curve(outcomes, name) for name in (self.series, self.than))
        if min(len(ours[0]), len(theirs[0])) < 2:
            return [Finding(self.claim, "", band, "UNDECIDED", "fewer than two runs of a series reached the loss")]
        first, last = max(ours[0][0], theirs[0][0]), min(ours[0][-1], theirs[0][-1])
        if first >= last:
            return [Finding(self.claim, "", band, "UNDECIDED", "the two cover no steps in common")]
        # Both curves are straight between their points, so the smallest difference lies at one.
        steps = np.unique(np.clip([*ours[0], *theirs[0]], first, last))
        ratio, low, high = (
            float(np.exp((_at(steps, ours, sign) - _at(steps, theirs, -sign)).min())) for sign in (0, -1, 1)
        )
        result = agreed([low > 1, high > 1])
        why = f"smallest ratio over {np.exp(first):.0f} to {np.exp(last):.0f} steps, the range that both cover"
        why += "".join(left_out)
        return [Finding(self.claim, f"{ratio:.2f} +- {max(high - ratio, ratio - low):.1g}", band, result, why)]


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation of two columns (n,); equal values share their mean rank."""
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _ranks(values: Array) -> Array:
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    ranks: Array = below + (equal - 1) / 2
    return ranks


def _why_not(record: RunRecord, quantity: Quantity) -> str:
    """Why a run cannot be compared with others at one loss; "" where it can."""
    if record.outcome != "target_loss":
        return "did not reach the loss it is compared at"
    return "" if np.isfinite(at_the_end(record, quantity)).all() else f"has no {quantity} at its end"


def _means(records: Sequence[RunRecord], by: str, quantity: Quantity) -> tuple[Array, Array, Array]:
    """Each setting once, ascending, with the mean of the number over its runs, and of the residual."""
    rows = [(float(setting(record.config, by)), *at_the_end(record, quantity)) for record in records]
    x = np.unique([row[0] for row in rows])
    y, residual = (np.array([np.mean([row[part] for row in rows if row[0] == each]) for each in x]) for part in (1, 2))
    return x, y, residual


Curve = tuple[Array, Array, Array]


def _curve(outcomes: Sequence[Outcome], series: str) -> Curve:
    """Logarithms of steps (ascending) and of sharpness at both ends of its residual, of the runs that got there."""
    records = [each.record for each in outcomes if each.series == series and each.record is not None]
    rows = sorted(
        (np.log(record.num_steps), *at_the_end(record, "sharpness"))
        for record in records
        if not _why_not(record, "sharpness")
    )
    steps, value, residual = (np.array([row[part] for row in rows]) for part in range(3))
    return steps, value, residual


def _at(steps: Array, curve: Curve, sign: int) -> Array:
    x, value, residual = curve
    interpolated: Array = np.interp(steps, x, np.log(np.maximum(value + sign * residual, np.finfo(float).tiny)))
    return interpolated
