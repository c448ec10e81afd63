"""Where the numbers of a watched run go beside its run directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from tightrope.errors import ConfigError


class Sink(ABC):
    """Takes numbers and alerts of a watched run."""

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of one step, by name."""

    @abstractmethod
    def alert(self, step: int, title: str, words: str) -> None:
        """Something a person should look at."""

    @abstractmethod
    def close(self) -> None:
        """The run is over."""


def resolve(sinks: Sequence[str | Sink], run_name: str) -> list[Sink]:
    """The sinks asked for, and trackers already active in this process."""
    found = [sink for sink in sinks if isinstance(sink, Sink)]
    unknown = [sink for sink in sinks if not isinstance(sink, Sink)]
    if unknown:
        raise ConfigError(f"watch: sinks must be known names or Sink objects; got {unknown[0]!r}.")
    return found
