"""Real training steps of a user's loop in small, timed and weighed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import LossFn, MicroBatches
from tightrope.optim import Frozen
from tightrope.stability import Measurement, Probe

from .footprint import saved_bytes


class Rehearsal:
    """Steps of an optimizer on one batch, over and over.

    Attributes:
        num_steps: Taken.
        step_bytes: Weights, gradients, optimizer state and what one step saves for its backward pass.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: LossFn, batch: Any) -> None:
        self.model, self.optimizer, self.loss_fn, self.batch = model, optimizer, loss_fn, batch
        self.num_steps, self.step_bytes = 0, 0.0
        self._seconds: list[float] = []

    @property
    def step_seconds(self) -> float:
        """The median; the first of all steps, which may compile and is weighed, does not count."""
        return statistics.median(self._seconds)

    def take(self, num_steps: int) -> None:
        """Take steps; at least two the first time."""
        if self.num_steps == 0:
            self._weigh()
            num_steps -= 1
        device = next(self.model.parameters()).device
        for _ in range(num_steps):
            began = now(device)
            self._step()
            self._seconds.append(now(device) - began)

    def _weigh(self) -> None:
        with saved_bytes([*self.model.parameters(), *self.model.buffers()]) as saved:
            self._step()
        state = (x for values in self.optimizer.state.values() for x in _tensors(values))
        held = sum(x.nbytes for x in [*self.model.parameters(), *self.model.buffers(), *state])
        gradients = sum(w.nbytes for w in self.model.parameters() if w.requires_grad)
        self.step_bytes = float(held + gradients + saved.peak)

    def _step(self) -> None:
        def closure() -> float:
            self.optimizer.zero_grad()
            total = 0.0
            for part, weight in parts(self.batch):
                loss = weight * self.loss_fn(self.model, part)
                loss.backward()
                total += float(loss.detach())
            return total

        self.optimizer.step(closure)
        self.num_steps += 1


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(
    probe: Probe, optimizer: torch.optim.Optimizer | Frozen, batch: Any, device: torch.device
) -> tuple[Measurement, float]:
    """A measurement and the seconds it took."""
    began = now(device)
    measurement = probe.measure(optimizer, batch)
    return measurement, now(device) - began


def parts(batch: Any) -> Iterable[tuple[Any, float]]:
    """(batch, weight of its loss) pairs that a step adds up."""
    return zip(batch.batches, batch.weights, strict=True) if isinstance(batch, MicroBatches) else [(batch, 1.0)]


def _tensors(state: Any) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)
