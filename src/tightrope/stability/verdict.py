"""Verdicts: what the numbers support, in words. Being at the edge is normal; growth beyond it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .measurement import Measurement

EDGE_BAND = (0.9, 1.2)
"""Ratios called "at the edge": healthy runs without heavy ball momentum hover a little above 1, not below it
(Cohen et al. 2022, Appendix C)."""
STAYS = (0.7, 1.5)
"""Within these nine tenths of a plateau's ratios lie if a run is said to stay at its edge."""
NUM_TO_STAY = 5
"""Measurements a plateau needs for that."""
LATE_SHARE = 0.2
"""The last part of a plateau: a run that lies below `STAYS` all through it has left its edge, as where the learning
rate decays to zero."""
NUM_EARLY_STEPS = 10
"""Steps during which an adaptive ratio means nothing: P is still near its floor on many coordinates."""


@dataclass(frozen=True)
class Verdict:
    """A name from `too early to say`, `stable`, `at the edge`, `unstable`, `undecided`, and one sentence."""

    name: str
    words: str


def verdict(measurement: Measurement, step: int, *, is_adaptive: bool = True) -> Verdict:
    """What one measurement supports; a name other than `undecided` holds at both ends of ratio +- residual.

    Args:
        measurement: Of this step.
        step: 1 for the first.
        is_adaptive: Whether P is still filling up in the first steps.
    """
    if not measurement.has_ratio:
        return Verdict("undecided", f"No ratio: {measurement.reason}")
    number = _number(measurement)
    if is_adaptive and step <= NUM_EARLY_STEPS:
        return Verdict("too early to say", f"{number}, but the preconditioner has seen only {step} gradients.")
    name = _band(*measurement.bounds)
    if name == "stable":
        return Verdict(name, f"{number}: {_room(measurement)}.")
    if name == "at the edge":
        return Verdict(name, f"{number}: curvature and step size are in balance, as in most healthy runs.")
    if name == "unstable":
        return beyond(measurement)
    return Verdict(name, f"{number}: the bounds reach across a border; more products would decide.")


def beyond(measurement: Measurement) -> Verdict:
    """`unstable`, with what the frozen method grows by."""
    growth = f" {measurement.growth:.3g} times a step" if measurement.growth else ""
    words = f"{_number(measurement)}: along the sharpest direction the frozen method grows{growth}."
    return Verdict("unstable", words)


def _number(measurement: Measurement) -> str:
    condition = f" with {measurement.condition}" if measurement.condition else ""
    return f"ratio {measurement.ratio:.3g} +- {measurement.residual:.1g}{condition}"


def _room(measurement: Measurement) -> str:
    """What a ratio below the edge leaves; negative curvature is told apart, it is not the edge."""
    if measurement.threshold == float("inf"):
        return "the learning rate is 0, so nothing moves"
    if measurement.ratio >= 0 and measurement.condition:
        return "short of the edge"  # how far the curvature could grow depends on what the condition holds fixed
    if measurement.ratio > 0:
        return f"the curvature could grow {1 / measurement.ratio:.3g} times before the edge"
    if measurement.growth is not None and measurement.growth > 1:
        return f"no positive curvature; the run leaves a saddle, {measurement.growth:.3g} times a step, not an edge"
    return "no positive curvature, so no edge is near"


def band(ratio: float) -> str:
    """The name of the band that holds a ratio."""
    return "stable" if ratio < EDGE_BAND[0] else "unstable" if ratio > EDGE_BAND[1] else "at the edge"


def _band(low: float, high: float) -> str:
    """The band that holds both bounds, or `undecided`."""
    if low != low or high != high:
        return "undecided"
    return band(low) if band(low) == band(high) else "undecided"


