"""A loss that is not the same when it is called again: found, said, and held still from reading to reading."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from tightrope.curvature import Draws, LossFn, MicroBatches, Repetition, repetition

DRAW_RTOL = 0.02
"""Relative spread of the loss that is left in the mean over draws, as far as `MAX_DRAWS` go."""
MAX_DRAWS = 4
"""Of random numbers that a reading is the mean over; each costs as much as a reading without."""


class Chance:
    """How random a loss is, and the random numbers that every reading shares.

    Readings differ then by what changed between them, not by their draws; and the largest eigenvalue of the mean is
    what the run meets, where that of one draw is larger.

    Attributes:
        found: What evaluating the loss again showed.
        num_draws: That a reading is the mean over.
    """

    def __init__(self) -> None:
        self.found, self.num_draws = Repetition(0.0, True), 1
        self._draws: Draws | None = None

    @property
    def is_random(self) -> bool:
        return self.found.spread != 0

    def settle(self, model: nn.Module, loss_fn: LossFn, batch: Any) -> None:
        """Find out on a batch, and keep the random numbers of this moment."""
        self.found = repetition(model, loss_fn, batch, num_draws=MAX_DRAWS)
        if self.is_random:
            self._draws = Draws(model, loss_fn)
            wanted = (self.found.spread / DRAW_RTOL) ** 2
            self.num_draws = math.ceil(min(max(wanted, 1), MAX_DRAWS)) if math.isfinite(wanted) else MAX_DRAWS

    def same(self) -> AbstractContextManager[None]:
        """Inside, random numbers start where those of every other reading do."""
        return nullcontext() if self._draws is None else self._draws.again()

    def spread_over(self, batch: Any) -> Any:
        """The batch as often as there are draws: its pieces are evaluated one after the other, each with the next."""
        return batch if self.num_draws == 1 else MicroBatches([batch] * self.num_draws)

    @property
    def words(self) -> str:
        """Half a sentence; empty for a loss that is always the same."""
        if not self.found.is_repeatable:
            return (
                "loss_fn gives another value each time it is called on the same data with the same random numbers: "
                "it keeps something of its own, and a reading is of whatever that is"
            )
        if not self.is_random:
            return ""
        several = f"the mean over the same {self.num_draws} draws"
        manner = several if self.num_draws > 1 else "of the same draw"
        return f"the loss is random, by {100 * self.found.spread:.2g}% from draw to draw: every reading is {manner}"
