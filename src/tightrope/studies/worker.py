"""A worker process: carries out one run after another on one thread, and stops when told to or left alone."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tightrope.errors import StoreError, TightropeError, one_line
from tightrope.store import CONFIG, RunRecord, RunWriter
from tightrope.training import Progress, RunConfig, from_mapping, resume, run

from .folder import StudyFolder, anew
from .study import Case

SECONDS_BETWEEN_REPORTS = 0.2
SECONDS_FOR_AN_ORPHAN = 60.0


@dataclass(frozen=True)
class Order:
    """A run to carry out: its directory, and its configuration as TOML."""

    path: str
    config: str


@dataclass(frozen=True)
class Report:
    """What a worker says of its run.

    Attributes:
        step: Steps taken.
        outcome: As a run's; "failed"; or "" while it goes on.
        words: Its verdict, or why it failed.
    """

    step: int
    outcome: str = ""
    words: str = ""


Tell = Callable[[Report], bool]
"""Takes a report; whether the run is to stop where it is. Raises OSError where nobody listens any more."""


def order_of(case: Case, folder: StudyFolder) -> Order:
    """The order that carries out a run of a study."""
    return Order(str(folder.run_path(case.key).resolve()), case.config.to_toml())


def work(pipe: Connection) -> None:
    """Carry out the orders that come through a pipe, one at a time, until there is none or nobody at its other end.

    Anything that comes while a run goes on means: stop it where it is.
    """
    import torch

    torch.set_num_threads(1)
    sys.stdout = sys.stderr  # what a user's optimizer prints is no answer of the command

    def tell(report: Report) -> bool:
        pipe.send(report)
        return pipe.poll()

    try:
        while (order := pipe.recv()) is not None:
            report = attempt(order, tell)
            pipe.send(report)
            if report.outcome == "interrupted":
                return
    except (EOFError, OSError):
        return  # the parent is gone; what the run stored can be taken up


def carry_out(path: Path, config: RunConfig, observe: Callable[[Progress], None] | None = None) -> RunRecord:
    """A run as it is to be: from its beginning, or from where it was stopped; one that ended is left as it is.

    Raises:
        ConfigError, DataError, StoreError: as `run` and `resume`.
    """
    if (path / CONFIG).exists():
        _wait_for_orphan(path)
        try:
            return resume(path, observe=observe)
        except StoreError as error:
            # A run of its own, elsewhere, would be none of the study's.
            raise StoreError(str(error).replace(f"tightrope run {path / CONFIG}", anew(path))) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    return run(config, out=path, observe=observe)


def _wait_for_orphan(path: Path) -> None:
    """A worker whose parent was killed lets go of its run at its next report, which may be some steps away."""
    end = time.monotonic() + SECONDS_FOR_AN_ORPHAN
    while RunWriter.is_held(path) and time.monotonic() < end:
        time.sleep(0.05)


def attempt(order: Order, tell: Tell) -> Report:
    """Carry out an order, saying now and then where it stands; whatever goes wrong is in the last report, on one line.

    Raises:
        SystemExit: nobody listens any more. What the run stored can be taken up.
    """
    reporter = _Reporter(tell)
    try:
        record = carry_out(Path(order.path), from_mapping(tomllib.loads(order.config)), reporter)
    except TightropeError as error:
        return Report(reporter.step, "failed", one_line(str(error)))
    except Exception as error:  # whatever it is: the other runs go on
        return Report(reporter.step, "failed", one_line(f"{type(error).__name__}: {error}"))
    return Report(len(record.steps["step"]), record.outcome, str(record.verdict.get("words", "")))


class _Reporter:
    """Says now and then where the run stands, and ends it when the parent asks for that or is gone."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.step, self.last = tell, 0, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self.step = progress.step
        if time.monotonic() - self.last < SECONDS_BETWEEN_REPORTS:
            return
        self.last = time.monotonic()
        try:
            is_to_stop = self.tell(Report(progress.step))
        except OSError:
            raise SystemExit from None  # not an Exception: this is no failure of the run
        if is_to_stop:
            raise KeyboardInterrupt
