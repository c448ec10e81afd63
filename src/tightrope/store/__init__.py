"""The run directory: its schema, its one writer, its tolerant reader."""

from .reader import RunRecord, find_runs, read_run
from .schema import CONFIG, EVENTS, FORMAT, MEASUREMENT, STEP, TYPES, Column
from .writer import RunWriter

__all__ = [
    "Column",
    "CONFIG",
    "EVENTS",
    "FORMAT",
    "STEP",
    "MEASUREMENT",
    "TYPES",
    "RunWriter",
    "RunRecord",
    "read_run",
    "find_runs",
]
