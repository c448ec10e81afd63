"""`pkg.mod:Name` or `path/to/file.py:Name`: something of the user's, found by where it stands."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tightrope.errors import ConfigError, did_you_mean


def split_target(target: str, where: str) -> tuple[str, str]:
    """Place and name of a target.

    Args:
        where: Begins the message, such as "build".
    Raises:
        ConfigError: it is no target.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name.isidentifier()):
        raise ConfigError(f"{where}: name it as pkg.mod:Name or path/to/file.py:Name; got '{target}'.")
    return place, name


def import_place(place: str, where: str) -> ModuleType:
    """The module at a place, imported with the current directory in reach; a file is read anew each time.

    Raises:
        ConfigError: there is none. What its own code raises is passed on.
    """
    _reach(os.getcwd())
    if not place.endswith(".py"):
        return _named_module(place, where)
    path = Path(place)
    if not path.is_file():
        raise ConfigError(f"{where}: {place} must be a file; there is none below {os.getcwd()}.")
    _reach(str(path.resolve().parent))
    name = f"tightrope_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find(target: str, where: str) -> Any:
    """What a target names.

    Raises:
        ConfigError: nothing, or it is no target. What the module's own code raises is passed on.
    """
    place, name = split_target(target, where)
    module = import_place(place, where)
    value = getattr(module, name, None)
    if value is None:
        known = [key for key, each in vars(module).items() if callable(each) and not key.startswith("_")]
        hint = did_you_mean(name, known) if known else "It has nothing to call."
        raise ConfigError(f"{where}: {place} must have '{name}'; it has nothing of that name. {hint}")
    return value


def _reach(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _named_module(place: str, where: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise ConfigError(f"{where}: '{place}' must be a module's name, such as pkg.mod, or a path that ends in .py.")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{where}: there must be a module {place}; Python finds no '{error.name}' from {os.getcwd()}. Run it where "
            "the module is, or name the file: path/to/file.py:Name."
        ) from None