@dataclass(frozen=True)
class RunVerdict:
    """What a whole run supports.

    Attributes:
        name: As a verdict's.
        words: One or two sentences with the numbers.
        first_step: First measured step with ratio above 0.9 past the early ones, after falling back from an even
            higher start if there was one; None if there is none.
        plateau_start, plateau_stop: The plateau, the second half of the steps from there on.
        median, low, high: Of the ratio over the plateau: median, 5th and 95th percentile.
        residual: Median residual over the plateau.
        num_measurements: On the plateau.
    """

    name: str
    words: str
    first_step: int | None = None
    plateau_start: int | None = None
    plateau_stop: int | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    residual: float | None = None
    num_measurements: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict, as they are stored."""
        return asdict(self)


def run_verdict(
    method: str,
    steps: Sequence[int],
    measurements: Sequence[Measurement],
    *,
    is_adaptive: bool = True,
    is_diverged: bool = False,
    is_growing: bool = False,
) -> RunVerdict:
    """Did the run reach its edge and stay: judged on the median of the plateau, both ends of its residual.

    Args:
        method: Name of the method, for the sentence.
        steps: Step of each measurement.
        measurements: In order.
        is_adaptive: Leave out the first steps, while the preconditioner fills up.
        is_diverged: The run ended because its loss left all bounds.
        is_growing: The run ended in growth that has persisted, see `Persistence`.
    """
    seen = [(step, m) for step, m in zip(steps, measurements, strict=True) if m.has_ratio]
    if is_diverged:
        return RunVerdict("unstable", f"{method} diverged{_last_seen(seen)}.")
    if is_growing:
        return RunVerdict("unstable", f"{method} is beyond its edge and grows{_last_seen(seen)}.")
    if not seen:
        why = f": {measurements[-1].reason}" if measurements else "."
        return RunVerdict("undecided", f"{method} was not measured{why}")
    late = [(step, m) for step, m in seen if step > NUM_EARLY_STEPS or not is_adaptive]
    if not late:
        return RunVerdict("too early to say", f"{method} has no measurement past its first {NUM_EARLY_STEPS} steps.")
    first_step = _arrival(late)
    if first_step is None:
        return _short_of_the_edge(method, late)
    return _plateau_verdict(method, first_step, [pair for pair in late if pair[0] >= first_step])


def _arrival(late: list[tuple[int, Measurement]]) -> int | None:
    """The step at which a run came to its edge; one that began above it and was thrown back first arrives later."""
    at_edge = [step for step, m in late if m.ratio >= EDGE_BAND[0]]
    if not at_edge or late[0][0] != at_edge[0]:
        return at_edge[0] if at_edge else None
    fell = next((step for step, m in late if m.ratio < EDGE_BAND[0]), late[-1][0])
    return next((step for step in at_edge if step > fell), at_edge[0])


def _last_seen(seen: list[tuple[int, Measurement]]) -> str:
    if not seen:
        return ""
    step, last = seen[-1]
    words = f"; the last ratio measured is {last.ratio:.3g}, at step {step}"
    if last.ratio >= EDGE_BAND[0]:
        return words
    return f"{words}, which is below the edge: it left between two measurements, or along negative curvature"


def _short_of_the_edge(method: str, late: list[tuple[int, Measurement]]) -> RunVerdict:
    top_step, top = max(late, key=lambda pair: pair[1].bounds[1])
    number = f"{top.ratio:.3g} +- {top.residual:.1g}, at step {top_step}"
    if top.bounds[1] < EDGE_BAND[0]:
        return RunVerdict("stable", f"{method} stayed short of its edge: the highest ratio is {number}.")
    return RunVerdict(
        "undecided", f"{method} may or may not have reached its edge: the ratio {number}, is not sure enough."
    )


def _plateau_verdict(method: str, first_step: int, late: list[tuple[int, Measurement]]) -> RunVerdict:
    last_step = late[-1][0]
    plateau = [(step, m) for step, m in late if step >= (first_step + last_step) / 2]
    ratios = np.array([m.ratio for _, m in plateau])
    low, median, high = (float(q) for q in np.quantile(ratios, [0.05, 0.5, 0.95]))
    residual = float(np.median([m.residual for _, m in plateau]))
    lower, upper = (float(np.median(ends)) for ends in zip(*(m.bounds for _, m in plateau), strict=True))
    name, left = _band(lower, upper), ""
    if name == "unstable" and not _stays_beyond(late):
        name = "undecided"
    if name == "at the edge" and _has_left(plateau):
        name, left = "stable", f"; {plateau[-1][1].ratio:.2g} at the end"
    numbers = (
        f"over steps {plateau[0][0]} to {last_step} the median ratio is {median:.3f} +- {residual:.1g} "
        f"({low:.2f} to {high:.2f}){left}"
    )
    stays = len(plateau) >= NUM_TO_STAY and STAYS[0] <= low and high <= STAYS[1]
    words = {
        "at the edge": f"{method} reached its edge of stability at step {first_step}"
        + (f" and stays there: {numbers}." if stays else f"; {numbers}."),
        "stable": f"{method} touched its edge at step {first_step} and fell back below it: {numbers}.",
        "unstable": f"{method} is beyond its edge: {numbers}.",
        "undecided": f"{method} came near its edge at step {first_step}, {_doubt(lower)}: {numbers}.",
    }[name]
    return RunVerdict(name, words, first_step, plateau[0][0], last_step, median, low, high, residual, len(plateau))


def _has_left(plateau: list[tuple[int, Measurement]]) -> bool:
    """Whether a run lies well below its edge at the end of its plateau, in more than one measurement."""
    first, last = plateau[0][0], plateau[-1][0]
    late = [m for step, m in plateau if step >= last - LATE_SHARE * (last - first)]
    return len(late) > 1 and all(m.bounds[1] < STAYS[0] for m in late)


def _stays_beyond(late: list[tuple[int, Measurement]]) -> bool:
    """Whether two measurements in a row lie beyond the edge; a single one may be a moment's."""
    beyond = [m.bounds[0] > EDGE_BAND[1] for _, m in late]
    return any(both == (True, True) for both in pairwise(beyond))


def _doubt(lower: float) -> str:
    """Why a plateau is undecided."""
    return "on the border of a band" if lower <= EDGE_BAND[1] else "beyond it for no two measurements in a row"
