"""Whether the loop tells of its steps, once after each."""

from __future__ import annotations

from collections.abc import Callable

CALL = "step: call watcher.step(batch, loss) once after every optimizer.step()"
MAX_UNTOLD = 100
"""Steps of the optimizer that the loop may leave untold before it is reminded."""
MAX_IDLE = 100
"""Calls in a row without a step before the loop is told: a gradient scaler skips a few at most."""


class Attendance:
    """Counts steps taken, steps told of, and calls that came without a step.

    Attributes:
        num_skipped: Calls without a step before them: a gradient scaler that met an infinity steps over the optimizer.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.num_skipped, self._num_idle = 0, 0
        self._num_told, self._last, self._is_reminded = 0, 0, False

    def is_news(self, num_steps: int) -> bool:
        """Take in a call of the loop after so many steps; whether there was a step since the last."""
        if num_steps == self._last:
            self.num_skipped += 1
            self._num_idle += 1
            if self._num_idle == MAX_IDLE:
                self._say(
                    f"{CALL}; it was called {MAX_IDLE} times in a row without one. If the optimizer was "
                    "replaced, watch the one that steps now."
                )
            return False
        self._num_idle = 0
        self._last = num_steps
        self._num_told += 1
        return True

    def is_due(self, num_steps: int) -> bool:
        """Whether the loop may still be expected to tell of the step after so many; it is reminded once."""
        num_untold = num_steps - self._last
        if num_untold >= MAX_UNTOLD and not self._is_reminded:
            self._is_reminded = True
            self._say(f"{CALL}; {num_untold} steps were taken without, and nothing can be measured of them.")
        return num_untold < MAX_UNTOLD

    def excuse(self, num_steps: int) -> None:
        """The steps so far need not be told of: there was a pause."""
        self._last = num_steps

    def conclude(self, num_steps: int) -> None:
        """A word on a loop that called at other times than it should."""
        if num_steps and not self._num_told:
            self._say(f"{CALL}; it was never called in {num_steps:,} steps, and nothing was measured.")
        elif self.num_skipped > self._num_told:
            num_calls = self.num_skipped + self._num_told
            self._say(f"{CALL}; {self.num_skipped:,} of its {num_calls:,} calls came without one and were left out.")
