"""Checks: a claim of the paper as a number in a band, decided with the number's residual at both ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tightrope.store import RunRecord

Band = tuple[float, float]
Result = Literal["PASS", "MISS", "UNDECIDED"]
NUM_EARLY = 10
"""Steps in which an adaptive ratio means nothing (see `stability.verdict`)."""
NUM_FOR_A_PLATEAU = 5
"""Measurements below which a median says too little to decide on."""


@dataclass(frozen=True)
class Outcome:
    """A run of a study as a check sees it.

    Attributes:
        label, series: Of its case.
        record: As stored; None where there is none, or an unfinished one.
        reason: Why there is no record.
        config: Of the run, as a run directory holds it.
    """

    label: str
    series: str = ""
    record: RunRecord | None = None
    reason: str = "not run yet"
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        claim: In words.
        number: What was measured, in words; "" where nothing was.
        band: What it must be, in words.
        result: PASS or MISS where both ends of the number's residual say so, else UNDECIDED.
        why: What the result rests on.
    """

    claim: str
    number: str
    band: str
    result: Result
    why: str = ""


class Check(ABC):
    """What decides a claim."""

    @abstractmethod
    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        """What the runs of a study, in the order of its grid, support; one finding or more."""


@dataclass(frozen=True)
class AtItsEdge(Check):
    """Each run's ratio has its median over the plateau in a band.

    The plateau is the second half of the steps from the first whose ratio passes 0.9 (see `RunVerdict`).

    Attributes:
        claim: In words.
        band: For value - residual and value + residual.
        may_fall_short: Labels of runs that may end short of their edge, and are then reported so.
    """

    claim: str
    band: Band
    may_fall_short: tuple[str, ...] = ()

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        return [self._one(outcome) for outcome in outcomes]

    def _one(self, outcome: Outcome) -> Finding:
        finding = plateau_finding(f"{outcome.label}: {self.claim}", outcome, self.band)
        if may_and_does_fall_short(outcome, self.may_fall_short):
            return replace(finding, result="PASS", why=f"{finding.why} The smallest rate may (Appendix D).")
        return finding


@dataclass(frozen=True)
class MostAtTheirEdge(Check):
    """Of the runs of each series, at least so many have the median of their plateau in a band.

    Attributes:
        claim: In words.
        band: As for `AtItsEdge`.
        at_least: How many of each series.
    """

    claim: str
    band: Band
    at_least: int

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        names = dict.fromkeys(outcome.series for outcome in outcomes)
        return [self._series(name, [each for each in outcomes if each.series == name]) for name in names]

    def _series(self, name: str, outcomes: list[Outcome]) -> Finding:
        found = [plateau_finding(outcome.label, outcome, self.band) for outcome in outcomes]
        results = [finding.result for finding in found]
        in_band, open_ = results.count("PASS"), results.count("UNDECIDED")
        result: Result = "PASS" if in_band >= self.at_least else "MISS"
        if in_band < self.at_least <= in_band + open_:
            result = "UNDECIDED"
        others = [f"{f.claim}: {f.number or 'no number'} ({f.why})" for f in found if f.result != "PASS"]
        numbers = " ".join(finding.number.split(" ")[0] or "-" for finding in found)
        return Finding(
            f"{name}: {self.claim}",
            f"{in_band} of {len(found)} ({numbers})",
            f"{self.at_least} in {band_words(self.band)}",
            result,
            "; ".join(others),
        )


@dataclass(frozen=True)
class AboveMoreOften(Check):
    """Over the plateaus of its runs, one series is above its edge for a larger share of measurements than another.

    A share is known between that of ratio - residual > 1 and that of ratio + residual > 1.

    Attributes:
        claim: In words.
        series, than: The two.
    """

    claim: str
    series: str
    than: str

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        ours, theirs = (_share_above(outcomes, name) for name in (self.series, self.than))
        number = f"{_interval(ours)} against {_interval(theirs)}"
        band = f"{self.series} > {self.than}"
        if missing := waiting(self.claim, band, [o for o in outcomes if o.series in (self.series, self.than)]):
            return missing
        if math.isnan(ours[0]) or math.isnan(theirs[0]):
            return [Finding(self.claim, number, band, "UNDECIDED", "a series has no run with a plateau")]
        result: Result = "PASS" if ours[0] > theirs[1] else "MISS" if ours[1] <= theirs[0] else "UNDECIDED"
        return [Finding(self.claim, number, band, result, "share of the measurements above 1, all plateaus together")]


@dataclass(frozen=True)
class Exact(Check):
    """A number that is computed, not trained for, lies in a band.

    Attributes:
        claim: In words.
        compute: Gives the number.
        band: Both ends included.
    """

    claim: str
    compute: Callable[[], float]
    band: Band

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        value = float(self.compute())
        return [Finding(self.claim, f"{value:.6g}", band_words(self.band), decide(value, 0.0, self.band), "computed")]


