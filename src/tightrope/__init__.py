"""tightrope shows how far a training run is from the edge of stability.

Names are resolved when first used, so that `import tightrope` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "watch": "monitor",
    "measure": "stability",
    "freeze": "optim",
    "Measurement": "stability",
    "Frozen": "optim",
    "RunConfig": "training",
    "run": "training",
    "read_run": "store",
}
_ROOMS = (
    "parameters",
    "store",
    "theory",
    "optim",
    "curvature",
    "problems",
    "views",
    "stability",
    "doctor",
    "training",
    "monitor",
    "integrations",
    "studies",
    "errors",
)

__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"tightrope.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return import_module(f"tightrope.{name}")
    raise AttributeError(f"module 'tightrope' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
