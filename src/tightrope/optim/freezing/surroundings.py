"""Surroundings: what a step may touch outside its optimizer, and how it is left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def surroundings_kept(kind: type) -> Iterator[None]:
    """Every random generator and what the optimizer's classes keep are afterwards as they were."""
    generator, numpys = random.getstate(), np.random.get_state()
    kept = [(owner, name, _restorer(value)) for owner, name, value in _kept_by_classes(kind)]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(generator)
        np.random.set_state(numpys)
        for owner, name, restored in kept:
            setattr(owner, name, restored())


def own_classes(kind: type) -> list[type]:
    """The classes an optimizer is made of, without torch's."""
    return [owner for owner in kind.__mro__ if owner.__module__.split(".")[0] not in {"torch", "builtins", "typing"}]


def class_attributes(kind: type) -> dict[Hashable, dict[str, Any]]:
    """What each class of an optimizer keeps for all of them, by its number and the name."""
    kept: dict[Hashable, dict[str, Any]] = {}
    for owner, name, value in _kept_by_classes(kind):
        kept.setdefault(own_classes(kind).index(owner), {})[name] = value
    return kept


def _kept_by_classes(kind: type) -> list[tuple[type, str, Any]]:
    return [
        (owner, name, value)
        for owner in own_classes(kind)
        for name, value in vars(owner).items()
        if not name.startswith("__") and isinstance(value, bool | int | float | list | dict | set | Tensor)
    ]


def _restorer(value: Any) -> Callable[[], Any]:
    """What gives back the very object, holding again what it holds now."""
    if isinstance(value, Tensor):
        was = value.detach().clone()
        return lambda: value if torch.equal(value, was) else _written(value, was)
    if isinstance(value, dict):
        parts = {key: _restorer(part) for key, part in value.items()}
        return lambda: _refilled(value, {key: part() for key, part in parts.items()})
    if isinstance(value, list):
        rows = [_restorer(part) for part in value]
        return lambda: _refilled(value, [row() for row in rows])
    if isinstance(value, set):
        members = set(value)
        return lambda: _refilled(value, members)
    return lambda: value


def _refilled(container: Any, content: Any) -> Any:
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(content)
    return container


def _written(tensor: Tensor, content: Tensor) -> Tensor:
    tensor.detach().copy_(content)
    return tensor
