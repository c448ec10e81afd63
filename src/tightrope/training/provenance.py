"""What a run was made with: versions, machine and sizes, stored in its `start` event."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

import torch

from tightrope.problems import Problem
from tightrope.store import FORMAT

from .config import RunConfig


def describe(config: RunConfig, problem: Problem) -> dict[str, Any]:
    """Columns of the `start` event."""
    method = config.method
    return {
        "format": FORMAT,
        "time": time.time(),
        "versions": {
            "tightrope": version("tightrope"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": str(problem.w.device),
        "num_threads": torch.get_num_threads(),
        "num_parameters": problem.w.numel(),
        "num_examples": problem.num_examples,
        "method": method.label,
        "preconditioner": method.formula,
        "alternating_gain": method.momentum.alternating_gain,
        "threshold": method.stability_threshold(),
    }
