"""Run the benchmarks named on the command line, or all; exit with 3 if a number is missed."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "startup",
    "products",
    "rivals",
    "cold",
    "memory",
    "growth",
    "warm",
    "approach",
    "freeze",
    "sam",
    "chebyshev",
    "watching",
    "demo",
    "healthy",
    "gpu",
)


def main() -> None:
    names = sys.argv[1:] or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"benchmarks: {unknown[0]} is not known. Known: {', '.join(NAMES)}.")
    missed = 0
    for name in names:
        module = import_module(f"benchmarks.{name}")
        print(f"\n== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        for line in module.lines():
            print(line, flush=True)
            missed += line.endswith("MISS")
    if missed:
        sys.exit(3)


if __name__ == "__main__":
    main()
