"""The watching itself: what is taken of each step, and what is stored and said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tightrope.curvature import LossFn, observing
from tightrope.errors import ConfigError, ShapeError, check_number
from tightrope.optim import freeze
from tightrope.stability import Measurement, run_verdict

from .hooks import Captured, Guard, StepHooks, moved
from .journal import Journal
from .probe_set import ProbeSet, fingerprint, generators_kept, micro_batches
from .reading import Reader, Reading
from .schedule import MOST_PRODUCTS, Schedule, tried
from .sinks import Sink
from .step_log import NotFinite, StepLog

RTOL = 0.02
"""Of the eigensolves: their values are closer than their residuals by far."""
STEPS_TO_SETTLE = 10
"""Before anything is timed: the first steps of a loop are slow for reasons of their own."""

SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "nu")
"""As optimizers call them in their state."""


class Watching:
    """A loop under watch. Raises like any library code; `Watcher` sees to it that nothing reaches the loop."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFn,
        *,
        say: Callable[[str], None],
        probe: Any,
        budget: float,
        every: int | None,
        run_dir: str | Path | None,
        clip_norm: float | None,
        sinks: Sequence[Sink],
    ) -> None:
        self.model, self.loss_fn, self.optimizer = model, loss_fn, unwrapped(optimizer)
        self.names = {id(w): name for name, w in model.named_parameters()}
        self._check_ownership()
        frozen = freeze(self.optimizer)
        if frozen.status == "no_threshold":
            raise ConfigError(f"watch: {frozen.reason}")
        with observing(model), generators_kept(probe):  # reading an iterable may draw random numbers
            self.probe = ProbeSet.of(probe)
        _check_settings(budget, every, clip_norm)
        self.schedule = Schedule(budget, every)
        self.budget = self.schedule.budget
        self.reader = Reader(model, loss_fn, clip_norm=clip_norm, names=self.names, rtol=RTOL)
        self.step_number, self._told, self._num_skipped = 0, 0, 0
        settings = {"budget": budget, "every": every, "clip_norm": clip_norm}
        names = {"model": type(model).__name__, "optimizer": type(self.optimizer).__name__}
        self.journal = Journal.begun(self.optimizer, run_dir, sinks, say, {**names, **settings})
        self.log = StepLog(self.journal.step, self.journal.not_finite)
        self.readings: list[Reading] = []
        self.is_minibatch = False
        self._hooks: StepHooks | None = None
        self._due: str | None = None
        self._next_look, self._inside = 1, 0.0
        self._batch: Any = None
        self._fingerprints: set[Any] = set()

    def set_hooks(self, is_wanted: Callable[[int], bool], guard: Guard) -> None:
        """Begin to look at the optimizer's steps."""
        self._hooks = StepHooks(self.optimizer, is_wanted, guard)
        self._plan(self._hooks, has_acted=True)

    @property
    def params(self) -> tuple[Tensor, ...]:
        """What the optimizer moves."""
        return moved(self.optimizer)

    def looks_at(self, step: int) -> bool:
        """Whether the optimizer step of this number is looked at."""
        return step >= self._next_look

    def is_told(self) -> bool:
        """Count a step the loop tells of; whether there is more to do about it."""
        assert self._hooks is not None
        step = self._hooks.num_steps
        if step == self._told:
            self._num_skipped += 1  # a gradient scaler that met an infinity steps over the optimizer
            return False
        self._told = step
        return self.looks_at(step)

    def step(self, batch: Any, loss: Any) -> None:
        """Take in one training step."""
        assert self._hooks is not None
        hooks, batch = self._hooks, micro_batches(batch)
        self.step_number = hooks.num_steps
        self.schedule.note(self.step_number)
        self.log.add(self.step_number, loss, hooks.lr, hooks.norms, self._gradient_names)
        self._take_in(batch)
        has_acted = False
        if not self.schedule.is_settled:
            self._settle(batch)
            has_acted = True
        captured, hooks.captured = hooks.captured, None
        if captured is not None and self._due is not None:
            has_acted = True
            self._act(self._due, captured, batch)
        self._plan(hooks, has_acted)

    def measure_now(self, batch: Any) -> Measurement:
        """The measurement of the present weights and method."""
        batch = self._batch if batch is None else micro_batches(batch)
        if batch is None and not (self.probe and self.probe.size):
            raise ConfigError("measure: there must be data to measure on; got none yet. Give a batch.")
        self.reader.probe.max_products = MOST_PRODUCTS
        return self.reader.probe.measure(self.optimizer, self._data(batch))

    def close(self) -> None:
        """Let go of everything, and store how the run ended."""
        if self._hooks is not None:
            self._hooks.remove()
        self.log.flush()
        steps, measured = [r.step for r in self.readings], [r.measurement for r in self.readings]
        verdict = run_verdict(type(self.optimizer).__name__, steps, measured)
        self.journal.end(verdict, self.step_number, self.budget, num_skipped=self._num_skipped)

    def _take_in(self, batch: Any) -> None:
        if batch is None:
            return
        self._batch = batch
        if self.probe is not None and not self.probe.is_complete:
            self.probe.collect(batch)
        if self.step_number <= 3 or self._due is not None:
            self._fingerprints.add(fingerprint(batch))

    def _settle(self, batch: Any) -> None:
        """Once there is data and the loop runs evenly: try the model, and say what is watched, and how often."""
        if self.probe is None and batch is None and self.step_number >= STEPS_TO_SETTLE:
            raise ConfigError("watch: there must be data to measure on; got none. Give probe=, or step(batch).")
        data = self.probe if self.probe is not None else None if batch is None else ProbeSet([batch])
        if data is None or not data.is_complete or (self.schedule.every is None and self.step_number < STEPS_TO_SETTLE):
            return
        trial = tried(self.model, self.loss_fn, data, self.params)
        self.schedule.settle(trial, data.size)
        is_kept = self.probe is not None
        self.journal.introduce(self.optimizer, self.schedule, self.step_number, trial.route, data, is_kept=is_kept)

    def _act(self, kind: str, captured: Captured, batch: Any) -> None:
        """Carry out what was due at this step."""
        began, data, num_products = self.budget.clock(), self._data(batch), 0
        if kind == "reading":
            reading = self._read(captured, data, batch)
            num_products = reading.measurement.num_products
        elif kind == "look":
            self.reader.look(captured, batch, data)
        else:
            self.journal.glance(captured.step, self.reader.glance(captured, data))
        self.schedule.done(kind, self.budget.clock() - began, num_products)

    def _read(self, captured: Captured, data: Any, batch: Any) -> Reading:
        self._check_finite(captured)
        lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.is_minibatch |= len(self._fingerprints) > 1
        self.reader.max_products = self.schedule.max_products
        reading = self.reader.read(captured, data, batch, lrs, is_minibatch=self.is_minibatch)
        if self.probe is not None and self.schedule.share == 1:
            self.is_minibatch |= not self.reader.is_of(captured)
        self.log.flush()
        self.readings.append(reading)
        self.journal.reading(reading, self.schedule.share)
        return reading

    def _plan(self, hooks: StepHooks, has_acted: bool) -> None:
        """Decide what to take of the next step, and which one is looked at."""
        step, schedule = self.step_number, self.schedule
        if not has_acted:
            self.budget.expect("log", self.budget.inside - self._inside)
        self._inside = self.budget.inside
        self._due = schedule.next(step, is_minibatch=self.is_minibatch, has_probe=self.probe is not None)
        hooks.wants_step = self._due is not None
        self._next_look = step + (1 if hooks.wants_step else schedule.stride)

    def _data(self, batch: Any) -> Any:
        """What is measured on: the probe set, or the step's own batch, or a part of it."""
        share, device = self.schedule.share, self.params[0].device
        if self.probe is not None:
            return self.probe.part(share, device)
        return batch if share == 1 else ProbeSet([batch]).part(share, device)

    def _check_finite(self, captured: Captured) -> None:
        """Look at the weights and the optimizer's state, which no loss or gradient shows."""
        if not bool(captured.w.isfinite().all()):
            parts = captured.w.split([w.numel() for w in captured.params])
            bad = next(w for w, part in zip(captured.params, parts, strict=True) if not bool(part.isfinite().all()))
            self.log.note(NotFinite(captured.step, "weight", self.names.get(id(bad), ""), captured.step - 1))
        for w in captured.params:
            for key, state in self.optimizer.state.get(w, {}).items():
                is_of_w = isinstance(state, Tensor) and state.is_floating_point() and state.shape == w.shape
                if is_of_w and not bool(state.isfinite().all()):
                    what = "second moment" if key in SECOND_MOMENTS else f"optimizer's {key}"
                    self.log.note(NotFinite(captured.step, what, self.names.get(id(w), ""), captured.step - 1))

    def _gradient_names(self) -> list[str]:
        assert self._hooks is not None
        return [self.names.get(id(w), "") for w in self._hooks.with_gradient]

    def _check_ownership(self) -> None:
        params = self.params
        if not params:
            raise ConfigError("watch: the optimizer must move a parameter that requires a gradient; it moves none.")
        num_foreign = sum(id(w) not in self.names for w in params)
        if num_foreign:
            raise ShapeError(
                f"watch: the optimizer must move parameters of the model it is given; {num_foreign} of its "
                f"{len(params)} are not. Give the model that is trained, not a copy of it."
            )


def _check_settings(budget: float, every: int | None, clip_norm: float | None) -> None:
    check_number("watch: budget", budget, lambda b: 0 < b < 1, "be a share above 0 and below 1, such as 0.03")
    if every is not None:
        check_number("watch: every", every, lambda n: n >= 1 and int(n) == n, "be a whole number of steps, 1 or more")
    if clip_norm is not None:
        check_number("watch: clip_norm", clip_norm, lambda c: c > 0, "be above 0")


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer beneath wrappers.

    Raises:
        ConfigError: there is none.
    """
    outer = optimizer
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer):
            break
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"watch: needs a torch optimizer; got {type(outer).__name__}.")
    return optimizer
