"""Checks of a rate that warms up: sharpness pushed down with the threshold, the batch's size, a spike late in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightrope.store import RunRecord

from .check import (
    NUM_EARLY,
    NUM_FOR_A_PLATEAU,
    Band,
    Check,
    Finding,
    Outcome,
    Result,
    band_words,
    below,
    decide,
    waiting,
)

AT_ITS_EDGE = 0.9


@dataclass(frozen=True)
class Stretch:
    """What was measured of a run from the first time it may be at its edge to the end of its warmup, as columns (n,).

    Attributes:
        step, ratio, residual, threshold: As stored.
        first_sure: Place of the first measurement that is surely at the edge; None where none is.
    """

    step: np.ndarray
    ratio: np.ndarray
    residual: np.ndarray
    threshold: np.ndarray
    first_sure: int | None

    @classmethod
    def of(cls, record: RunRecord, reaches: float = AT_ITS_EDGE) -> Stretch:
        """From the first ratio of at least `reaches` on."""
        m = record.measurements
        inside = (m["step"] > NUM_EARLY) & (m["step"] <= warmup_steps(record)) & np.isfinite(m["ratio"])
        late = {name: m[name][inside] for name in ("step", "ratio", "residual", "threshold")}
        start = _first(late["ratio"] + late["residual"] >= reaches)
        columns = {name: values[len(values) if start is None else start :] for name, values in late.items()}
        return cls(**columns, first_sure=_first(columns["ratio"] - columns["residual"] >= reaches))

    @property
    def falls(self) -> tuple[float, float]:
        """Factors by which the threshold surely, and by which it may have, come down since the crossing."""
        factors = self.threshold / self.threshold[-1]
        return (1.0 if self.first_sure is None else float(factors[self.first_sure])), float(factors[0])


@dataclass(frozen=True)
class PushedDown(Check):
    """From its first crossing to the end of warmup every ratio of a run lies in a band, while the threshold falls.

    A run crosses at the first measurement past step 10 whose ratio reaches 0.9.

    Attributes:
        claim: In words.
        labels: Of the runs that are judged.
        band: For every ratio, at both ends of its residual.
        falls: The factor by which the threshold falls at least meanwhile.
        reaches: The ratio of a crossing; less where a run is to stay short of its edge.
        share: Of the warmup after which ratios are not judged; below 1 where what comes then has a check of its own.
    """

    claim: str
    labels: tuple[str, ...]
    band: Band
    falls: float
    reaches: float = AT_ITS_EDGE
    share: float = 1.0

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        return [finding for outcome in outcomes if outcome.label in self.labels for finding in self._findings(outcome)]

    def _findings(self, outcome: Outcome) -> list[Finding]:
        claim, words = f"{outcome.label}: {self.claim}", band_words(self.band)
        if outcome.record is None:
            return [Finding(claim, "", words, "UNDECIDED", outcome.reason)]
        last, end = outcome.record.end["step"], warmup_steps(outcome.record)
        if last < self.share * end:
            has_failed = outcome.record.outcome == "diverged"
            why = f"{'it diverged' if has_failed else 'the run ends'} at step {last}, while the rate warmed up"
            return [Finding(claim, "", words, "MISS" if has_failed else "UNDECIDED", why)]
        found = Stretch.of(outcome.record, self.reaches)
        judged = found.step <= self.share * end
        if not judged.any():
            return [Finding(claim, *self._never(outcome.record))]
        fall = f"{outcome.label}: from there to the end of warmup the threshold falls"
        return [Finding(claim, *self._in_band(found, judged)), Finding(fall, *self._fall(found))]

    def _never(self, record: RunRecord) -> tuple[str, str, Result, str]:
        m = record.measurements
        is_judged = (m["step"] > NUM_EARLY) & (m["step"] <= self.share * warmup_steps(record))
        found = m["ratio"][is_judged & np.isfinite(m["ratio"])]
        if not len(found):
            return "", band_words(self.band), "UNDECIDED", "no ratio was measured"
        why = f"it never reaches {self.reaches:g} in the first {100 * self.share:.0f} % of the warmup"
        return f"{found.max():.3f} at most", band_words(self.band), "MISS", why

    def _in_band(self, found: Stretch, judged: np.ndarray) -> tuple[str, str, Result, str]:
        step, ratio, residual = found.step[judged], found.ratio[judged], found.residual[judged]
        results = [decide(value, its, self.band) for value, its in zip(ratio, residual, strict=True)]
        result: Result = "PASS" if set(results) == {"PASS"} else "MISS" if "MISS" in results else "UNDECIDED"
        why = (
            f"{results.count('PASS')} of {len(results)} in it, median {np.median(ratio):.3f}, "
            f"steps {step[0]:.0f} to {step[-1]:.0f}"
        )
        if len(results) < NUM_FOR_A_PLATEAU and result == "PASS":
            result, why = "UNDECIDED", f"{why}: fewer than {NUM_FOR_A_PLATEAU} measurements"
        return f"{ratio.min():.3f} to {ratio.max():.3f} +- {residual.max():.1g}", band_words(self.band), result, why

    def _fall(self, found: Stretch) -> tuple[str, str, Result, str]:
        sure, possible = found.falls
        result: Result = "PASS" if sure >= self.falls else "UNDECIDED" if possible >= self.falls else "MISS"
        number = f"{sure:.3g}" if sure == possible else f"{sure:.3g} to {possible:.3g}"
        where = f"steps {found.step[0]:.0f} to {found.step[-1]:.0f}"
        return f"{number} times", f">= {self.falls:g} times", result, where


@dataclass(frozen=True)
class ShortOnAverage(Check):
    """From where a run has come near its edge to the end of warmup its mean ratio is below 1.

    Attributes:
        claim: In words.
        label: Of the run.
        reaches: The ratio that is near.
        share: As for `PushedDown`.
    """

    claim: str
    label: str
    reaches: float
    share: float = 1.0

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        [outcome] = [each for each in outcomes if each.label == self.label]
        claim = f"{self.label}: {self.claim}"
        if outcome.record is None:
            return [Finding(claim, "", "< 1", "UNDECIDED", outcome.reason)]
        found = Stretch.of(outcome.record, self.reaches)
        judged = found.step <= self.share * warmup_steps(outcome.record)
        if judged.sum() < NUM_FOR_A_PLATEAU:
            why = f"{judged.sum()} measurements from the first ratio of {self.reaches:g} on"
            return [Finding(claim, "", "< 1", "UNDECIDED", why)]
        mean, residual = found.ratio[judged].mean(), found.residual[judged].mean()
        why = f"mean over steps {found.step[judged][0]:.0f} to {found.step[judged][-1]:.0f}"
        return [Finding(claim, f"{mean:.3f} +- {residual:.1g}", "< 1", below(mean, residual, 1.0), why)]


@dataclass(frozen=True)
class LargerBatchHigher(Check):
    """From one run's first crossing to the end of warmup its mean ratio is above that of another.

    Attributes:
        claim: In words.
        pairs: Labels of the run with the larger batch, and of that with the smaller.
        share: As for `PushedDown`.
    """

    claim: str
    pairs: tuple[tuple[str, str], ...]
    share: float = 1.0

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        known = {outcome.label: outcome for outcome in outcomes}
        return [self._one(known[large], known[small]) for large, small in self.pairs]

    def _one(self, large: Outcome, small: Outcome) -> Finding:
        claim, band = f"{large.label}: {self.claim}", f"> {small.label}"
        if large.record is None or small.record is None:
            return waiting(claim, band, (large, small))[0]
        ours, m = Stretch.of(large.record), small.record.measurements
        judged = ours.step[ours.step <= self.share * warmup_steps(large.record)]
        theirs = np.isin(m["step"], judged) & np.isfinite(m["ratio"])
        both = np.isin(ours.step, m["step"][theirs])
        if not both.any():
            return Finding(claim, "", band, "UNDECIDED", "no step after the first crossing was measured in both")
        a, ra = ours.ratio[both].mean(), ours.residual[both].mean()
        b, rb = m["ratio"][theirs].mean(), m["residual"][theirs].mean()
        above = int((ours.ratio[both] > m["ratio"][theirs]).sum())
        why = f"means over {both.sum()} steps from {ours.step[both][0]:.0f} on; it is above at {above} of them"
        return Finding(claim, f"{a:.3f} against {b:.3f}", band, _above((a, ra), (b, rb)), why)


@dataclass(frozen=True)
class SpikesLate(Check):
    """Late in warmup one run's highest ratio is above a bound, and above another run's.

    Attributes:
        claim: In words.
        pairs: Labels of the run that spikes, and of the one it is held against.
        above: The bound.
        share: Of the warmup after which it is late.
    """

    claim: str
    pairs: tuple[tuple[str, str], ...]
    above: float
    share: float

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        known = {outcome.label: outcome for outcome in outcomes}
        return [finding for ours, theirs in self.pairs for finding in self._pair(known[ours], known[theirs])]

    def _pair(self, ours: Outcome, theirs: Outcome) -> list[Finding]:
        spike, order = (f"{ours.label}: {what}" for what in (self.claim, "the highest ratio late in warmup is larger"))
        bands = f"> {self.above:g}", f"> {theirs.label}"
        if ours.record is None or theirs.record is None:
            both = ours, theirs
            return [*waiting(spike, bands[0], both), *waiting(order, bands[1], both)]
        (a, ra, at), (b, rb, _) = (self._highest(record) for record in (ours.record, theirs.record))
        number, why = f"{a:.3f} +- {ra:.1g}", f"past {100 * self.share:.0f} % of the warmup"
        return [
            Finding(spike, number, bands[0], _above((a, ra), (self.above, 0.0)), f"at step {at:.0f}, {why}"),
            Finding(order, f"{a:.3f} against {b:.3f}", bands[1], _above((a, ra), (b, rb)), why),
        ]

    def _highest(self, record: RunRecord) -> tuple[float, float, float]:
        """The ratio, its residual and its step; NaN where none was measured."""
        m, last = record.measurements, warmup_steps(record)
        late = (m["step"] > self.share * last) & (m["step"] <= last) & np.isfinite(m["ratio"])
        if not late.any():
            return math.nan, math.nan, math.nan
        place = int(np.argmax(np.where(late, m["ratio"], -math.inf)))
        return float(m["ratio"][place]), float(m["residual"][place]), float(m["step"][place])


def warmup_steps(record: RunRecord) -> int:
    """Steps of a run's linear warmup."""
    return int(record.config["schedule"]["num_steps"])


def _above(ours: tuple[float, float], theirs: tuple[float, float]) -> Result:
    """PASS where a value is above another at both ends of their residuals, MISS where it is at neither."""
    (a, ra), (b, rb) = ours, theirs
    return below(b - a, ra + rb, 0.0)


def _first(is_so: np.ndarray) -> int | None:
    return int(np.argmax(is_so)) if is_so.any() else None
