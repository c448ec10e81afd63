"""Where the numbers of a watched run go beside its run directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from tightrope.errors import ConfigError


class Sink(ABC):
    """Takes numbers and alerts of a watched run."""

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one reading, by name."""

    @abstractmethod
    def alert(self, step: int, title: str, words: str) -> None:
        """Something a person should look at."""

    @abstractmethod
    def close(self) -> None:
        """The run is over."""


def checked(sinks: Sequence[Sink]) -> list[Sink]:
    """The sinks, if they are such.

    Raises:
        ConfigError: something else is among them.
    """
    others = [sink for sink in sinks if not isinstance(sink, Sink)]
    if others:
        raise ConfigError(f"watch: sinks must be `Sink` objects; got {others[0]!r}. Write a subclass, or leave it out.")
    return list(sinks)
