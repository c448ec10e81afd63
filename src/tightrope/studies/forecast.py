"""How long runs will take and how much they will store here, from a short probe of each kind of run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
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

    Runs of one problem and method count as one kind; a few steps of the first of each kind are taken in a temporary
    folder. Runs that will end early, at a target loss or diverging, take less.
    """
    different = {case.key: case.config for case in cases}
    paces: dict[bytes, _Pace] = {}
    seconds = num_bytes = 0.0
    for config in different.values():
        kind = msgspec.json.encode((config.problem, type(config.method).__name__, config.dtype, config.batch_size))
        if kind not in paces:
            paces[kind] = _probe(config)
        pace = paces[kind]
        measurements = 0 if config.measure.every == 0 else 2 + config.num_steps // config.measure.every
        seconds += config.num_steps * pace.step + measurements * pace.measurement
        num_bytes += config.num_steps * pace.step_bytes + measurements * pace.measurement_bytes + pace.other_bytes
    return Forecast(len(different), seconds, int(num_bytes))


def _probe(config: RunConfig) -> _Pace:
    began = time.monotonic()

    def stop_in_time(progress: Progress) -> None:
        if time.monotonic() - began > PROBE_SECONDS and progress.step >= 2:
            raise KeyboardInterrupt

    measure: MeasureConfig = msgspec.structs.replace(config.measure, every=min(config.measure.every, PROBE_STEPS // 4))
    short = msgspec.structs.replace(config, num_steps=min(config.num_steps, PROBE_STEPS), measure=measure)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        try:
            record = run(short, out=Path(folder) / "run", observe=stop_in_time)
        finally:
            torch.set_num_threads(threads)
        lines = (record.path / EVENTS).read_bytes().splitlines()
        kinds = [event["type"] for event in read_events(record.path)]
        total = sum(file.stat().st_size for file in record.path.rglob("*") if file.is_file())
    sizes = {
        kind: [len(line) + 1 for line, its in zip(lines, kinds, strict=True) if its == kind] for kind in set(kinds)
    }
    steps, measured = sizes.get("step", [0]), sizes.get("measurement", [0])
    costs = record.measurements["seconds"]
    return _Pace(
        step=(record.end["seconds"] - record.end["measuring_seconds"]) / max(1, record.end["step"]),
        # The first is cold, and so dearer than those that follow.
        measurement=float(np.median(costs[1:] if len(costs) > 1 else costs)) if len(costs) else 0.0,
        step_bytes=float(np.mean(steps)),
        measurement_bytes=float(np.mean(measured)),
        other_bytes=total - sum(steps) - sum(measured),
    )
