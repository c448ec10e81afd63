"""Growth that persists, from reading to reading: a run at its edge passes it now and then and is thrown back."""

from __future__ import annotations

from dataclasses import replace

from .measurement import Measurement
from .verdict import Verdict, beyond

STEPS_TO_PERSIST = 10
"""Steps beyond the band of the edge, reading after reading: a run that its own curvature throws back stays fewer."""
LOSS_GROWN, LOSS_GROWN_ELSEWHERE = 10.0, 100.0
"""Times the loss of the last reading whose ratio was not above 1, or of the first: growth, also inside the band. Where
readings are of different batches their losses differ anyway, but not so much."""


class Persistence:
    """Remembers since when a run has been beyond its edge, and calls it `unstable` only once that has lasted."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing that was seen before counts."""
        self._since: int | None = None
        self._loss = float("nan")

    def judged(self, said: Verdict, measurement: Measurement, step: int, *, is_same_data: bool = True) -> Verdict:
        """The verdict of a reading that knows those before it.

        Args:
            said: What the measurement supports by itself.
            measurement: Of this step.
            step: Later than that of the reading before.
            is_same_data: Whether every reading is of the same data, so that their losses can be compared closely.
        Returns:
            `unstable` where the ratio has been beyond the band of the edge in every reading of ten steps or more, or is
            above 1 while the loss has grown tenfold, on other data a hundredfold, since the last reading of which that
            was not so, or the first; `undecided` where it is beyond the band for less long than that; else `said`.
        """
        m = measurement
        if not m.has_ratio:
            return said
        if said.name == "too early to say" or not m.bounds[0] > 1:
            self._since, self._loss = None, m.loss
            return said
        is_beyond = said.name == "unstable"
        self._since = (self._since or step) if is_beyond else None
        self._loss = m.loss if self._loss != self._loss else self._loss  # a run may begin above its edge
        if m.loss > (LOSS_GROWN if is_same_data else LOSS_GROWN_ELSEWHERE) * self._loss > 0:
            return _with(m, f"The loss has grown {m.loss / self._loss:.3g} times while the ratio was above 1.")
        if not is_beyond:
            return said
        assert self._since is not None
        if step - self._since >= STEPS_TO_PERSIST:
            return _with(m, f"It has been beyond the edge since step {self._since:,}.")
        return replace(_with(m, "That is normal if it falls back; a later reading decides."), name="undecided")


def _with(measurement: Measurement, words: str) -> Verdict:
    found = beyond(measurement)
    return replace(found, words=f"{found.words} {words}")
