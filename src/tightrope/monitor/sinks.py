"""Where the numbers of a watched run go beside its run directory."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tightrope.curvature import random_states_kept

SPACE = "tightrope"
"""In front of every name in a tracker, and the project or experiment of a run of our own."""
LONGEST = 300
"""Letters of somebody else's error that are said."""


class Sink(ABC):
    """Takes numbers and alerts of a watched run.

    One that raises is closed, said once and not called again; the run and the other sinks go on. What it takes counts
    as spent watching, and Python's, numpy's and torch's random states stand afterwards where they stood.
    """

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one reading, by name; some may not be finite."""

    @abstractmethod
    def alert(self, step: int, title: str, words: str) -> None:
        """Something a person should look at."""

    @abstractmethod
    def close(self) -> None:
        """The run is over."""

    @property
    def name(self) -> str:
        """What it is called in the first line of a run; empty while it takes nothing."""
        return type(self).__name__


class Sinks:
    """All sinks of a run, told the same; none of them can disturb it.

    Args:
        sinks: Whom to tell.
        say: Takes a line for a person, of a sink that failed.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self._sinks, self._say = list(sinks), say

    @property
    def names(self) -> list[str]:
        """Of those that take something."""
        found: list[str] = []
        self._tell(lambda sink: found.append(sink.name))
        return [name for name in found if name]

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one reading."""
        self._tell(lambda sink: sink.log(step, dict(numbers)))

    def alert(self, step: int, title: str, words: str) -> None:
        """Something a person should look at."""
        self._tell(lambda sink: sink.alert(step, title, words))

    def close(self) -> None:
        """The run is over."""
        self._tell(lambda sink: sink.close(), is_last=True)
        self._sinks.clear()

    def _tell(self, what: Callable[[Sink], None], *, is_last: bool = False) -> None:
        with random_states_kept():  # trackers draw names and waiting times
            for sink in list(self._sinks):
                try:
                    what(sink)
                except Exception as error:
                    self._report(sink, error)
                    if not is_last:
                        self._drop(sink)

    def _report(self, sink: Sink, error: Exception) -> None:
        words = textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST, placeholder=" ...")
        self._say(f"The sink {type(sink).__name__} failed and is left out: {words}")

    def _drop(self, sink: Sink) -> None:
        self._sinks.remove(sink)
        with suppress(Exception):
            sink.close()


def spaced(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers under the names that a tracker gets."""
    return {f"{SPACE}/{key}": value for key, value in numbers.items()}
