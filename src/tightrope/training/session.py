"""A run between two steps: everything a checkpoint holds, and how the next step is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.optim import SAM, Clipped, ClipTally, Constant, ForeignRecipe, WarmRestarts, WeightAverage, freeze
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
        self.tally = None if config.clipping is None else ClipTally(config.clipping.label)
        self.batches = Batches(problem, config.batch_size, config.seed)
        self.instrument = Instrument(config, problem, writer)
        self.step = 0
        self.outcome: str | None = None
        self._first_loss: float | None = None
        self._began = time.process_time()

    @property
    def seconds(self) -> float:
        """Process time spent on the run, that before it was resumed included."""
        return time.process_time() - self._began

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
        is_due = self.instrument.is_due(step, is_last)
        w = self.problem.w.detach().clone() if is_due else None
        self.optimizer.step()
        if self.average is not None and isinstance(config.schedule, WarmRestarts) and config.schedule.is_end(step - 1):
            self.average.update(self.problem.w)
        measurement, name = self._measure(w, clipped) if is_due else (None, "")
        if is_last:
            self.outcome = "completed" if step == config.num_steps else "target_loss"
        return Progress(step, config.num_steps, loss, lr, measurement, name)

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
        self.instrument.seconds = state["measuring_seconds"]
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
        return self.instrument.measure(self.step, frozen if clipped is None else frozen.clipped(clipped), w)

    def _loss_at(self, w: Tensor) -> float:
        problem = self.problem
        with weights_at(problem.parameters, w), torch.no_grad():
            return problem.loss_fn(problem.model, problem.batch).item()

    def _set_learning_rate(self, step: int) -> float:
        factor = self.config.schedule(step - 1)
        # A foreign optimizer may set its own: then it is left to it.
        if not isinstance(self.config.method, ForeignRecipe) or not isinstance(self.config.schedule, Constant):
            for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
                group["lr"] = lr * factor
        return self.config.method.lr * factor

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


def _parts(batch: Batch, num_parts: int) -> Iterator[Batch]:
    return zip(*(tensor.chunk(num_parts) for tensor in batch), strict=True)


def _gradient(problem: Problem, batch: Batch) -> float:
    """Leave the gradient of the batch in the flat gradient; return the loss."""
    problem.gradient.zero_()
    loss = problem.loss_fn(problem.model, batch)
    loss.backward()
    return loss.item()
