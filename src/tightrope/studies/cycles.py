"""Checks of what happens step by step at the edge: the order of events in a cycle, and where the spikes live.

Legend: R = ratio, S = raw sharpness, G = gradient norm, N = norm of the second moment nu; one value a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tightrope.store import RunRecord

from .check import Check, Finding, Outcome, Result, agreed

Array = np.ndarray
SPIKE = 2.0
"""A spike is above so many times its running median."""
MEDIAN_WINDOW = 41
"""Steps of the running median: longer than a spike, and shorter than what changes its base."""
LEAST_CORRELATION = 0.3
CALM = 0.98
"""A cycle is over once the ratio is surely below this: ripples of a hundredth around 1 are no cycles."""
NUM_FOR_A_CYCLE = 3
"""Cycles below which their median says too little."""


@dataclass(frozen=True)
class Stretch:
    """The steps of a run that were measured one after the other, as columns (n,)."""

    step: Array
    ratio: Array
    residual: Array
    sharpness: Array
    sharpness_residual: Array
    grad_norm: Array
    second_moment_norm: Array
    semi_gradient_sq: Array
    semi_gradient_sq_top: Array

    @classmethod
    def of(cls, record: RunRecord) -> Stretch:
        """The window of the run's configuration."""
        first, last = record.config["measure"]["window"]
        m, steps = record.measurements, record.steps
        inside = (m["step"] >= first) & (m["step"] <= last)
        norms = dict(zip(steps["step"], steps["grad_norm"], strict=True))
        columns = {name: m[name][inside] for name in cls.__dataclass_fields__ if name != "grad_norm"}
        return cls(**columns, grad_norm=np.array([norms[step] for step in columns["step"]]))

    def crossings(self) -> list[int]:
        """Places at which the ratio is surely above 1 for the first time in a cycle.

        At the window's beginning it must surely lie below 1 before; between two of them it must come to `CALM`.
        """
        low, high = self.ratio - self.residual, self.ratio + self.residual
        found, is_calm = [], bool(high[0] < 1)
        for place in range(len(low)):
            if high[place] < CALM:
                is_calm = True
            elif low[place] > 1 and is_calm:
                found.append(place)
                is_calm = False
        return found

    def falls(self) -> list[tuple[int, int]]:
        """Of each cycle the places of its highest ratio and of the lowest after that; not of one cut off before."""
        starts, found = self.crossings(), []
        for start, end in zip(starts, [*starts[1:], len(self.ratio)], strict=True):
            peak = start + int(np.argmax(self.ratio[start:end]))
            lowest = peak + int(np.argmin(self.ratio[peak:end]))
            if self.ratio[lowest] + self.residual[lowest] < CALM:
                found.append((peak, lowest))
        return found


def lag(a: Array, b: Array, most: int) -> tuple[int, float]:
    """By how many steps b follows a where their correlation is largest, and that correlation.

    Args:
        a, b: (n,) each.
        most: Lags of so many steps either way are tried.
    """
    tried = [
        (_correlation(a[max(0, -k) : len(a) - max(0, k)], b[max(0, k) : len(b) + min(0, k)]), k)
        for k in range(-most, most + 1)
    ]
    best, place = max(tried)
    return place, best