def decide(value: float, residual: float, band: Band) -> Result:
    """PASS where value - residual and value + residual are both in the band, MISS where neither is, on one side."""
    low, high = value - residual, value + residual
    if band[0] <= low and high <= band[1]:
        return "PASS"
    return "MISS" if high < band[0] or low > band[1] else "UNDECIDED"


def below(value: float, residual: float, bound: float) -> Result:
    """PASS where a value is below a bound at both ends of its residual, MISS where it is at neither."""
    if value + residual < bound:
        return "PASS"
    return "MISS" if value - residual >= bound else "UNDECIDED"


def agreed(holds: Sequence[bool]) -> Result:
    """PASS where a claim holds at every end of the residuals, MISS where at none."""
    return "PASS" if all(holds) else "UNDECIDED" if any(holds) else "MISS"


def waiting(claim: str, band: str, outcomes: Sequence[Outcome]) -> list[Finding]:
    """One open finding where a run is not there yet, naming the first; none where all are there."""
    missing = [each for each in outcomes if each.record is None][:1]
    return [Finding(claim, "", band, "UNDECIDED", f"{each.label}: {each.reason}") for each in missing]


def verdict_of(findings: Sequence[Finding]) -> Result:
    """Of a whole study: MISS if a check missed, else UNDECIDED if one is open, else PASS."""
    results = {finding.result for finding in findings}
    return "MISS" if "MISS" in results else "UNDECIDED" if "UNDECIDED" in results or not results else "PASS"


def plateau_finding(claim: str, outcome: Outcome, band: Band) -> Finding:
    """Whether the median ratio over a run's plateau lies in a band."""
    words = band_words(band)
    if outcome.record is None:
        return Finding(claim, "", words, "UNDECIDED", outcome.reason)
    verdict = outcome.record.verdict
    if outcome.record.outcome == "diverged":
        return Finding(claim, "", words, "MISS", f"diverged at step {outcome.record.end['step']}")
    if verdict.get("median") is None:
        number = f"{_highest(outcome.record):.3f} at most" if _has_ratios(outcome.record) else ""
        return Finding(claim, number, words, "MISS" if stays_short(outcome.record) else "UNDECIDED", verdict["words"])
    value, residual = float(verdict["median"]), float(verdict["residual"])
    why = (
        f"median of {verdict['num_measurements']} over steps {verdict['plateau_start']} to "
        f"{verdict['plateau_stop']}, {verdict['low']:.2f} to {verdict['high']:.2f}"
    )
    number = f"{value:.3f} +- {residual:.1g}"
    if verdict["num_measurements"] < NUM_FOR_A_PLATEAU:
        return Finding(claim, number, words, "UNDECIDED", f"{why}: fewer than {NUM_FOR_A_PLATEAU} measurements")
    return Finding(claim, number, words, decide(value, residual, band), why)


def stays_short(record: RunRecord) -> bool:
    """Whether a run surely never came to its edge: it was measured, and none of its measurements reaches 0.9."""
    return record.verdict.get("name") == "stable" and record.verdict.get("first_step") is None


def may_and_does_fall_short(outcome: Outcome, labels: Sequence[str]) -> bool:
    """Whether a run is one of those that may end short of their edge, and is there and did."""
    return outcome.label in labels and outcome.record is not None and stays_short(outcome.record)


def _has_ratios(record: RunRecord) -> bool:
    return bool(np.isfinite(record.measurements["ratio"]).any())


def _highest(record: RunRecord) -> float:
    is_late = record.measurements["step"] > 1
    ratios = record.measurements["ratio"][is_late if is_late.any() else slice(None)]
    return float(np.nanmax(ratios))


def _share_above(outcomes: Sequence[Outcome], series: str) -> tuple[float, float]:
    """Shares of a series' plateau measurements that are surely, and that may be, above 1."""
    sure: list[bool] = []
    possible: list[bool] = []
    for outcome in outcomes:
        verdict: Mapping[str, Any] = outcome.record.verdict if outcome.record is not None else {}
        if outcome.series == series and outcome.record is not None and verdict.get("plateau_start") is not None:
            m = outcome.record.measurements
            on_it = (m["step"] >= verdict["plateau_start"]) & np.isfinite(m["ratio"])
            ratio, residual = m["ratio"][on_it], m["residual"][on_it]
            sure += list(ratio - residual > 1)
            possible += list(ratio + residual > 1)
    return (float(np.mean(sure)), float(np.mean(possible))) if sure else (math.nan, math.nan)


def _interval(share: tuple[float, float]) -> str:
    low, high = (f"{100 * end:.0f}" for end in share)
    return f"{low} %" if low == high else f"{low} to {high} %"


def band_words(band: Band) -> str:
    """A band as it is printed."""
    low, high = band
    if high == math.inf:
        return f">= {low:.10g}"
    if low == -math.inf:
        return f"<= {high:.10g}"
    return f"[{low:.10g}, {high:.10g}]"
