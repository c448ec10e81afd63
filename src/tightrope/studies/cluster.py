"""A Ray cluster that carries out runs: one task a run, on one core, in a folder that every node sees."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import torch

from tightrope.errors import StoreError

from .folder import StudyFolder
from .grid import SECONDS_TO_STOP, Grid
from .study import Case
from .worker import Order, Report, attempt, order_of

SECONDS_BETWEEN_LOOKS = 0.3


class Cluster:
    """A connection to Ray; made by `connected`.

    Attributes:
        num_workers: Runs at a time.
    """

    def __init__(self, ray: Any, num_workers: int | None) -> None:
        self.ray = ray
        self.num_workers = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def carry_out(self, grid: Grid, waiting: list[Case]) -> bool:
        """Hand the runs to tasks until all have ended; whether that was interrupted.

        A run whose worker or node dies is taken up by another task. Ctrl-C stops every run where it is.

        Raises:
            StoreError: a node does not see the folder.
        """
        if not waiting:
            return False
        self._check_folder(grid.folder)
        board = self.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
        queue, running = deque(waiting), dict[Any, Case]()
        try:
            while queue or running:
                while queue and len(running) < self.num_workers:
                    case = queue.popleft()
                    running[self._started(case, grid.folder, board)] = case
                done, _ = self.ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
                by_key = {case.key: case for case in running.values()}
                for key, report in self.ray.get(board.take.remote()).items():
                    if key in by_key:
                        grid.take(by_key[key], report)
                for ref in done:
                    self._end(ref, running.pop(ref), queue, grid)
        except KeyboardInterrupt:
            return True
        finally:
            self._stop(list(running), board)
        return False

    def _started(self, case: Case, folder: StudyFolder, board: Any) -> Any:
        task = self.ray.remote(num_cpus=1, max_retries=0)(carry_out_order)
        return task.options(name=case.label).remote(order_of(case, folder), case.key, os.getcwd(), board)

    def _end(self, ref: Any, case: Case, queue: deque[Case], grid: Grid) -> None:
        """Note how a task ended; a run whose worker died is put back into the queue, unless it has cost too many."""
        try:
            report: Report = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            grid.take(case, Report(grid.steps[case.key], "failed", last_line(error)))
        except self.ray.exceptions.RayError as error:
            if grid.may_try_again(case, f"with {type(error).__name__}"):
                queue.append(case)
        else:
            grid.take(case, report)

    def _stop(self, running: list[Any], board: Any) -> None:
        if not running:
            return
        board.stop.remote()
        _, deaf = self.ray.wait(running, num_returns=len(running), timeout=SECONDS_TO_STOP)
        for ref in deaf:
            self.ray.cancel(ref, force=True)

    def _check_folder(self, folder: StudyFolder) -> None:
        """Raise unless every node sees a file that is written into the folder now."""
        token = folder.path.resolve() / f"seen-by-{uuid.uuid4().hex}"
        try:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
            blind = self._blind_to(token)
        except self.ray.exceptions.RayError as error:
            raise StoreError(f"study: every node must be able to run tightrope; {last_line(error)}.") from error
        except OSError as error:
            raise StoreError(f"study: {folder.path} must be writable; {error.strerror}. Choose another.") from error
        finally:
            token.unlink(missing_ok=True)
        if blind:
            raise StoreError(
                f"study: {token.parent} must be a folder that every node of the cluster sees; {', '.join(blind)} does "
                "not. Choose an --out on a shared disk."
            )

    def _blind_to(self, token: Path) -> list[str]:
        """Addresses of the nodes that do not see a file."""
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        look = self.ray.remote(num_cpus=0, max_retries=1)(sees)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in self.ray.nodes() if node["Alive"]}
        answers = [look.options(scheduling_strategy=strategy(name, soft=False)).remote(str(token)) for name in nodes]
        return [where for where, seen in zip(nodes.values(), self.ray.get(answers), strict=True) if not seen]


class Board:
    """An actor between the tasks and who started them: their latest reports one way, the wish to stop the other."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self.is_stopping = False

    def tell(self, key: str, report: Report) -> bool:
        """Keep a run's report; whether the run is to stop."""
        self.reports[key] = report
        return self.is_stopping

    def take(self) -> dict[str, Report]:
        """The reports since the last time."""
        reports, self.reports = self.reports, {}
        return reports

    def stop(self) -> None:
        """Let every run stop at its next report."""
        self.is_stopping = True


def carry_out_order(order: Order, key: str, folder: str, board: Any) -> Report:
    """What a task does: a run on one thread, in the working directory of who asked for it, where there is one."""
    import ray

    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        os.chdir(folder)

    def tell(report: Report) -> bool:
        try:
            return bool(ray.get(board.tell.remote(key, report)))
        except ray.exceptions.RayError as error:
            raise ConnectionError from error

    return attempt(order, tell)


def sees(path: str) -> bool:
    """Whether there is such a file here."""
    return Path(path).is_file()


def last_line(error: BaseException) -> str:
    """What an error of Ray says at last, below the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
