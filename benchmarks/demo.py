"""The work of `make demo`: process time beside a fixed calibration loop, and where the run ends."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tightrope.training import from_mapping, preset, run

from .calibration import calibration_seconds


def lines() -> Iterator[str]:
    torch.set_num_threads(2)
    unit = calibration_seconds()
    with tempfile.TemporaryDirectory() as folder:
        began, began_wall = time.process_time(), time.perf_counter()
        record = run(from_mapping(preset("demo")), out=Path(folder) / "demo")
        seconds, wall = time.process_time() - began, time.perf_counter() - began_wall
    unit = (unit + calibration_seconds()) / 2
    share = record.end["measuring_seconds"] / record.end["seconds"]
    yield (record.verdict["words"])
    yield (
        f"process time {seconds:.0f} s = {seconds / unit:.0f} calibration loops of {unit:.2f} s; "
        f"wall clock {wall:.0f} s; measuring {share:.0%}"
    )