@dataclass(frozen=True)
class OrderOfEvents(Check):
    """In a cycle the ratio crosses 1, the gradient grows after it, nu after that, and as nu grows the ratio falls.

    Decided by the lags of the largest cross-correlation, over at most half a cycle either way: of the gradient's norm
    behind the ratio and of nu's norm behind the gradient's (both must be positive, in logarithms), and of the fall of
    the ratio behind the growth of nu (which must not be negative). The ratio is taken at both ends of its residual. A
    correlation that is largest where the search ends has no lag: unless another one is out of order, it is open.

    Attributes:
        label: Of the run.
    """

    label: str

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        claim, band = f"{self.label}: crossing, then gradient, then nu, and the ratio falls", "lags > 0, > 0, >= 0"
        stretch = _stretch(self.label, outcomes, "grad_norm", "second_moment_norm")
        if isinstance(stretch, str):
            return [Finding(claim, "", band, "UNDECIDED", stretch)]
        crossings = stretch.crossings()
        if len(crossings) < NUM_FOR_A_CYCLE:
            return [Finding(claim, "", band, "UNDECIDED", f"{len(crossings)} crossings in the window")]
        most = max(2, int(np.median(np.diff(crossings))) // 2)
        ends = [stretch.ratio + sign * stretch.residual for sign in (0, -1, 1)]
        found = [_lags(stretch, ratio, most) for ratio in ends]
        holds = [is_ordered(lags, most) for lags in found]
        result = "UNDECIDED" if None in holds else agreed([bool(each) for each in holds])
        number = ", ".join(f"{k:+d}" for k, _ in found[0])
        why = f"{len(crossings)} crossings; correlations {', '.join(f'{c:.2f}' for _, c in found[0])}"
        why += f"; one is largest {most} steps off, where the search ends" if None in holds else ""
        return [Finding(claim, number, band, result, why)]


@dataclass(frozen=True)
class SharpnessOverACycle(Check):
    """As the ratio falls, from its highest to its lowest in a cycle, raw sharpness falls too, or it does not.

    The number is the median over the cycles of the relative change. A run that resolves its instability by adapting P
    has no such fall.

    Attributes:
        claim: In words.
        label: Of the run.
        falls: Whether it must fall.
    """

    claim: str
    label: str
    falls: bool

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        claim, band = f"{self.label}: {self.claim}", "< 0" if self.falls else ">= 0"
        stretch = _stretch(self.label, outcomes, "sharpness", "sharpness_residual")
        if isinstance(stretch, str):
            return [Finding(claim, "", band, "UNDECIDED", stretch)]
        falls = stretch.falls()
        if len(falls) < NUM_FOR_A_CYCLE:
            return [Finding(claim, "", band, "UNDECIDED", f"{len(falls)} cycles in the window")]
        highest, lowest = (list(places) for places in zip(*falls, strict=True))
        S, error = stretch.sharpness, stretch.sharpness_residual
        change, low, high = (
            float(np.median((S + sign * error)[lowest] / (S - sign * error)[highest] - 1)) for sign in (0, -1, 1)
        )
        result = agreed([(end < 0) is self.falls for end in (low, high)])
        number = f"{change:+.2%} +- {max(high - change, change - low):.1%}"
        return [Finding(claim, number, band, result, f"median of {len(falls)} cycles")]


@dataclass(frozen=True)
class SpikesInTheTop(Check):
    """What the squared norm of P^-1/2 g exceeds its running median by at its spikes lies in the top eigenvectors.

    The share has no residual: how far each eigenvector is from its own is not known, only how far each eigenvalue is.

    Attributes:
        claim: In words.
        at_least: Share of the excess, all spikes together.
    """

    claim: str
    at_least: float

    def judge(self, outcomes: Sequence[Outcome]) -> list[Finding]:
        return [self._one(outcome.label, outcomes) for outcome in outcomes]

    def _one(self, label: str, outcomes: Sequence[Outcome]) -> Finding:
        claim, band = f"{label}: {self.claim}", f">= {self.at_least:.0%}"
        stretch = _stretch(label, outcomes, "semi_gradient_sq", "semi_gradient_sq_top")
        if isinstance(stretch, str):
            return Finding(claim, "", band, "UNDECIDED", stretch)
        whole, top = stretch.semi_gradient_sq, stretch.semi_gradient_sq_top
        base = running_median(whole)
        is_spike = whole > SPIKE * base
        if not is_spike.any():
            return Finding(claim, "", band, "UNDECIDED", f"no step of the window exceeds {SPIKE:g} times the median")
        share = float((top - running_median(top))[is_spike].sum() / (whole - base)[is_spike].sum())
        result: Result = "PASS" if share >= self.at_least else "MISS"
        why = f"{is_spike.sum()} of {len(whole)} steps are spikes, up to {np.max(whole / base):.0f} times the median"
        return Finding(claim, f"{share:.1%}", band, result, why)


def running_median(values: Array) -> Array:
    """Median of each value's surroundings, (n,); beyond the ends the outermost value stands."""
    half = MEDIAN_WINDOW // 2
    padded = np.pad(values, half, mode="edge")
    medians: Array = np.median(sliding_window_view(padded, MEDIAN_WINDOW), axis=1)
    return medians


def _stretch(label: str, outcomes: Sequence[Outcome], *needed: str) -> Stretch | str:
    """The window of the run with a label, or why there is none: the columns needed must be finite all over it."""
    [outcome] = [each for each in outcomes if each.label == label]
    if outcome.record is None:
        return outcome.reason
    stretch = Stretch.of(outcome.record)
    first, last = outcome.record.config["measure"]["window"]
    if len(stretch.step) < max(MEDIAN_WINDOW, last - first + 1) or not np.isfinite(stretch.ratio).all():
        return "the window was not measured to its end"
    lacking = [name for name in needed if not np.isfinite(getattr(stretch, name)).all()]
    return f"{lacking[0].replace('_', ' ')} is not known at every step of the window" if lacking else stretch


def _lags(stretch: Stretch, R: Array, most: int) -> list[tuple[int, float]]:
    G, N = np.log(stretch.grad_norm), np.log(stretch.second_moment_norm)
    return [lag(R, G, most), lag(G, N, most), lag(np.diff(N), -np.diff(R), most)]


def is_ordered(lags: Sequence[tuple[int, float]], most: int) -> bool | None:
    """Whether lags are those of the order; None where one of them is not known, and none of the others wrong."""
    if any(correlation < LEAST_CORRELATION for _, correlation in lags):
        return False
    (gradient, _), (nu, _), (fall, _) = lags
    is_known = [abs(place) < most for place in (gradient, nu, fall)]
    is_right = [gradient > 0, nu > 0, fall >= 0]
    if any(known and not right for known, right in zip(is_known, is_right, strict=True)):
        return False
    return True if all(is_known) else None


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0
