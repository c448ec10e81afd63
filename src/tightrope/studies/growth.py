"""Checks of the plateau beside its height: raw sharpness that rises there, or not; the edge after P is frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightrope.store import RunRecord

from .check import (
    NUM_EARLY,
    Band,
    Check,
    Finding,
    Outcome,
    band_words,
    below,
    decide,
    may_and_does_fall_short,
    plateau_finding,
)
from .grouping import setting

NUM_FOR_GROWTH = 8
"""Measurements of a plateau below which its first and last quarter say too little."""


@dataclass(frozen=True)
class RawGrowth(Check):
    """Over the plateau raw sharpness grows by a factor in a band: the median of its last quarter over the first's.

    Attributes:
        claim: In words.
        band: For the factor, at both ends of the residuals.
        only_smallest: Whether the run with the smallest learning rate is judged, instead of all of them.
        may_fall_short: Labels of runs that may end short of their edge; such a one has no plateau, and is not judged.
    """

    claim: str
    band: Band
    only_smallest: bool = False
    may_fall_short: tuple[str, ...] = ()

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        judged = [min(outcomes, key=_rate)] if self.only_smallest else outcomes
        return [self._one(outcome) for outcome in judged if not may_and_does_fall_short(outcome, self.may_fall_short)]

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
class StaysShort(Check):
    """Past the first steps the ratio of each run stays below a bound to its end.

    Attributes:
        claim: In words.
        below: The bound.
        label: Of the one run that is judged; None for all of them.
    """

    claim: str
    below: float
    label: str | None = None

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        return [self._one(outcome) for outcome in outcomes if self.label in (None, outcome.label)]

    def _one(self, outcome: Outcome) -> Finding:
        claim = f"{outcome.label}: {self.claim}"
        if outcome.record is None:
            return Finding(claim, "", f"< {self.below:g}", "UNDECIDED", outcome.reason)
        return highest_finding(claim, outcome.record, self.below)


@dataclass(frozen=True)
class RisesWhenFrozen(Check):
    """Before P is frozen the ratio stays below a bound; afterwards its median over the plateau lies in a band.

    The run's configuration says when P is frozen; the plateau is judged on what was measured from then on. That a run
    whose P is never frozen stays short all along is for `StaysShort` to say.

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
        found = highest_finding(before, outcome.record, self.below, after)
        frozen = plateau_finding(f"{self.label}: after, it rises to the edge", outcome, self.band)
        return [found, self._after(frozen, outcome.record, after)]

    @staticmethod
    def _after(found: Finding, record: RunRecord, after: int) -> Finding:
        """The plateau of the run is that of its frozen part, if it came to its edge there."""
        first = record.verdict.get("first_step")
        if first is not None and first <= after:
            return Finding(found.claim, found.number, found.band, "UNDECIDED", f"it was at its edge at step {first}")
        return found


def _rate(outcome: Outcome) -> float:
    return float(setting(outcome.config, "lr"))


def highest_finding(claim: str, record: RunRecord, bound: float, last: float = math.inf) -> Finding:
    """Whether the ratio of a run stays below a bound, past the first steps and up to a last one."""
    m, band = record.measurements, f"< {bound:g}"
    if record.outcome == "diverged" and record.num_steps < last:
        return Finding(claim, "", band, "MISS", f"diverged at step {record.num_steps}")
    inside = (m["step"] > NUM_EARLY) & (m["step"] <= last)
    num_known = int(np.isfinite(m["ratio"][inside]).sum())
    if num_known < max(1, inside.sum()):
        return Finding(
            claim, "", band, "UNDECIDED", f"the ratio was found at {num_known} of {inside.sum()} measurements"
        )
    ratio, residual, step = m["ratio"][inside], m["residual"][inside], m["step"][inside]
    high, low = float((ratio + residual).max()), float((ratio - residual).max())
    result = below((high + low) / 2, (high - low) / 2, bound)
    why = f"highest of {inside.sum()}, at step {step[int(np.argmax(ratio))]:.0f} of {step[-1]:.0f}"
    return Finding(claim, f"{ratio.max():.3f} at most", band, result, why)
