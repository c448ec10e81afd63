"""The run directory: its schema, its one writer, its tolerant reader."""

from .durable import claim, replace_file
from .provenance import environment, versions
from .reader import RunRecord, find_runs, read_events, read_run
from .schema import ARRAYS, CHECKPOINT, CONFIG, DISCARDED, EVENTS, FORMAT, MEASUREMENT, STEP, TYPES, Column
from .writer import RunWriter

__all__ = [
    "Column",
    "CONFIG",
    "EVENTS",
    "DISCARDED",
    "ARRAYS",
    "CHECKPOINT",
    "FORMAT",
    "STEP",
    "MEASUREMENT",
    "TYPES",
    "RunWriter",
    "replace_file",
    "claim",
    "environment",
    "versions",
    "RunRecord",
    "read_run",
    "read_events",
    "find_runs",
]
