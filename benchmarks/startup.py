"""How long `tightrope --help` takes, beside importing torch, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
import time


def seconds(code: str) -> float:
    """Median wall-clock time of a fresh interpreter that runs the code."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def main() -> None:
    nothing, torch = seconds("pass"), seconds("import torch")
    ours, help_ = seconds("import tightrope"), seconds("from tightrope.cli import main; main(['--help'])")
    for name, took in (("python", nothing), ("import torch", torch), ("import tightrope", ours), ("--help", help_)):
        print(f"{name:<18} {took:6.3f} s   {took / torch:6.3f} of importing torch")
