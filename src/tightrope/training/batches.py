"""What each step trains on: the full batch, or minibatches in a random order that a checkpoint can take up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tightrope.problems import Batch, Problem


class Batches:
    """The full batch for ever, or minibatches: each epoch in a new random order, its incomplete rest left out.

    Args:
        problem: Whose examples.
        batch_size: Examples a step; None for all of them.
        seed: Of the order.
    """

    def __init__(self, problem: Problem, batch_size: int | None, seed: int) -> None:
        self.problem, self.batch_size = problem, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._position = 0
        self._start_epoch()

    def next(self) -> Batch:
        """The batch of the next step."""
        if self.batch_size is None:
            return self.problem.batch
        if self._position + self.batch_size > self.problem.num_examples:
            self._start_epoch()
        start, self._position = self._position, self._position + self.batch_size
        return self.problem.rows(self._order[start : self._position])

    def state_dict(self) -> dict[str, Any]:
        """The generator as it stood before this epoch's order was drawn, and the position in it."""
        return {"epoch_start": self._epoch_start, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        self._generator.set_state(state["epoch_start"])
        self._start_epoch()
        self._position = state["position"]

    def _start_epoch(self) -> None:
        self._epoch_start: Tensor = self._generator.get_state()
        self._order = torch.randperm(self.problem.num_examples, generator=self._generator)
        self._position = 0
