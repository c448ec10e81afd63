"""How long runs will take and how much they will store here, from a short probe of each kind of run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import torch

from tightrope.store import EVENTS, read_events
from tightrope.training import MeasureConfig, Progress, RunConfig, run

from .study import Case

PROBE_STEPS = 60
PROBE_SECONDS = 10.0
"""A probe ends here even if its steps are not all taken."""


@dataclass(frozen=True)
class Forecast:
    """What runs are expected to cost on this machine.

    Attributes:
        num_runs: Still to do.
        seconds: Of one core, together.
        num_bytes: On the disk.
    """

    num_runs: int
    seconds: float
    num_bytes: int


@dataclass(frozen=True)
class _Pace:
    """Of one kind of run: seconds and bytes a step, a measurement, and for the rest."""

    step: float
    measurement: float
    step_bytes: float
    measurement_bytes: float
    other_bytes: float


def forecast(cases: Iterable[Case]) -> Forecast:
    """Time and disk for runs from their beginning, each different one once, on one thread.

    Runs of one problem, method and way of measuring count as one kind; a few steps of the first of each kind are taken
    in a temporary folder. Runs that will end early, at a target loss or diverging, take less.
    """
    different = {case.key: case.config for case in cases}
    paces: dict[bytes, _Pace] = {}
    seconds = num_bytes = 0.0
    for config in different.values():
        kind = _kind(config)
        if kind not in paces:
            paces[kind] = _probe(config)
        pace, measurements = paces[kind], _num_measurements(config)
        filling = config.freeze.after if config.freeze is not None and config.freeze.restart else 0
        seconds += (filling + config.num_steps) * pace.step + measurements * pace.measurement
        num_bytes += config.num_steps * pace.step_bytes + measurements * pace.measurement_bytes + pace.other_bytes
    return Forecast(len(different), seconds, int(num_bytes))


def _kind(config: RunConfig) -> bytes:
    """Equal for runs whose steps and measurements cost the same."""
    measure = config.measure
    looks = (measure.sharpness, measure.num_eigenvalues, measure.num_examples)
    return msgspec.json.encode((config.problem, type(config.method).__name__, config.dtype, config.batch_size, looks))


def _num_measurements(config: RunConfig) -> int:
    num_due = sum(config.measure.is_due(step, step == config.num_steps) for step in range(1, config.num_steps + 1))
    return num_due + (config.measure.at_loss is not None)


def _probe(config: RunConfig) -> _Pace:
    """The pace of a run's first steps, without the very first, which is dearer than any that follows."""
    began = time.monotonic()
    moments: list[tuple[float, bool]] = []
    is_over = False

    def watch_the_clock(progress: Progress) -> None:
        nonlocal is_over
        moments.append((time.process_time(), progress.measurement is not None))
        is_over = time.monotonic() - began > PROBE_SECONDS and progress.step >= 2
        if is_over:
            raise KeyboardInterrupt

    is_measured = _num_measurements(config) > 0
    every = min(config.measure.every or PROBE_STEPS, PROBE_STEPS // 6) if is_measured else 0
    measure: MeasureConfig = msgspec.structs.replace(config.measure, every=every, window=None)
    num_steps = min(config.num_steps, PROBE_STEPS)
    short = msgspec.structs.replace(config, num_steps=num_steps, measure=measure, freeze=None)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        try:
            record = run(short, out=Path(folder) / "run", observe=watch_the_clock)
        finally:
            torch.set_num_threads(threads)
        if record.outcome == "interrupted" and not is_over:  # by the person at the terminal
            raise KeyboardInterrupt
        lines = (record.path / EVENTS).read_bytes().splitlines(keepends=True)
        kinds = [event["type"] for event in read_events(record.path)]
        total = sum(file.stat().st_size for file in record.path.rglob("*") if file.is_file())
    took = [(late - early, is_measured) for (early, _), (late, is_measured) in pairwise(moments)]
    step = _median([seconds for seconds, is_measured in took if not is_measured])
    sizes = {kind: [len(line) for line, its in zip(lines, kinds, strict=True) if its == kind] for kind in set(kinds)}
    return _Pace(
        step=step,
        measurement=max(0.0, _median([seconds for seconds, is_measured in took if is_measured]) - step),
        step_bytes=_median(sizes.get("step", [])),
        measurement_bytes=_median(sizes.get("measurement", [])),
        other_bytes=total - sum(sizes.get("step", [])) - sum(sizes.get("measurement", [])),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
