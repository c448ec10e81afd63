"""A run between two steps: everything a checkpoint holds, and how the next step is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tightrope.problems import Batch, Problem
from tightrope.stability import Measurement
from tightrope.store import RunWriter

from .batches import Batches
from .config import RunConfig
from .instrument import Instrument


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
        needs_shapes = config.method.preconditioner.needs_shapes
        self.optimizer = config.method.build(problem.parameters if needs_shapes else [problem.w])
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
        loss = _gradient(self.problem, self.batches.next())
        lr = self._set_learning_rate(step)
        self.writer.write("step", step=step, loss=loss, lr=lr, grad_norm=self.problem.gradient.norm().item())
        self.step = step
        if self._is_diverged(loss):
            self.outcome = "diverged"
            return None
        is_on_target = config.stop.loss is not None and loss <= config.stop.loss
        is_last = step == config.num_steps or is_on_target
        is_due = self.instrument.is_due(step, is_last)
        w = self.problem.w.detach().clone() if is_due else None
        self.optimizer.step()
        measurement, name = self.instrument.measure(step, self.optimizer, w) if is_due else (None, "")
        if is_last:
            self.outcome = "completed" if step == config.num_steps else "target_loss"
        return Progress(step, config.num_steps, loss, lr, measurement, name)

    def finish(self) -> None:
        """Store what the run showed and how it ended."""
        self.writer.write("verdict", **self.instrument.run_verdict(self.outcome == "diverged").to_dict())
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
            "optimizer": {str(number): state for number, state in self.optimizer.state_dict()["state"].items()},
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
        optimizer = {int(number): part for number, part in state["optimizer"].items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer})
        self.batches.load_state_dict(state["batches"])
        self.instrument.probe.load_state_dict(state["probe"])
        torch.set_rng_state(state["generator"])

    def _set_learning_rate(self, step: int) -> float:
        lr = self.config.method.lr * self.config.schedule(step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _is_diverged(self, loss: float) -> bool:
        self._first_loss = loss if self._first_loss is None else self._first_loss
        return not math.isfinite(loss) or abs(loss) > self.config.stop.divergence * max(abs(self._first_loss), 1.0)


def _gradient(problem: Problem, batch: Batch) -> float:
    """Leave the gradient of the batch in the flat gradient; return the loss."""
    problem.gradient.zero_()
    loss = problem.loss_fn(problem.model, batch)
    loss.backward()
    return loss.item()
