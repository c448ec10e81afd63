"""A fixed piece of work, timed in this process, against which seconds are judged on machines that differ."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def calibration_seconds() -> float:
    """Process time of 200 products of 512 x 512 float32 matrices."""
    a = torch.full((512, 512), 1e-3)
    began = time.process_time()
    for _ in range(200):
        a = (a @ a).clamp_(-1, 1) + 1e-3
    return time.process_time() - began


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Median process time of one call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2]
