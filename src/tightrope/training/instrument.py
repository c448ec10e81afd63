"""The probe of one run, when it is due, and what it has seen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tightrope.optim import Frozen
from tightrope.problems import Problem
from tightrope.stability import Measurement, Probe, RunVerdict, run_verdict, verdict
from tightrope.store import RunWriter

from .config import RunConfig


class Instrument:
    """Measures a run when it is due, and stores what it saw.

    Attributes:
        seconds: Process time spent measuring.
        steps, measurements: What was measured, in order.
    """

    def __init__(self, config: RunConfig, problem: Problem, writer: RunWriter) -> None:
        self.config, self.writer = config.measure, writer
        self.method = config.label
        self.is_adaptive = config.is_adaptive
        self.batch = problem.first(config.measure.num_examples)
        self.seconds = 0.0
        self.steps: list[int] = []
        self.measurements: list[Measurement] = []
        self.probe = Probe(
            problem.model,
            problem.loss_fn,
            params=problem.parameters,
            k=config.measure.num_eigenvalues,
            rtol=config.measure.rtol,
            max_products=config.measure.max_products,
            seed=config.seed,
            max_bytes=config.measure.max_bytes,
            has_sharpness=config.measure.sharpness,
            audit_every=config.measure.audit_every,
        )

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether a step is measured."""
        return self.config.is_due(step, is_last)

    def measure(self, step: int, frozen: Frozen, w: Tensor | None, **also: float) -> tuple[Measurement, str]:
        """The Hessian at w, before the step, against the method as the step left it; and the verdict's name.

        What else is known of the step is stored with it.
        """
        began = time.process_time()
        measurement = self.probe.measure(frozen, self.batch, w=w)
        said = verdict(measurement, step, is_adaptive=self.is_adaptive)
        judged = {"verdict": said.name, "words": said.words}
        self.writer.write("measurement", step=step, **measurement.to_dict(), **also, **judged)
        self.steps.append(step)
        self.measurements.append(measurement)
        self.seconds += time.process_time() - began
        return measurement, said.name

    def run_verdict(self, is_diverged: bool) -> RunVerdict:
        """What the whole run supports."""
        return run_verdict(
            self.method, self.steps, self.measurements, is_adaptive=self.is_adaptive, is_diverged=is_diverged
        )

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in the stored measurements of a run that is resumed."""
        for event in events:
            self.steps.append(event["step"])
            self.measurements.append(Measurement.from_dict(event))
