"""A grid of runs: what is known of each while it is carried out, wherever that is, and who is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .folder import StudyFolder
from .study import Case
from .worker import Report

MOST_DEATHS = 3
"""A run whose worker died so often counts as failed: it is the run that kills it."""
SECONDS_TO_STOP = 30.0
"""A worker that was asked to stop and did not by then is ended; its run can be taken up all the same."""

Observer = Callable[["GridProgress"], None]
Schedule = Callable[["Grid", list[Case]], bool]
"""Carries out runs until all have ended, telling the grid; whether that was interrupted."""


@dataclass(frozen=True)
class GridProgress:
    """Where a grid stands, handed to an observer whenever that changes.

    Attributes:
        num_runs, num_ended, num_failed: Runs in all; of these ended or failed; of these failed.
        step, num_steps: Steps of all runs together, taken and in all.
        seconds_left: At the pace so far; None before there is one.
        case, report: The run that has just ended, and what was said of it; None at a report in between.
    """

    num_runs: int
    num_ended: int
    num_failed: int
    step: int
    num_steps: int
    seconds_left: float | None
    case: Case | None = None
    report: Report | None = None


@dataclass(frozen=True)
class Execution:
    """How a grid was carried out.

    Attributes:
        num_runs: Different runs asked for.
        num_found: That were there already.
        failures: Why, by label, of those that failed.
        is_interrupted: Whether it was stopped before its end.
        seconds: It took.
    """

    num_runs: int
    num_found: int
    failures: dict[str, str]
    is_interrupted: bool
    seconds: float


@dataclass
class Grid:
    """What is known of all runs, and who is told."""

    folder: StudyFolder
    cases: list[Case]
    steps: dict[str, int]
    ended: set[str]
    observe: Observer | None
    failures: dict[str, str] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    first: tuple[int, float] | None = None

    def take(self, case: Case, report: Report) -> None:
        """Note what a worker says, and pass it on."""
        self.steps[case.key] = report.step
        is_over = bool(report.outcome) and report.outcome != "interrupted"
        if is_over:
            self.ended.add(case.key)
        if report.outcome == "failed":
            self.failures[case.label] = report.words
            self.folder.note_failure(case, report.words)
        if self.observe is not None:
            self.observe(self._progress(case if is_over else None, report if is_over else None))

    def may_try_again(self, case: Case, how: str) -> bool:
        """Note that a run's worker died; one that has cost too many counts as failed."""
        self.deaths[case.key] += 1
        if self.deaths[case.key] < MOST_DEATHS:
            return True
        words = f"its worker died {MOST_DEATHS} times, the last time {how}; what it stored can be taken up"
        self.take(case, Report(self.steps[case.key], "failed", words))
        return False

    def _progress(self, case: Case | None, report: Report | None) -> GridProgress:
        step = sum(self.steps.values())
        # A run that ended early has no steps left.
        total = sum(self.steps[each.key] if each.key in self.ended else each.config.num_steps for each in self.cases)
        # Counted from the first report: until then processes were only starting.
        self.first = (step, time.monotonic()) if self.first is None else self.first
        pace = (step - self.first[0]) / max(time.monotonic() - self.first[1], 1e-9)
        left = (total - step) / pace if pace > 0 else None
        return GridProgress(len(self.cases), len(self.ended), len(self.failures), step, total, left, case, report)


def carried_out(cases: Iterable[Case], folder: StudyFolder, observe: Observer | None, schedule: Schedule) -> Execution:
    """Runs carried out by a schedule, those that ended before left out."""
    began = time.monotonic()
    different = list({case.key: case for case in cases}.values())
    states = {case.key: folder.state(case) for case in different}
    spoilt = [case for case in different if states[case.key].is_spoilt]
    waiting = [case for case in different if states[case.key].state != "done" and case not in spoilt]
    for case in waiting:
        folder.forget_failure(case)
    found = {case.key for case in different} - {case.key for case in (*waiting, *spoilt)}
    grid = Grid(folder, different, {key: state.step for key, state in states.items()}, set(found), observe)
    for case in spoilt:
        grid.take(case, Report(states[case.key].step, "failed", states[case.key].reason))
    is_interrupted = schedule(grid, waiting)
    return Execution(len(different), len(found), grid.failures, is_interrupted, time.monotonic() - began)
