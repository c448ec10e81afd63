"""What a loss function holds besides the model it is given, and may change: a teacher's statistics, a generator."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

MAX_DEPTH = 3
"""Of functions that name functions, which are followed as far as this."""

Bystander = Any
"""A module, or a random generator: torch's, Python's or numpy's."""


def bystanders(loss_fn: Callable[..., Any]) -> tuple[Bystander, ...]:
    """Modules and generators that a function can reach: its closure, globals, defaults, bound object and arguments.

    Generators are torch's, Python's and numpy's. Functions found there are looked through too, torch's own aside.
    What lies in a container, or in an attribute of anything but the function's own object, is not found.
    """
    seen: dict[int, Any] = {}
    level: list[Any] = [loss_fn]
    for _ in range(MAX_DEPTH + 1):
        new = {id(x): x for x in level if id(x) not in seen}
        seen |= new
        level = [held for x in new.values() for held in _held(x)]
    return tuple(x for x in seen.values() if isinstance(x, nn.Module) or is_generator(x))


def is_generator(x: Any) -> bool:
    """Whether something draws random numbers from a state of its own."""
    numpy_random = sys.modules.get("numpy.random")
    kinds = (numpy_random.Generator, numpy_random.RandomState) if numpy_random else ()
    return isinstance(x, (torch.Generator, random.Random, *kinds))


def state_of(generator: Any) -> Any:
    """Where a generator stands."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = getattr(generator, "bit_generator", None)  # of numpy's new kind
    return generator.get_state() if bits is None else bits.state


def put_back(generator: Any, state: Any) -> None:
    """Let a generator stand where it stood."""
    bits = getattr(generator, "bit_generator", None)
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif bits is None:
        generator.set_state(state)
    else:
        bits.state = state


def _held(x: Any) -> Iterator[Any]:
    if isinstance(x, partial):
        yield from (x.func, *x.args, *x.keywords.values())
    elif isinstance(x, MethodType):
        yield from (x.__func__, x.__self__, *getattr(x.__self__, "__dict__", {}).values())
    elif isinstance(x, FunctionType) and not str(x.__module__).startswith("torch"):
        yield from _contents(x.__closure__ or ())
        yield from (x.__globals__[name] for name in _names(x.__code__) if name in x.__globals__)
        yield from (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
    elif callable(x) and not isinstance(x, nn.Module | type) and hasattr(x, "__dict__"):
        yield from (vars(type(x)).get("__call__"), *vars(x).values())


def _contents(cells: tuple[Any, ...]) -> Iterator[Any]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is bound later
            continue


def _names(code: CodeType) -> set[str]:
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names, inner))
