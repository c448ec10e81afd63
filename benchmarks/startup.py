"""How long `tightrope --help` takes, beside importing torch, in fresh processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator


def seconds(code: str) -> float:
    """Median process time of a fresh interpreter that runs the code."""
    times = []
    for _ in range(7):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    return sorted(times)[len(times) // 2]


def lines() -> Iterator[str]:
    nothing, torch = seconds("pass"), seconds("import torch")
    ours, help_ = seconds("import tightrope"), seconds("from tightrope.cli import main; main(['--help'])")
    for name, took in (("python", nothing), ("import torch", torch), ("import tightrope", ours), ("--help", help_)):
        yield (f"{name:<18} {took:6.3f} s   {took / torch:6.3f} of importing torch")
