"""A run between two steps: everything a checkpoint holds, and how the next step is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.optim import (
    SAM,
    Clipped,
    ClipTally,
    Constant,
    ForeignRecipe,
    GradientMethod,
    WarmRestarts,
    WeightAverage,
    freeze,
)
from tightrope.parameters import weights_at
from tightrope.problems import Batch, Problem
from tightrope.stability import Measurement
from tightrope.store import RunWriter

from .batches import Batches
from .checkpoint import save_arrays
from .config import RunConfig
from .instrument import Instrument
from .optimizer_state import foreign_state, load_foreign_state, load_plain_state, plain_state


@dataclass(frozen=True)
class Progress:
    """Where a run stands, handed to an observer after every step.

    Attributes:
        step, num_steps: Steps taken, and at most.
        loss, lr: Of this step.
        measurement: Made at this step, or None.
        verdict: Its verdict's name.
    """

    step: int
    num_steps: int
    loss: float
    lr: float
    measurement: Measurement | None
    verdict: str


class Session:
    """One run: model, optimizer, data order, instrument and counters.

    Attributes:
        step: Steps taken.
        outcome: How the run ended; None while it goes on.
    """

    def __init__(self, config: RunConfig, problem: Problem, writer: RunWriter) -> None:
        self.config, self.problem, self.writer = config, problem, writer
        self.optimizer = _optimizer(config, problem)
        self._lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.average = WeightAverage() if config.average_restarts else None
        self._begin()
        self.instrument = Instrument(config, problem, writer)
        self.step = 0
        self.outcome: str | None = None
        self._has_met_loss = False
        self._first_loss: float | None = None
        self._began = time.process_time()

    def _begin(self) -> None:
        """The data from its beginning, and nothing clipped yet."""
        config = self.config
        self.tally = None if config.clipping is None else ClipTally(config.clipping.label)
        self.batches = Batches(self.problem, config.batch_size, config.seed)

    @property
    def seconds(self) -> float:
        """Process time spent on the run, that before it was resumed included."""
        return time.process_time() - self._began

    def prepare(self) -> None:
        """Fill the P of a run that begins with a frozen one: steps that are not stored, and back to the beginning."""
        freezing = self.config.freeze
        if freezing is None or not freezing.restart:
            return
        first = {name: tensor.clone() for name, tensor in self._tensors().items()}
        generator = torch.get_rng_state()
        for step in range(1, freezing.after + 1):
            self._evaluate(self.batches.next())
            self._set_learning_rate(step, freezing.lr_before)
            self._clip()
            self._move()
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(first[name])
        for state in self.optimizer.state.values():
            if "m" in state:
                state["m"].zero_()
        torch.set_rng_state(generator)
        self._begin()

    def advance(self) -> Progress | None:
        """Take one step, store it, and measure if that is due; None where the loss diverged instead."""
        config, step = self.config, self.step + 1
        loss = self._evaluate(self.batches.next())
        lr = self._set_learning_rate(step)
        norm = self.problem.gradient.norm().item()
        clipped = self._clip()
        share = {} if clipped is None else {"clipped": clipped.num_clipped / clipped.num_units}
        self.writer.write("step", step=step, loss=loss, lr=lr, grad_norm=norm, **share)
        self.step = step
        if self._is_diverged(loss, norm):
            self.outcome = "diverged"
            return None
        is_on_target = config.stop.loss is not None and loss <= config.stop.loss
        is_last = step == config.num_steps or is_on_target
        is_due = self._is_first_below(loss) or self.instrument.is_due(step, is_last)
        w = self.problem.w.detach().clone() if is_due else None
        self._freeze_when_due()
        self._move()
        if self.average is not None and isinstance(config.schedule, WarmRestarts) and config.schedule.is_end(step - 1):
            self.average.update(self.problem.w)
        measurement, name = self._measure(w, clipped) if is_due else (None, "")
        if is_last:
            self.outcome = "completed" if step == config.num_steps else "target_loss"
        return Progress(step, config.num_steps, loss, lr, measurement, name)

    def _move(self) -> None:
        """The step itself; what another's code raises in it is one line."""
        if isinstance(self.config.method, ForeignRecipe):
            self.config.method.step(self.optimizer)
        else:
            self.optimizer.step()

    def finish(self) -> None:
        """Store what the run showed and how it ended."""
        if self.average is not None and self.average.w is not None:
            self.writer.write("average", count=self.average.count, loss=self._loss_at(self.average.w))
            save_arrays(self.writer.path, "average", {"w": self.average.w})
        if self.problem.test_batch is not None and self.outcome != "diverged":
            self.writer.write("test", **self.problem.test())
        verdict = self.instrument.run_verdict(self.outcome == "diverged").to_dict()
        clipping = {} if self.tally is None else {"clipping": self.tally.words}
        self.writer.write("verdict", **verdict, **clipping)
        self.writer.write(
            "end",
            step=self.step,
            outcome=self.outcome,
            seconds=self.seconds,
            measuring_seconds=self.instrument.seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and the measuring costs so far."""
        return {
            "step": self.step,
            "outcome": self.outcome,
            "first_loss": self._first_loss,
            "has_met_loss": self._has_met_loss,
            "seconds": self.seconds,
            "measuring_seconds": self.instrument.seconds,
            "w": self.problem.w,
            "buffers": dict(self.problem.model.named_buffers()),
            "optimizer": self._optimizer_state(),
            "clipping": None if self.tally is None else self.tally.to_dict(),
            "average": None if self.average is None else vars(self.average),
            "batches": self.batches.state_dict(),
            "probe": self.instrument.probe.state_dict(),
            "generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what another session of the same configuration was."""
        self.step, self.outcome, self._first_loss = state["step"], state["outcome"], state["first_loss"]
        self._began = time.process_time() - state["seconds"]
        self.instrument.seconds, self._has_met_loss = state["measuring_seconds"], state.get("has_met_loss", False)
        with torch.no_grad():
            self.problem.w.copy_(state["w"])
            for name, buffer in self.problem.model.named_buffers():
                buffer.copy_(state["buffers"][name])
        load = load_foreign_state if isinstance(self.config.method, ForeignRecipe) else load_plain_state
        load(self.optimizer, state["optimizer"])
        self.tally = None if state["clipping"] is None else ClipTally.from_dict(state["clipping"])
        self.average = None if state["average"] is None else WeightAverage(**state["average"])
        self.batches.load_state_dict(state["batches"])
        self.instrument.probe.load_state_dict(state["probe"])
        torch.set_rng_state(state["generator"])

    def _optimizer_state(self) -> dict[str, Any]:
        is_foreign = isinstance(self.config.method, ForeignRecipe)
        return foreign_state(self.optimizer) if is_foreign else plain_state(self.optimizer)

    def _evaluate(self, batch: Batch) -> float:
        """Leave the gradient of the step in the flat gradient, SAM's taken uphill; the loss where the weights are."""
        sam = self.optimizer
        if not isinstance(sam, SAM) or not sam.is_ascent_due:
            return _gradient(self.problem, batch)
        losses = []
        for part in _parts(batch, sam.rule.micro_batches):
            losses.append(_gradient(self.problem, part))
            with sam.ascent():
                _gradient(self.problem, part)
        return sum(losses) / len(losses)

    def _clip(self) -> Clipped | None:
        if self.config.clipping is None or self.tally is None:
            return None
        clipped = self.config.clipping(self.problem.parameters)
        self.tally.add(clipped)
        return clipped

    def _measure(self, w: Tensor | None, clipped: Clipped | None) -> tuple[Measurement, str]:
        frozen = freeze(self.optimizer)
        frozen = frozen if clipped is None else frozen.clipped(clipped)
        return self.instrument.measure(self.step, frozen, w, second_moment_norm=_second_moment_norm(self.optimizer))

    def _freeze_when_due(self) -> None:
        """Hold P from the step on that the configuration says: a checkpoint does not hold that it is held."""
        freezing = self.config.freeze
        if freezing is not None and (freezing.restart or self.step > freezing.after):
            assert isinstance(self.optimizer, GradientMethod)
            self.optimizer.freeze_preconditioner()

    def _tensors(self) -> dict[str, Tensor]:
        """All that a step changes of the model."""
        return {"w": self.problem.w.detach(), **dict(self.problem.model.named_buffers())}

    def _loss_at(self, w: Tensor) -> float:
        problem = self.problem
        with weights_at(problem.parameters, w), torch.no_grad():
            return problem.loss_fn(problem.model, problem.batch).item()

    def _set_learning_rate(self, step: int, peak: float | None = None) -> float:
        """Those of the groups, by the schedule's factor; a peak takes the place of the method's own."""
        method, schedule = self.config.method, self.config.schedule
        factor = schedule(step - 1) * (1.0 if peak is None else peak / method.lr)
        # A foreign optimizer may set its own: then it is left to it.
        if not isinstance(method, ForeignRecipe) or not isinstance(schedule, Constant):
            for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
                group["lr"] = lr * factor
        return method.lr * factor

    def _is_first_below(self, loss: float) -> bool:
        """Whether this loss is the first one as low as that at which the configuration asks to measure."""
        at_loss = self.config.measure.at_loss
        if at_loss is None or self._has_met_loss or loss > at_loss:
            return False
        self._has_met_loss = True
        return True

    def _is_diverged(self, loss: float, grad_norm: float) -> bool:
        """Whether to end before the step, with the weights as they are."""
        self._first_loss = loss if self._first_loss is None else self._first_loss
        if not math.isfinite(grad_norm):
            return True
        return not math.isfinite(loss) or abs(loss) > self.config.stop.divergence * max(abs(self._first_loss), 1.0)


def _optimizer(config: RunConfig, problem: Problem) -> torch.optim.Optimizer:
    """The configured method, on one flat parameter unless it needs shapes, with SAM around it if that is asked for."""
    base = config.method.build(problem.parameters if config.method.needs_shapes else [problem.w])
    return base if config.sam is None else config.sam.wrap(base, seed=config.seed, model=problem.model)


def _second_moment_norm(optimizer: torch.optim.Optimizer) -> float:
    """2-norm of nu over all parameters; NaN where the method has none as such."""
    moments = [state["nu"] for state in optimizer.state.values() if isinstance(state.get("nu"), Tensor)]
    return float(torch.cat([nu.flatten() for nu in moments]).norm()) if moments else math.nan


def _parts(batch: Batch, num_parts: int) -> Iterator[Batch]:
    return zip(*(tensor.chunk(num_parts) for tensor in batch), strict=True)


def _gradient(problem: Problem, batch: Batch) -> float:
    """Leave the gradient of the batch in the flat gradient; return the loss."""
    problem.gradient.zero_()
    loss = problem.loss_fn(problem.model, batch)
    loss.backward()
    return loss.item()
