"""`watch`: two lines in a training loop we do not own.

Nothing that goes wrong in here reaches the loop; whatever is found is printed once, stored and handed to the sinks.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tightrope.curvature import LossFn
from tightrope.errors import ConfigError, TightropeError, one_line
from tightrope.stability import Measurement

from .hooks import AFTER, BEFORE
from .sinks import Sink
from .tensorboard import ScalarWriter
from .watching import Watching

SWITCH = "TIGHTROPE"
MAX_FAILURES = 3
"""Of the same kind, after which the watcher switches itself off."""


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFn,
    *,
    probe: Any = None,
    budget: float = 0.03,
    every: int | None = None,
    run_dir: str | Path | None = None,
    clip_norm: float | None = None,
    sinks: Sequence[str | Sink | ScalarWriter] | None = (),
) -> Watcher:
    """Watch how far a training loop is from the edge of stability, without changing it.

    The loop calls `watcher.step(batch, loss)` once after `optimizer.step()`. The training is bit for bit what it is
    without; what cannot be measured is said once, and the loop goes on.

    Args:
        model: As it is trained, compiled or not.
        optimizer: Its optimizer; a wrapper of Accelerate or Lightning is looked through.
        loss_fn: (model, batch) -> scalar, the loss that is trained on.
        probe: The data to measure on: a batch, an iterable of batches, or how many examples of the first batches
            trained on to keep. They are kept on the CPU. Default each measured step's own batch.
        budget: Share of the process time that may be spent watching, above 0 and below 1. Cadence, probe size and
            products follow.
        every: Measure every so many steps instead, whatever that costs.
        run_dir: Directory for what is found; default a new one below runs/.
        clip_norm: The global norm that the loop clips gradients to, if it does.
        sinks: Where numbers and alerts go beside the run directory: "tensorboard", "wandb", "mlflow", "trackio", a
            SummaryWriter, `Sink` objects. An active run of W&B, MLflow or trackio gets them unasked; with None nobody.
    Returns:
        Watcher; switched off, with a line that says why, if anything here does not fit, or if the environment holds
        TIGHTROPE=0.
    Example:
        >>> import os, torch
        >>> os.environ["TIGHTROPE"] = "0"
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> watcher = watch(model, optimizer, lambda model, x: model(x).square().mean())
        >>> watcher.is_on
        False
    """
    watcher = Watcher()
    if os.environ.get(SWITCH) != "0":
        watcher._start(
            model,
            optimizer,
            loss_fn,
            probe=probe,
            budget=budget,
            every=every,
            run_dir=run_dir,
            clip_norm=clip_norm,
            sinks=sinks,
        )
    return watcher


class Watcher:
    """Watches one training loop; made by `watch`. Its methods never raise into the loop.

    Attributes:
        run_dir: Where it stores what it finds; None if it never started.
    """

    def __init__(self) -> None:
        self.run_dir: Path | None = None
        self._watching: Watching | None = None
        self._overhead = 0.0
        self._is_paused = self._is_over = False
        self._failures: dict[str, int] = {}
        self._process = os.getpid()

    @property
    def is_on(self) -> bool:
        """Whether it watches: it started, was not closed, and did not give up."""
        return self._watching is not None and not self._is_over

    @property
    def overhead(self) -> float:
        """Share of the process time since `watch` that was spent watching."""
        return self._watching.budget.overhead if self._watching else self._overhead

    def step(self, batch: Any = None, loss: Any = None) -> None:
        """Tell of one training step, after `optimizer.step()`.

        Args:
            batch: What the step was taken on; a list of micro-batches if gradients were accumulated over several.
                Needed where `watch` was given no probe.
            loss: Of the step, a tensor or a number; it is logged, and searched for what is not finite.
        """
        if self._is_over:
            self.close()
        if self._watching is None or self._is_paused or self._is_inherited:
            return
        if self._watching.is_told():
            with self._guarded("step"):
                self._watching.step(batch, loss)

    def measure(self, batch: Any = None) -> Measurement | None:
        """Measure now, whatever it costs; on the probe, or on this batch. None where that cannot be done."""
        found = None
        if self._watching is not None:
            with self._guarded("measure"):
                found = self._watching.measure_now(batch)
        return found

    def pause(self) -> Pause:
        """Stop watching, until `resume()` or, as `with watcher.pause():`, until the end of the block."""
        self._is_paused = True
        return Pause(self)

    def resume(self) -> None:
        """Watch again."""
        self._is_paused = False
        if self._watching is not None:
            self._watching.go_on()

    def close(self, *, has_failed: bool = False) -> None:
        """Take every hook away, store how the run ended, and let go of the model. Called again, it does nothing.

        Args:
            has_failed: It was said already why the watching ends; no word then on a run of which nothing was read.
        """
        watching, self._watching = self._watching, None
        atexit.unregister(self.close)
        if watching is not None:
            with watching.budget.visit(), self._reported("close"):
                if self._is_inherited:
                    watching.let_go()
                else:
                    watching.close(has_failed=has_failed or self._is_over)
            self._overhead = watching.budget.overhead

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, model: nn.Module, optimizer: Optimizer, loss_fn: LossFn, **settings: Any) -> None:
        with self._reported("watch"):
            self._watching = Watching(model, optimizer, loss_fn, say=say, **settings)
            self._watching.set_hooks(self._looks_at, self._guarded)
            self.run_dir = self._watching.journal.path
            atexit.register(self.close)

    @property
    def _is_inherited(self) -> bool:
        """Whether this is the copy of a process that forked: the run is the other's, and so is its directory."""
        return os.getpid() != self._process

    @contextmanager
    def _guarded(self, where: str) -> Iterator[None]:
        """What happens inside counts as spent; what goes wrong is told once, and again and again switches it off."""
        assert self._watching is not None
        with self._watching.budget.visit(), self._reported(where):
            yield

    def _looks_at(self, step: int) -> bool:
        if self._watching is None or self._is_paused or self._is_over or self._is_inherited:
            return False
        return self._watching.looks_at(step)

    @contextmanager
    def _reported(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._report(where, error)

    def _report(self, where: str, error: Exception) -> None:
        words = one_line(str(error) if isinstance(error, TightropeError) else f"{type(error).__name__}: {error}")
        words += "" if words.endswith((".", "?", "!")) else "."
        self._failures[words] = times = self._failures.get(words, 0) + 1
        is_over = isinstance(error, ConfigError) or where in ("watch", "close") or times >= MAX_FAILURES
        if times == 1 or is_over:
            say(f"{words} {'The run goes on unwatched.' if is_over else 'The run goes on.'}")
        self._is_over |= is_over
        if is_over and where not in (BEFORE, AFTER) and self._watching is not None:
            self.close()  # a hook cannot be taken away while torch goes through the hooks


class Pause:
    """A pause that ends with its block, if it is given one."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __enter__(self) -> None:
        return None

    def __exit__(self, *unused: object) -> None:
        self._watcher.resume()


def say(words: str) -> None:
    """One line for the person at the terminal; on stderr, so that a program's own output stays its own."""
    with suppress(OSError, ValueError):  # nobody is listening
        print(f"tightrope: {words}", file=sys.stderr, flush=True)
