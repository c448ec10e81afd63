"""The lab's training loop: one step, one line in the store, and a measurement when it is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tightrope.errors import ConfigError
from tightrope.problems import Batch, Problem
from tightrope.stability import Measurement, Probe, RunVerdict, run_verdict, verdict
from tightrope.store import RunRecord, RunWriter, read_run

from .config import RunConfig
from .provenance import describe

DTYPES = {"float32": torch.float32, "float64": torch.float64}


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


def run(
    config: RunConfig, *, out: str | Path | None = None, observe: Callable[[Progress], None] | None = None
) -> RunRecord:
    """Train as configured, measure on the way, store everything, and return what was stored.

    Args:
        config: The whole run.
        out: Directory to make; it must not hold files. Default `runs/PROBLEM-METHOD`, numbered where that exists.
        observe: Called after every step; it only reads.
    Returns:
        The run as stored, with its verdict. A divergence or an interrupt (Ctrl-C) ends the run cleanly and is
        its `outcome`, not an exception.
    Raises:
        ConfigError: the data or a setting does not fit; nothing is written.
        StoreError: the directory holds files, or cannot be written.
    """
    try:
        problem = config.problem.build(config.seed, DTYPES[config.dtype])
    except (MemoryError, RuntimeError) as error:
        raise ConfigError(f"problem: must fit in memory; got {error or 'too large a one'}. Make it smaller.") from error
    if config.batch_size is not None and config.batch_size > problem.num_examples:
        raise ConfigError(
            f"batch_size: must be at most the {problem.num_examples} examples; got {config.batch_size}. "
            "Leave it out for full batch."
        )
    name = f"{config.problem.__struct_config__.tag}-{config.method.__struct_config__.tag}"
    path = new_path(Path("runs"), name) if out is None else Path(out)
    with RunWriter(path, config.to_toml()) as writer:
        _train(config, problem, writer, observe or (lambda progress: None))
    return read_run(path)


def new_path(folder: Path, name: str) -> Path:
    """The first of folder/name, folder/name-2, folder/name-3, ... that does not exist."""
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path


def _train(config: RunConfig, problem: Problem, writer: RunWriter, observe: Callable[[Progress], None]) -> None:
    needs_shapes = config.method.preconditioner.needs_shapes
    optimizer = config.method.build(problem.parameters if needs_shapes else [problem.w])
    instrument = _Instrument(config, problem, writer)
    batches = _batches(problem, config)
    writer.write("start", **describe(config, problem))
    began, outcome, first_loss, step = time.process_time(), "completed", None, 0
    try:
        for step in range(1, config.num_steps + 1):
            loss = _gradient(problem, next(batches))
            lr = config.method.lr * config.schedule(step - 1)
            for group in optimizer.param_groups:
                group["lr"] = lr
            writer.write("step", step=step, loss=loss, lr=lr, grad_norm=problem.gradient.norm().item())
            first_loss = loss if first_loss is None else first_loss
            if not math.isfinite(loss) or abs(loss) > config.stop.divergence * max(abs(first_loss), 1.0):
                outcome = "diverged"
                break
            is_last = step == config.num_steps or (config.stop.loss is not None and loss <= config.stop.loss)
            is_due = instrument.is_due(step, is_last)
            w = problem.w.detach().clone() if is_due else None
            optimizer.step()
            measurement, name = instrument.measure(step, optimizer, w) if is_due else (None, "")
            observe(Progress(step, config.num_steps, loss, lr, measurement, name))
            if is_last:
                outcome = "completed" if step == config.num_steps else "target_loss"
                break
    except KeyboardInterrupt:
        outcome = "interrupted"
    writer.write("verdict", **instrument.run_verdict(outcome == "diverged").to_dict())
    seconds = time.process_time() - began
    writer.write("end", step=step, outcome=outcome, seconds=seconds, measuring_seconds=instrument.seconds)


class _Instrument:
    """The probe of one run, when it is due, and what it has seen."""

    def __init__(self, config: RunConfig, problem: Problem, writer: RunWriter) -> None:
        self.config, self.writer = config.measure, writer
        self.method = config.method.label
        self.is_adaptive = config.method.preconditioner.is_adaptive
        self.batch = problem.first(config.measure.num_examples)
        self.seconds = 0.0
        self.steps: list[int] = []
        self.measurements: list[Measurement] = []
        self.probe = Probe(
            problem.model,
            problem.loss_fn,
            params=problem.parameters,
            rtol=config.measure.rtol,
            max_products=config.measure.max_products,
            seed=config.seed,
            has_sharpness=config.measure.sharpness,
            audit_every=config.measure.audit_every,
        )

    def is_due(self, step: int, is_last: bool) -> bool:
        every = self.config.every
        return every > 0 and (step == 1 or step % every == 0 or is_last)

    def measure(self, step: int, optimizer: torch.optim.Optimizer, w: Tensor | None) -> tuple[Measurement, str]:
        """The Hessian at w, before the step, against the P that the step used."""
        began = time.process_time()
        measurement = self.probe.measure(optimizer, self.batch, w=w)
        said = verdict(measurement, step, is_adaptive=self.is_adaptive)
        self.writer.write("measurement", step=step, **measurement.to_dict(), verdict=said.name, words=said.words)
        self.steps.append(step)
        self.measurements.append(measurement)
        self.seconds += time.process_time() - began
        return measurement, said.name

    def run_verdict(self, is_diverged: bool) -> RunVerdict:
        return run_verdict(
            self.method, self.steps, self.measurements, is_adaptive=self.is_adaptive, is_diverged=is_diverged
        )


def _gradient(problem: Problem, batch: Batch) -> float:
    """Leave the gradient of the batch in the flat gradient; return the loss."""
    problem.gradient.zero_()
    loss = problem.loss_fn(problem.model, batch)
    loss.backward()
    return loss.item()


def _batches(problem: Problem, config: RunConfig) -> Iterator[Batch]:
    """The full batch for ever, or minibatches: each epoch in a new random order, its incomplete rest left out."""
    if config.batch_size is None:
        while True:
            yield problem.batch
    generator = torch.Generator().manual_seed(config.seed)
    n, size = problem.num_examples, config.batch_size
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            yield problem.rows(order[start : start + size])
