"""The lab: a run as one value, and the loop that carries it out."""

from .config import FreezeConfig, MeasureConfig, RunConfig, StopConfig
from .loop import resume, run
from .preparation import build_problem
from .presets import PRESETS, preset
from .session import Progress
from .settings import from_mapping, load, override, recipe_from

__all__ = [
    "RunConfig",
    "MeasureConfig",
    "StopConfig",
    "FreezeConfig",
    "load",
    "override",
    "from_mapping",
    "recipe_from",
    "PRESETS",
    "preset",
    "build_problem",
    "Progress",
    "run",
    "resume",
]
