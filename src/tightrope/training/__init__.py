"""The lab: a run as one value, and the loop that carries it out."""

from .config import MeasureConfig, RunConfig, StopConfig, from_mapping, load, override, recipe_from
from .loop import Progress, new_path, run
from .presets import PRESETS, preset

__all__ = [
    "RunConfig",
    "MeasureConfig",
    "StopConfig",
    "load",
    "override",
    "from_mapping",
    "recipe_from",
    "PRESETS",
    "preset",
    "Progress",
    "run",
    "new_path",
]
