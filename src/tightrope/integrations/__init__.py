"""The watcher inside other people's trainers: each framework is imported only when its name is used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["lightning", "transformers", "accelerate"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"tightrope.integrations.{name}")
    raise AttributeError(f"module 'tightrope.integrations' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
