"""What a study draws of its runs, as values: a row of charts a panel, a chart a series, a line a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tightrope.views import Chart, Line, fit

from .check import Outcome
from .grouping import Group, Window, groups, is_lone, rate_words, threshold_words, titled_series


class Panel(ABC):
    """What one row of a figure shows."""

    @abstractmethod
    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        """Its charts from left to right, of the runs of a study in the order of its grid."""


@dataclass(frozen=True)
class Quantity:
    """How a column is drawn.

    Attributes:
        title: Of its axis.
        is_log: Whether that is logarithmic.
        level: Column that it is held against, drawn dashed in the run's colour; "" for none.
        edge: Height of the edge; None for none.
        cuts_spikes: Whether early values far above the rest stay off the axis, marked at its top.
    """

    title: str
    is_log: bool = True
    level: str = ""
    edge: float | None = None
    cuts_spikes: bool = False


QUANTITIES = {
    "loss": Quantity("training loss", cuts_spikes=True),
    "ratio": Quantity("ratio", is_log=False, edge=1.0, cuts_spikes=True),
    "preconditioned_sharpness": Quantity("preconditioned sharpness", level="threshold", cuts_spikes=True),
    "sharpness": Quantity("sharpness"),
    "grad_norm": Quantity("gradient norm"),
    "second_moment_norm": Quantity("norm of nu"),
    "test_error": Quantity("test error", is_log=False),
}
"""What is known of columns; any other is drawn under its own name on a logarithmic axis."""
EDGE = "edge of stability"
"""What dashed lines are: a threshold on the preconditioned sharpness, 1 on the ratio."""
SHARED = ("loss", "ratio", "test_error")
"""Comparable from one series to the next: their charts share an axis."""


@dataclass(frozen=True)
class OverSteps(Panel):
    """A column of the runs' steps or measurements over the step; runs that differ in their seed alone are one line.

    Such a line is their mean, with a shade from the lowest to the highest. A threshold is dashed in the run's colour,
    a curve where it moves.

    Attributes:
        column: Its name in `STEP` or `MEASUREMENT`.
        window: First and last step to draw, or what gives them for a run; None for all.
        marks_crossings: Draw a dotted line where the ratio rises through 1.
    """

    column: str
    window: Window | None = None
    marks_crossings: bool = False

    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        found = titled_series(outcomes)
        made = [self._chart(name, group, is_alone=len(found) == 1) for name, group in found.items()]
        if len(found) > 1 and is_lone(outcomes):
            made = [replace(chart, lines=tuple(_unnamed(line, chart.title) for line in chart.lines)) for chart in made]
        quantity = self._quantity
        shares = self.column in SHARED and self.window is None
        return fit(made, is_shared=shares, cuts_spikes=quantity.cuts_spikes and self.window is None)

    @property
    def _quantity(self) -> Quantity:
        return QUANTITIES.get(self.column, Quantity(self.column.replace("_", " ")))

    def _chart(self, name: str, outcomes: Sequence[Outcome], *, is_alone: bool) -> Chart:
        quantity = self._quantity
        members = groups(outcomes)
        rest = tuple(note for group in members for note in self._notes(group))
        return Chart(
            lines=tuple(self._line(group) for group in members),
            y_title="" if is_alone else quantity.title,
            title=_titled(quantity.title if is_alone else name, outcomes, not is_alone or bool(quantity.level)),
            is_y_log=quantity.is_log,
            levels=() if quantity.edge is None else (quantity.edge,),
            level_name=EDGE,
            marks=tuple(step for group in members for step in self._crossings(group)),
            mark_name="the ratio rises through 1",
            notes=rest,
        )

    def _line(self, group: Group) -> Line:
        level = self._quantity.level
        x, y, band = group.course(self.column, self.window)
        if level and len(y):
            _, against, _ = group.course(level, self.window)
            return replace(group.line(x, y, band), level=_level(against) if len(against) == len(y) else None)
        return group.line(x, y, band)

    def _crossings(self, group: Group) -> list[float]:
        if not self.marks_crossings:
            return []
        step, ratio, _ = group.course("ratio", self.window)
        return list(step[1:][(ratio[:-1] < 1) & (ratio[1:] >= 1)])

    def _notes(self, group: Group) -> list[str]:
        is_lacking = bool(group.records) and not np.isfinite(group.course(self.column, self.window)[1]).any()
        return [f"{group.label}: {self._quantity.title} was not stored."] if is_lacking else []


@dataclass(frozen=True)
class TopEigenvalues(Panel):
    """The largest eigenvalues of the preconditioned Hessian over the step, with the threshold.

    Attributes:
        num: How many.
        window: As for `OverSteps`.
    """

    num: int = 4
    window: Window | None = None

    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        found = titled_series(outcomes)
        made = []
        for name, members in found.items():
            lines = tuple(line for group in groups(members) for line in self._lines(group))
            title = "top eigenvalues" if len(found) == 1 else name
            y_title = "" if len(found) == 1 else "top eigenvalues"
            made.append(Chart(lines, _titled(title, members, True), y_title=y_title, is_y_log=True, level_name=EDGE))
        return fit(made, cuts_spikes=self.window is None)

    def _lines(self, group: Group) -> list[Line]:
        x, threshold, _ = group.course("threshold", self.window)
        ratios = group.listed("ratios", self.num, self.window)
        if not len(x) or len(ratios) != len(x):
            return [group.line(np.zeros(0), np.zeros(0), None)]
        values = ratios * threshold[:, None]
        ranks = np.linspace(1, 0, self.num)
        lines = [Line(x, values[:, place], f"eigenvalue {place + 1}", rank=ranks[place]) for place in range(self.num)]
        return [replace(lines[0], level=_level(threshold)), *lines[1:]]


@dataclass(frozen=True)
class GradientSplit(Panel):
    """The squared norm of P^-1/2 g over the step: all of it, that along the top eigenvectors, and the rest.

    Attributes:
        window: As for `OverSteps`.
    """

    window: Window | None = None

    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        found = titled_series(outcomes)
        title = "squared norm of P^-1/2 g"
        made = []
        for name, members in found.items():
            lines = tuple(line for group in groups(members) for line in self._lines(group))
            is_alone = len(found) == 1
            made.append(Chart(lines, title if is_alone else name, y_title="" if is_alone else title, is_y_log=True))
        return fit(made)

    def _lines(self, group: Group) -> list[Line]:
        x, whole, _ = group.course("semi_gradient_sq", self.window)
        _, top, _ = group.course("semi_gradient_sq_top", self.window)
        if not len(x) or len(top) != len(x):
            return [group.line(np.zeros(0), np.zeros(0), None)]
        parts = {"all of it": whole, "along the top eigenvectors": top, "the rest": whole - top}
        return [Line(x, y, label, look=place) for place, (label, y) in enumerate(parts.items())]


@dataclass(frozen=True)
class Computed(Panel):
    """Charts that need no run.

    Attributes:
        compute: Gives them.
    """

    compute: Callable[[], list[Chart]]

    def charts(self, outcomes: Sequence[Outcome]) -> list[Chart]:
        return self.compute()


def _unnamed(line: Line, title: str) -> Line:
    """Without the label that its chart's title says already; one that says more stays."""
    return replace(line, label="") if not line.is_missing and line.label in title else line


def _titled(title: str, outcomes: Sequence[Outcome], has_threshold: bool) -> str:
    """With the learning rate they share, and their threshold in parentheses, as the paper writes it."""
    if not title or not has_threshold:
        return title
    threshold = threshold_words(outcomes)
    named = _with_rate(title, rate_words(outcomes))
    return f"{named} (threshold {threshold})" if threshold else named


def _with_rate(title: str, rate: str) -> str:
    """A title that says the rate already stays; "small lr" is continued."""
    if not rate or rate in title:
        return title
    return f"{title}, {rate.removeprefix('lr ') if title.endswith(' lr') else rate}"


def _level(values: np.ndarray) -> float | np.ndarray | None:
    """One number where a threshold stays what it is, else all of them."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return float(known[-1]) if np.ptp(known) <= 1e-3 * abs(known[-1]) else values
