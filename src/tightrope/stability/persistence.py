"""Growth that persists, from reading to reading: a run at its edge passes it now and then and is thrown back."""

from __future__ import annotations

from dataclasses import replace

from .measurement import Measurement
from .verdict import Verdict

STEPS_TO_PERSIST = 10
"""Steps beyond the edge, reading after reading, that no run thrown back by its own curvature needs."""
LOSS_GROWN = 10.0
"""Times the loss of the last reading that was not beyond the edge: there is no need to wait."""


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
            is_same_data: Whether every reading is of the same data, so that their losses can be compared.
        Returns:
            `said`; in place of `unstable` it is `undecided` until the ratio has been beyond the edge in each reading of
            ten steps or more, or the loss has grown tenfold since the last reading that was not.
        """
        if not measurement.has_ratio:
            return said
        if said.name != "unstable":
            self._since, self._loss = None, measurement.loss
            return said
        if self._since is None:
            self._since = step
        if is_same_data and measurement.loss > LOSS_GROWN * self._loss > 0:
            times = measurement.loss / self._loss
            return replace(said, words=f"{said.words} The loss has grown {times:.3g} times since it was not.")
        if step - self._since >= STEPS_TO_PERSIST:
            return replace(said, words=f"{said.words} It has been beyond the edge since step {self._since:,}.")
        return Verdict(
            "undecided", f"{said.words} Beyond the edge for now, which is normal if it falls back; a later one decides."
        )
