"""The watching itself: what is taken of each step, and what is stored and said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tightrope.curvature import LossFn, observing, working_dtype
from tightrope.errors import ConfigError
from tightrope.optim import freeze
from tightrope.stability import Measurement, run_verdict

from .admission import check_loss, check_ownership, check_settings, unwrapped
from .attendance import Attendance
from .chance import Chance
from .confinement import confined, on_trial
from .health import Health
from .hooks import Captured, Guard, StepHooks, moved, place_words, placed
from .journal import Journal
from .probe_set import ProbeSet, batches_kept, fingerprint, generators_kept, micro_batches, size_of
from .reading import Reader, Reading
from .schedule import MOST_PRODUCTS, Schedule, tried
from .sinks import Sink
from .step_log import StepLog
from .tensorboard import ScalarWriter

RTOL = 0.05
"""Of the eigensolves: their values are closer than their residuals by far."""
STEPS_TO_SETTLE = 10
"""Before anything is timed: the first steps of a loop are slow for reasons of their own."""


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
        sinks: Sequence[str | Sink | ScalarWriter] | None,
    ) -> None:
        check_loss(model, loss_fn)
        self.model, self.loss_fn, self.optimizer = model, loss_fn, unwrapped(optimizer)
        self.names = {id(w): name for name, w in model.named_parameters()}
        check_ownership(self.params, self.names)
        frozen = freeze(self.optimizer)
        if frozen.status == "no_threshold":
            raise ConfigError(f"watch: {frozen.reason}")
        with observing(model), generators_kept(probe):  # reading an iterable may draw random numbers
            self.probe = ProbeSet.of(probe)
        check_settings(budget, every, clip_norm)
        self.schedule = Schedule(budget, every)
        self.budget = self.schedule.budget
        self.reader = Reader(model, loss_fn, clip_norm=clip_norm, names=self.names, rtol=RTOL)
        self.step_number, self._attendance, self._chance = 0, Attendance(say), Chance()
        settings = {"budget": budget, "every": every, "clip_norm": clip_norm}
        names = {"model": type(model).__name__, "optimizer": type(self.optimizer).__name__}
        self._say = say
        self.journal = Journal.begun(self.optimizer, run_dir, sinks, say, {**names, **settings})
        self.log = StepLog(self.journal.step, self.journal.not_finite)
        self._health = Health(self.optimizer, self.names)
        self.readings: list[Reading] = []
        self.is_minibatch = False
        self._hooks: StepHooks | None = None
        self._due: str | None = None
        self._next_look, self._inside = 1, 0.0
        self._batch: Any = None
        self._fingerprints: set[Any] = set()
        self._place = placed(self.params)

    def set_hooks(self, is_wanted: Callable[[int], bool], guard: Guard) -> None:
        """Begin to look at the optimizer's steps."""
        self._hooks = StepHooks(self.optimizer, is_wanted, guard)
        if not self._hooks.is_alone:
            self._say(
                "watch: this optimizer is watched already; both watch it from now on, each within its own budget. "
                "Close the other if it was left over."
            )
        self._plan(self._hooks, has_acted=True)

    @property
    def params(self) -> tuple[Tensor, ...]:
        """What the optimizer moves."""
        return moved(self.optimizer)

    def looks_at(self, step: int) -> bool:
        """Whether the optimizer step of this number is looked at."""
        return step >= self._next_look and self._attendance.is_due(step - 1)

    def go_on(self) -> None:
        """Steps that were taken in a pause need not be told."""
        assert self._hooks is not None
        self._attendance.excuse(self._hooks.num_steps)

    def is_told(self) -> bool:
        """Count a step the loop tells of; whether there is more to do about it."""
        assert self._hooks is not None
        step = self._hooks.num_steps
        return self._attendance.is_news(step) and self.looks_at(step)

    def step(self, batch: Any, loss: Any) -> None:
        """Take in one training step."""
        assert self._hooks is not None
        hooks, batch = self._hooks, micro_batches(batch)
        self.step_number = hooks.num_steps
        self.schedule.note(self.step_number)
        names = [self.names.get(i, "") for i in hooks.normed]
        self.log.add(self.step_number, loss, hooks.lr, hooks.norms, names)
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
        self._follow()
        self.reader.probe.max_products = MOST_PRODUCTS
        data = self._data(batch)
        with self._evaluating(data):
            return self.reader.probe.measure(self.optimizer, data)

    def let_go(self) -> None:
        """Take the hooks away, and leave what is stored to another."""
        if self._hooks is not None:
            self._hooks.remove()

    def close(self, *, has_failed: bool = False) -> None:
        """Let go of everything, and store how the run ended; a word on it if nothing was read and nobody knows why."""
        is_diverged = False
        if self._hooks is not None:
            self._hooks.remove()
            self.log.flush()
            if self._hooks.num_steps:
                bad = self._look_for_nan(self._hooks.num_steps)
                is_diverged = "weight" in bad or not self.log.is_finite
            self._attendance.conclude(self._hooks.num_steps)
            if self.step_number and not self.readings and not has_failed:
                n = self._hooks.num_steps
                self._say(
                    f"no reading was made in {n:,} {'step' if n == 1 else 'steps'}; a larger budget=, a smaller every= "
                    "or fewer examples in probe= would give one."
                )
        steps, measured = [r.step for r in self.readings], [r.measurement for r in self.readings]
        method, is_adaptive = type(self.optimizer).__name__, self.reader.is_adaptive
        last = next((r.verdict.name for r in reversed(self.readings) if r.measurement.has_ratio), "")
        verdict = run_verdict(
            method,
            steps,
            measured,
            is_adaptive=is_adaptive,
            is_diverged=is_diverged,
            is_growing=last == "unstable",
        )
        end = self.step_number if self._hooks is None else self._hooks.num_steps
        self.journal.end(verdict, end, self.budget, num_skipped=self._attendance.num_skipped)

    def _take_in(self, batch: Any) -> None:
        if batch is None:
            return
        self._batch = batch
        if self.probe is not None and not self.probe.is_complete:
            self.probe.collect(batch)
        if len(self._fingerprints) < 2 and (self.step_number <= 3 or self._due is not None):
            self._fingerprints.add(fingerprint(batch))

    def _settle(self, batch: Any) -> None:
        """Once there is data and the loop runs evenly: try the model, and say what is watched, and how often."""
        has_data = self.probe.batches if self.probe is not None else batch is not None
        if not has_data and self.step_number >= STEPS_TO_SETTLE:
            raise ConfigError("watch: there must be data to measure on; got none. Give probe=, or step(batch).")
        data = self.probe if self.probe is not None else None if batch is None else ProbeSet([batch])
        if data is None or not data.is_complete or (self.schedule.every is None and self.step_number < STEPS_TO_SETTLE):
            return
        self._follow()
        with self._evaluating(*data.batches), on_trial(self.model, data.batches[0]):
            batch_size = None if batch is None else size_of(batch)
            trial = tried(self.model, self.loss_fn, data, self.params, batch_size)
            self.schedule.settle(trial, data.size, batch_size)
            sample = data.part(self.schedule.share, self.params[0].device)
            self._chance.settle(self.model, self.loss_fn, sample)
        self.reader.num_draws, self.reader.loss_spread = self._chance.num_draws, self._chance.found.spread
        self.schedule.multiply(self._chance.num_draws)
        self.journal.introduce(
            self.optimizer,
            self.schedule,
            self.step_number,
            trial.route,
            self._chance.words,
            data,
            is_kept=self.probe is not None,
            is_minibatch=len(self._fingerprints) > 1,
        )

    def _act(self, kind: str, captured: Captured, batch: Any) -> None:
        """Carry out what was due at this step."""
        began, num_products = self.budget.clock(), 0
        self._follow()
        if captured.place != self._place:  # the step is one of weights that are no longer there
            return
        self._look_for_nan(captured.step)
        data = self._data(batch)
        with self._evaluating(data, batch):
            if kind == "reading":
                reading = self._read(captured, data, batch)
                num_products = reading.measurement.num_products // (1 + self.reader.has_sharpness)
            elif kind == "look":
                self.reader.look(captured, batch, data)
            else:
                self.journal.glance(captured.step, self.reader.glance(captured, data))
        self.schedule.done(kind, self.budget.clock() - began, num_products)

    def _read(self, captured: Captured, data: Any, batch: Any) -> Reading:
        lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.is_minibatch |= len(self._fingerprints) > 1
        reader, schedule = self.reader, self.schedule
        reader.max_products = schedule.max_products
        reader.has_sharpness, reader.has_plain = schedule.takes("sharpness"), schedule.takes("plain")
        is_same_data = self.probe is not None or not self.is_minibatch
        reading = reader.read(captured, data, batch, lrs, is_minibatch=self.is_minibatch, is_same_data=is_same_data)
        if self.probe is not None and self.schedule.share == 1 and not self._chance.is_random:
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
        self._due = None
        if self.probe is None or self.probe.is_complete:
            self._due = schedule.next(step, is_minibatch=self.is_minibatch, has_probe=self.probe is not None)
        hooks.wants_step = self._due is not None
        self._next_look = step + (1 if hooks.wants_step else schedule.stride)

    def _data(self, batch: Any) -> Any:
        """What is measured on: the probe set, or the step's own batch, or a part of it."""
        share, device = self.schedule.share, self.params[0].device
        if self.probe is not None:
            data = self.probe.part(share, device)
        else:
            data = batch if share == 1 else ProbeSet([batch]).part(share, device)
        return self._chance.spread_over(data)

    @contextmanager
    def _evaluating(self, *batches: Any) -> Iterator[None]:
        """Inside, loss_fn can do nothing to the run, and draws the random numbers of every other reading."""
        assert self._hooks is not None
        with confined(self.model, self._hooks), batches_kept(batches), self._chance.same():
            yield

    def _follow(self) -> None:
        """Where parameters were added, frozen, exchanged or moved, go on with those there are."""
        known = {id(w): name for name, w in self.model.named_parameters()}
        check_ownership(self.params, known)
        self.names.clear()
        self.names.update(known)
        place, former = placed(self.params), self._place
        if self.probe is not None:
            self.probe.dtype = working_dtype(self.params)
        if place != former:
            self._place = place
            self.reader.forget()
            if self.schedule.is_settled:
                self._say(
                    f"step {self.step_number:,}: the optimizer now moves {place_words(self.params)}, not what it moved "
                    "before; readings go on with that, from a fresh start."
                )

    def _look_for_nan(self, step: int) -> list[str]:
        """Note what is not finite, and name it."""
        bad = self._health.look(step, self.params)
        for found in bad:
            self.log.note(found)
        return [found.what for found in bad]
