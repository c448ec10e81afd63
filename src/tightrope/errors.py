"""The whole exception tree. A message says what must hold, what was given, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import SupportsFloat


class TightropeError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(TightropeError, ValueError):
    """A setting is missing, misspelt, of the wrong type or out of its range."""


class ShapeError(TightropeError, ValueError):
    """A tensor does not have the shape, dtype or device the operation needs."""


class UnsupportedOptimizerError(TightropeError, TypeError):
    """The optimizer has no frozen linear method, or none that we can read from its state."""


class DataError(TightropeError, OSError):
    """A data set is missing, damaged or not what it should be, or cannot be fetched."""


class StoreError(TightropeError, OSError):
    """A run directory cannot be written or read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Sentence that offers the nearest known name, or lists them all when none is near.

    Example:
        >>> did_you_mean("adm", ["adam", "gd"])
        "Did you mean 'adam'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names)}."


def one_line(text: str) -> str:
    """A message on one line, whatever whoever raised it wrote.

    Example:
        >>> one_line("boom\\nsecond  line")
        'boom second line'
    """
    return " ".join(text.split())


def check_number(where: str, value: object, is_allowed: Callable[[float], bool], must: str, hint: str = "") -> None:
    """Raise unless the value is a number and allowed.

    Raises:
        ConfigError: "WHERE must MUST; got VALUE. HINT"
    """
    is_number = isinstance(value, SupportsFloat) and not isinstance(value, bool | str)
    if not is_number or not is_allowed(float(value)):  # type: ignore[arg-type]
        raise ConfigError(f"{where} must {must}; got {value!r}. {hint}".rstrip())


def check_count(where: str, value: object, minimum: int = 1) -> None:
    """Raise unless the value is a whole number, at least the minimum.

    Raises:
        ConfigError: "WHERE must be a whole number, at least MINIMUM; got VALUE."
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{where} must be a whole number, at least {minimum}; got {value!r}.")
