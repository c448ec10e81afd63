"""Weights & Biases, MLflow and trackio as sinks.

Numbers go to the run that is active in the process at that moment; it is neither started nor finished here, and its
owner's steps stay what they are. Where none is active, a tracker that was asked for gets a run of its own with the
first number, which does not become the active one. No tracker is imported before.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any

from .sinks import SPACE, Sink, spaced

OFFLINE = ("offline", "disabled", "dryrun")
"""Modes of W&B in which nobody need be logged in."""
LONGEST_TITLE = 63
"""Letters that W&B takes."""


class CurrentRun:
    """The run of a tracker that numbers go to.

    Args:
        run_dir: Of the watched run if a run of our own may be started, else None.
        active: The run that is active in the process, or None.
        start: Starts a run of our own, named after the directory.
    Attributes:
        own: The run of our own, once it was started.
    """

    def __init__(self, run_dir: Path | None, active: Callable[[], Any], start: Callable[[Path], Any]) -> None:
        self.own: Any = None
        self._run_dir, self._active, self._start = run_dir, active, start

    def get(self) -> Any:
        """The run, or None."""
        if self.own is None:
            active = self._active()
            if active is not None or self._run_dir is None:
                return active
            self.own = self._start(self._run_dir)
        return self.own

    def release(self) -> Any:
        """The run of our own, for its end, or None; there will be no other."""
        own, self.own, self._run_dir = self.own, None, None
        return own

    def named(self, tracker: str) -> str:
        """The tracker's name as long as there is a run, or may be."""
        if self.own is None and self._active() is not None:
            return f"the active run of {tracker}"
        return "" if self._run_dir is None else tracker


class WandB(Sink):
    """Rows of a run of Weights & Biases, over an x axis of their own, and its alerts.

    In a run that is not ours the numbers are put into its owner's open row, or the next one: to write a row would count
    one of the owner's steps. Of several readings within one row it holds the last.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._current = CurrentRun(run_dir, lambda: getattr(sys.modules.get("wandb"), "run", None), _start_wandb)
        self._prepared = ""

    @property
    def name(self) -> str:
        return self._current.named("wandb")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        run = self._current.get()
        if run is None:
            return
        if run.id != self._prepared:
            run.define_metric(f"{SPACE}/*", step_metric=f"{SPACE}/step")
            self._prepared = run.id
        row = spaced({**numbers, "step": step})
        if run is self._current.own:
            run.log(row, step=step, commit=True)
        else:
            run.log(row, commit=False)

    def alert(self, step: int, title: str, words: str) -> None:
        run = self._current.get()
        if run is not None:
            run.alert(title=title[:LONGEST_TITLE], text=f"step {step:,}: {words}", level="WARN")

    def close(self) -> None:
        own = self._current.release()
        if own is not None:
            own.finish()


def _start_wandb(run_dir: Path) -> Any:
    wandb = import_module("wandb")
    # Without an account it would ask for one at the terminal, and the loop would wait for the answer.
    is_known = wandb.setup().settings.mode in OFFLINE or wandb.login(prompt=False)
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", SPACE),
        name=run_dir.name,
        config={"run_dir": str(run_dir)},
        mode=None if is_known else "offline",
        reinit="create_new",  # leaves `wandb.run` as it is
        settings=wandb.Settings(console="off", x_disable_stats=True),
    )


class MLflow(Sink):
    """Metrics of a run of MLflow; alerts are its tags, for it knows no alerts."""

    def __init__(self, run_dir: Path | None) -> None:
        self._current = CurrentRun(run_dir, _active_mlflow, _start_mlflow)

    @property
    def name(self) -> str:
        return self._current.named("mlflow")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        run = self._current.get()
        if run is not None:
            metric, now = import_module("mlflow.entities").Metric, int(1000 * time.time())
            metrics = [metric(key, value, now, step) for key, value in spaced(numbers).items()]
            _mlflow_client().log_batch(run.info.run_id, metrics=metrics)

    def alert(self, step: int, title: str, words: str) -> None:
        run = self._current.get()
        if run is not None:
            key = re.sub(r"[^\w .-]", "", f"{SPACE} alert {step} {title}")
            _mlflow_client().set_tag(run.info.run_id, key, words)

    def close(self) -> None:
        own = self._current.release()
        if own is not None:
            _mlflow_client().set_terminated(own.info.run_id)


def _active_mlflow() -> Any:
    active_run = getattr(sys.modules.get("mlflow"), "active_run", None)
    return active_run() if active_run is not None else None


def _mlflow_client() -> Any:
    return import_module("mlflow").MlflowClient()


def _start_mlflow(run_dir: Path) -> Any:
    """By the client: what `mlflow.start_run` starts becomes the active run."""
    client, name = _mlflow_client(), os.environ.get("MLFLOW_EXPERIMENT_NAME", SPACE)
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    return client.create_run(number, run_name=run_dir.name, tags={f"{SPACE}/run_dir": str(run_dir)})


class Trackio(Sink):
    """Rows and alerts of a run of trackio.

    In a run that is not ours the rows stand at its owner's latest step, with the optimizer's among the numbers.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._current = CurrentRun(run_dir, _active_trackio, _start_trackio)

    @property
    def name(self) -> str:
        return self._current.named("trackio")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        run = self._current.get()
        if run is None:
            return
        row = spaced({**numbers, "step": step})
        if run is self._current.own:
            run.log(row, step=step)
        else:
            next_step = run._next_step  # it offers no way to write a row without counting a step
            run.log(row, step=max(0, next_step - 1))
            run._next_step = next_step

    def alert(self, step: int, title: str, words: str) -> None:
        run = self._current.get()
        if run is not None:
            run.alert(title=title, text=words, step=step)

    def close(self) -> None:
        own = self._current.release()
        if own is not None:
            own.finish()


def _active_trackio() -> Any:
    current_run = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
    return current_run.get() if current_run is not None else None


def _start_trackio(run_dir: Path) -> Any:
    trackio = import_module("trackio")
    return copy_context().run(  # what it makes the active run is so in the copy only
        trackio.init,
        os.environ.get("TRACKIO_PROJECT", SPACE),
        name=run_dir.name,
        config={"run_dir": str(run_dir)},
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
