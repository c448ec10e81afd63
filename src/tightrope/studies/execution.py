"""Carry out the runs of studies in worker processes: each once, each resumable, none stopping the others."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from tightrope.errors import check_count

from .folder import StudyFolder
from .study import Case
from .worker import Order, Report, work

MOST_DEATHS = 3
"""A run whose worker died so often counts as failed: it is the run that kills it."""
SECONDS_TO_STOP = 30.0
"""A worker that was asked to stop and did not by then is ended; its run can be taken up all the same."""

Observer = Callable[["GridProgress"], None]


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


def execute(
    cases: Iterable[Case], folder: StudyFolder, *, num_workers: int = 1, observe: Observer | None = None
) -> Execution:
    """Carry out runs, those that ended before left out, and record why any of them fails.

    Killed at any moment and called again it goes on from the runs' checkpoints, with the same numbers bit for bit.
    A worker that dies is replaced and its run taken up; Ctrl-C stops every run cleanly. Its workers import the main
    module anew, so a script calls it below `if __name__ == "__main__":`.

    Args:
        cases: The runs; those with equal configurations count once.
        folder: Where they are stored.
        num_workers: Processes, with one thread each.
        observe: Told of progress; it only reads.
    Raises:
        ConfigError: there is no worker.
        StoreError: the folder cannot be written.
    """
    check_count("-j:", num_workers)
    began = time.monotonic()
    different = list({case.key: case for case in cases}.values())
    states = {case.key: folder.state(case) for case in different}
    waiting = [case for case in different if states[case.key].state != "done"]
    for case in waiting:
        folder.forget_failure(case)
    found = {case.key for case in different} - {case.key for case in waiting}
    grid = _Grid(folder, different, {key: state.step for key, state in states.items()}, set(found), observe)
    is_interrupted = _carry_out(grid, waiting, num_workers)
    return Execution(len(different), len(found), grid.failures, is_interrupted, time.monotonic() - began)


def check_problems(cases: Iterable[Case]) -> None:
    """Raise where a run's data is missing or damaged, before anything is written; builds each different problem once.

    Raises:
        ConfigError, DataError: as building a problem does.
    """
    for config in {repr(case.config.problem): case.config for case in cases}.values():
        config.problem.build(config.seed, getattr(torch, config.dtype))


def _carry_out(grid: _Grid, waiting: list[Case], num_workers: int) -> bool:
    """Hand the runs to workers until all have ended; whether that was interrupted."""
    queue, deaths = deque(waiting), dict.fromkeys((case.key for case in waiting), 0)
    workers: dict[Connection, _Worker] = {}
    try:
        while queue or workers:
            while queue and len(workers) < num_workers:
                worker = _Worker.started(queue.popleft(), grid.folder)
                workers[worker.pipe] = worker
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                worker = workers[pipe]
                try:
                    report: Report = pipe.recv()
                except (EOFError, OSError):
                    del workers[pipe]
                    _replace(worker, queue, deaths, grid)
                    continue
                grid.take(worker.case, report)
                if report.outcome and not worker.goes_on(queue, grid.folder):
                    del workers[pipe]
    except KeyboardInterrupt:
        return True
    finally:
        for worker in workers.values():
            worker.ask_to_stop()
        for worker in workers.values():
            worker.end()
    return False


def _replace(worker: _Worker, queue: deque[Case], deaths: dict[str, int], grid: _Grid) -> None:
    """Put the run of a worker that died back into the queue, unless it has cost too many."""
    case, how = worker.case, worker.end()
    deaths[case.key] += 1
    if deaths[case.key] < MOST_DEATHS:
        queue.append(case)
        return
    words = f"its worker died {MOST_DEATHS} times, the last time {how}; what it stored can be taken up"
    grid.take(case, Report(grid.steps[case.key], "failed", words))


class _Worker:
    """A process and the run it is at."""

    def __init__(self, process: BaseProcess, pipe: Connection, case: Case) -> None:
        self.process, self.pipe, self.case = process, pipe, case

    @classmethod
    def started(cls, case: Case, folder: StudyFolder) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,), daemon=True)
        with _deaf_to_interrupts():
            process.start()
        theirs.close()  # or the worker's death would not end the pipe
        worker = cls(process, ours, case)
        worker._order(case, folder)
        return worker

    def goes_on(self, queue: deque[Case], folder: StudyFolder) -> bool:
        """Give it the next run; without one it ends, and False is returned."""
        if not queue:
            self._send(None)
            self.end()
            return False
        self.case = queue.popleft()
        self._order(self.case, folder)
        return True

    def ask_to_stop(self) -> None:
        self._send(None)

    def end(self) -> str:
        """Wait for its end, and say how it came."""
        self.process.join(SECONDS_TO_STOP)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        code = self.process.exitcode or 0
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def _order(self, case: Case, folder: StudyFolder) -> None:
        self._send(Order(str(folder.run_path(case.key)), case.config.to_toml()))

    def _send(self, order: Order | None) -> None:
        try:
            self.pipe.send(order)
        except OSError:
            return  # it died; reading from it will tell


@dataclass
class _Grid:
    """What is known of all runs, and who is told."""

    folder: StudyFolder
    cases: list[Case]
    steps: dict[str, int]
    ended: set[str]
    observe: Observer | None
    failures: dict[str, str] = field(default_factory=dict)
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

    def _progress(self, case: Case | None, report: Report | None) -> GridProgress:
        step = sum(self.steps.values())
        # A run that ended early has no steps left.
        total = sum(self.steps[each.key] if each.key in self.ended else each.config.num_steps for each in self.cases)
        # Counted from the first report: until then processes were only starting.
        self.first = (step, time.monotonic()) if self.first is None else self.first
        pace = (step - self.first[0]) / max(time.monotonic() - self.first[1], 1e-9)
        left = (total - step) / pace if pace > 0 else None
        return GridProgress(len(self.cases), len(self.ended), len(self.failures), step, total, left, case, report)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, which a terminal sends to all: their parent tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
