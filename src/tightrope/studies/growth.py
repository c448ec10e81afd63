"""Checks of the plateau beside its height: raw sharpness that rises there, or not; the edge after P is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightrope.store import RunRecord

from .check import Band, Check, Finding, Outcome, Result, band_words, decide, plateau_finding

NUM_FOR_GROWTH = 8
"""Measurements of a plateau below which its first and last quarter say too little."""
NUM_EARLY = 10
"""Steps in which an adaptive ratio means nothing (see `stability.verdict`)."""


@dataclass(frozen=True)
class RawGrowth(Check):
    """Over the plateau raw sharpness grows by a factor in a band: the median of its last quarter over the first's.

    Attributes:
        claim: In words.
        band: For the factor, at both ends of the residuals.
        labels: Of the runs that are judged; all of them where it is empty.
    """

    claim: str
    band: Band
    labels: tuple[str, ...] = ()

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        return [self._one(outcome) for outcome in outcomes if not self.labels or outcome.label in self.labels]

    def _one(self, outcome: Outcome) -> Finding:
        claim, words = f"{outcome.label}: {self.claim}", band_words(self.band)
        if outcome.record is None:
            return Finding(claim, "", words, "UNDECIDED", outcome.reason)
        start = outcome.record.verdict.get("plateau_start")
        if start is None:
            return Finding(claim, "", words, "UNDECIDED", "the run has no plateau")
        m = outcome.record.measurements
        on_it = (m["step"] >= start) & np.isfinite(m["sharpness"])
        value, residual, quarter = m["sharpness"][on_it], m["sharpness_residual"][on_it], int(on_it.sum()) // 4
        if on_it.sum() < NUM_FOR_GROWTH:
            return Finding(claim, "", words, "UNDECIDED", f"raw sharpness was measured {on_it.sum()} times on it")
        first, last = (slice(None, quarter), slice(-quarter, None))
        factor = float(np.median(value[last]) / np.median(value[first]))
        low = float(np.median((value - residual)[last]) / np.median((value + residual)[first]))
        high = float(np.median((value + residual)[last]) / np.median((value - residual)[first]))
        spread = max(high - factor, factor - low)
        why = f"from {np.median(value[first]):.3g} to {np.median(value[last]):.3g} after step {start}"
        return Finding(claim, f"{factor:.3f} +- {spread:.1g}", words, decide(factor, spread, self.band), why)


@dataclass(frozen=True)
class RisesWhenFrozen(Check):
    """Before P is frozen the ratio stays below a bound; afterwards its median over the plateau lies in a band.

    The run's configuration says when P is frozen; the plateau is judged on what was measured from then on.

    Attributes:
        claim: In words.
        below: Before; past the first ten steps.
        band: After.
        label: Of the run.
    """

    claim: str
    below: float
    band: Band
    label: str

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        [outcome] = [each for each in outcomes if each.label == self.label]
        before = f"{self.label}: before, {self.claim}"
        if outcome.record is None:
            return [Finding(before, "", f"< {self.below:g}", "UNDECIDED", outcome.reason)]
        after = outcome.record.config["freeze"]["after"]
        m = outcome.record.measurements
        is_before = (m["step"] > NUM_EARLY) & (m["step"] <= after) & np.isfinite(m["ratio"])
        low, high = (m["ratio"] - m["residual"])[is_before], (m["ratio"] + m["residual"])[is_before]
        if not is_before.any():
            return [Finding(before, "", f"< {self.below:g}", "UNDECIDED", "no ratio was measured before")]
        result: Result = "PASS" if high.max() < self.below else "MISS" if low.max() >= self.below else "UNDECIDED"
        number = f"{m['ratio'][is_before].max():.3f} at most"
        why = f"{is_before.sum()} measurements up to step {after}"
        frozen = plateau_finding(f"{self.label}: after, it rises to the edge", outcome, self.band)
        return [Finding(before, number, f"< {self.below:g}", result, why), self._after(frozen, outcome.record, after)]

    @staticmethod
    def _after(found: Finding, record: RunRecord, after: int) -> Finding:
        """The plateau of the run is that of its frozen part, if it came to its edge there."""
        first = record.verdict.get("first_step")
        if first is not None and first <= after:
            return Finding(found.claim, found.number, found.band, "UNDECIDED", f"it was at its edge at step {first}")
        return found
