"""A share of a run's process time, and whether the next thing to measure still fits into it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARGIN = 1.2
"""How much dearer than the last one a measurement is expected to be."""
FORGETTING = 0.5
"""Weight of the newest cost in what is expected of the next."""


class Budget:
    """Counts the process time spent inside the watcher against a share of all process time.

    Args:
        share: Of the process time since now, 0 to 1; infinity for no limit.
        clock: Seconds of process time.
    Attributes:
        spent: Seconds spent inside so far.
        costs: What each kind of thing is expected to take, in seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.process_time) -> None:
        self.share, self.clock = share, clock
        self.spent = 0.0
        self.costs: dict[str, float] = {}
        self._began = clock()
        self._entered: float | None = None

    @property
    def total(self) -> float:
        """Seconds of process time since the watcher was made."""
        return self.clock() - self._began

    @property
    def inside(self) -> float:
        """Seconds spent inside, the visit under way included."""
        return self.spent + (0.0 if self._entered is None else self.clock() - self._entered)

    @property
    def room(self) -> float:
        """Seconds that may be spent now."""
        return math.inf if self.share == math.inf else self.share * self.total - self.inside

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Time spent in the block counts as spent inside; a visit within a visit counts once."""
        if self._entered is not None:
            yield
            return
        self._entered = self.clock()
        try:
            yield
        finally:
            self.spent += self.clock() - self._entered
            self._entered = None

    def expect(self, kind: str, seconds: float) -> None:
        """Take in one cost; the expectation follows the last few."""
        former = self.costs.get(kind)
        self.costs[kind] = seconds if former is None else former + FORGETTING * (seconds - former)

    def affords(self, kind: str) -> bool:
        """Whether one more of this kind fits into the share, with some margin; one never done costs nothing yet."""
        return MARGIN * self.costs.get(kind, 0.0) <= self.room

    @property
    def overhead(self) -> float:
        """Share of the process time that was spent inside."""
        return self.inside / self.total if self.total > 0 else 0.0
