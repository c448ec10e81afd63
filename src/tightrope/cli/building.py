"""`pkg.mod:build` or `path/to/file.py:build`: the user's function that makes a model and what trains it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tightrope.doctor import blame
from tightrope.errors import ConfigError, did_you_mean
from tightrope.targets import import_place

NAMES = ("model", "optimizer", "loss_fn", "batch")


@dataclass(frozen=True)
class Built:
    """What a build function returns.

    Attributes:
        model: An nn.Module.
        optimizer: Over its parameters.
        loss_fn: (model, batch) -> scalar.
        batch: What loss_fn takes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[Any, Any], torch.Tensor]
    batch: Any


def build(target: str) -> Built:
    """Import the module with the current directory in reach, call the function, and check what it returns.

    Raises:
        ConfigError: anything about it is wrong, an error that it raises itself included.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name.isidentifier()):
        raise ConfigError(f"build: name a function as pkg.mod:build or path/to/file.py:build; got '{target}'.")
    with _blaming(f"importing {place}"):
        module = import_place(place, "build")
    function = getattr(module, name, None)
    if function is None:
        functions = [key for key, value in vars(module).items() if inspect.isroutine(value)]
        hint = did_you_mean(name, functions) if functions else "It has no functions."
        raise ConfigError(f"build: {place} must have a function '{name}'; it has none of that name. {hint}")
    _check_signature(target, function)
    with _blaming(f"calling {target}"):
        returned = function()
    return _checked(target, returned)


@contextmanager
def chatter_aside() -> Iterator[None]:
    """What the user's code prints goes to stderr: stdout is for the answer."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def _blaming(doing: str) -> Iterator[None]:
    """Turn any error of the user's code into one line that says where it was raised."""
    try:
        with chatter_aside():
            yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"build: {doing} must succeed; it raised {blame(error)}.") from error


def _check_signature(target: str, function: Any) -> None:
    if not callable(function):
        raise ConfigError(f"build: {target} must be a function; got {type(function).__name__}.")
    try:
        signature = inspect.signature(function)
        signature.bind()
    except ValueError:
        return  # a callable that does not tell
    except TypeError:
        raise ConfigError(
            f"build: {target} must take no arguments; it takes {signature}. Wrap it: def build(): return ..."
        ) from None


def _checked(target: str, returned: Any) -> Built:
    values = _values(target, returned)
    wanted: dict[str, Callable[[Any], bool]] = {
        "model": lambda value: isinstance(value, nn.Module),
        "optimizer": lambda value: callable(getattr(value, "step", None)) and hasattr(value, "param_groups"),
        "loss_fn": callable,
    }
    kinds = {"model": "an nn.Module", "optimizer": "an optimizer", "loss_fn": "callable as loss_fn(model, batch)"}
    for name, is_right in wanted.items():
        if not is_right(values[name]):
            raise ConfigError(
                f"build: {target} must return (model, optimizer, loss_fn, batch); its {name} is not {kinds[name]} "
                f"but {type(values[name]).__name__}."
            )
    return Built(**values)


def _values(target: str, returned: Any) -> dict[str, Any]:
    """By name, from a tuple, a mapping or attributes."""
    if isinstance(returned, tuple | list) and len(returned) == len(NAMES):
        return dict(zip(NAMES, returned, strict=True))
    if isinstance(returned, Mapping):
        found = {name: returned[name] for name in NAMES if name in returned}
    else:
        found = {name: getattr(returned, name) for name in NAMES if hasattr(returned, name)}
    missing = [name for name in NAMES if name not in found]
    if missing:
        is_sized = isinstance(returned, tuple | list)
        got = f"{type(returned).__name__} of {len(returned)}" if is_sized else type(returned).__name__
        lacks = "" if is_sized or len(missing) == len(NAMES) else f" without {', '.join(missing)}"
        raise ConfigError(
            f"build: {target} must return (model, optimizer, loss_fn, batch), or a dict with these names; got "
            f"{got}{lacks}."
        )
    return found
