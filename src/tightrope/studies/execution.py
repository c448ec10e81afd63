"""Carry out the runs of studies in worker processes: each once, each resumable, none stopping the others."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from msgspec.structs import replace

from tightrope.errors import check_count
from tightrope.training import RunConfig, build_problem

from .cluster import Cluster
from .folder import StudyFolder
from .grid import SECONDS_TO_STOP, Execution, Grid, Observer, carried_out
from .study import Case
from .worker import Order, Report, order_of, work


def execute(
    cases: Iterable[Case],
    folder: StudyFolder,
    *,
    num_workers: int = 1,
    observe: Observer | None = None,
    cluster: Cluster | None = None,
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
        cluster: Where to carry them out instead; see `connected`.
    Raises:
        ConfigError: there is no worker.
        StoreError: the folder cannot be written, or a node of the cluster does not see it.
    """
    check_count("-j:", num_workers)
    schedule = partial(_carry_out, num_workers=num_workers) if cluster is None else cluster.carry_out
    return carried_out(cases, folder, observe, schedule)


def check_problems(cases: Iterable[Case], *, device: str | None = None) -> None:
    """Raise where a run could not begin, before anything is written; builds each different problem once.

    Args:
        cases: Of studies.
        device: Where to build them all; None for where each run is to be. The machines of a cluster have devices that
            this one may lack.
    Raises:
        ConfigError, DataError: as `build_problem`, for one of the runs.
    """
    configs = [case.config if device is None else replace(case.config, device=device) for case in cases]
    for config in {_ground(config): config for config in configs}.values():
        build_problem(config)


def _ground(config: RunConfig) -> tuple[str, ...]:
    """What decides whether a run could begin; whether data is there is the same for all seeds."""
    return tuple(repr(part) for part in (config.problem, config.dtype, config.device, config.batch_size, config.sam))


def _carry_out(grid: Grid, waiting: list[Case], num_workers: int) -> bool:
    """Hand the runs to workers until all have ended; whether that was interrupted."""
    queue = deque(waiting)
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
                    if grid.may_try_again(worker.case, worker.end()):
                        queue.append(worker.case)
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
        self._send(order_of(case, folder))

    def _send(self, order: Order | None) -> None:
        try:
            self.pipe.send(order)
        except OSError:
            return  # it died; reading from it will tell


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
