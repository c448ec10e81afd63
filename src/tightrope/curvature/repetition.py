"""What a loss does when it is evaluated again: with the same random numbers, and with the next ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .bystanders import bystanders
from .loss_curvature import LossFn
from .objective import Objective
from .observation import RandomStates, random_states_kept

SAME = 1e-4
"""Relative difference below which two losses are one: kernels that add up in another order differ by less."""


@dataclass(frozen=True)
class Repetition:
    """What became of a loss that was evaluated several times at one state, on one batch.

    Attributes:
        spread: Standard deviation from one draw of random numbers to the next, relative to the mean; 0 for a loss
            that draws none.
        is_repeatable: With the same random numbers it is the same. Else it holds a state that nobody put back.
    """

    spread: float
    is_repeatable: bool


def repetition(model: nn.Module, loss_fn: LossFn, batch: Any, *, num_draws: int = 4) -> Repetition:
    """Evaluate a loss again and again, without a gradient.

    Args:
        model, loss_fn, batch: As in `Hessian`.
        num_draws: Of random numbers, one after the other, where the loss draws any.
    Cost:
        3 forward passes, or one more than `num_draws` for a loss that is random.
    """
    objective = Objective(model, loss_fn, batch, name="repetition")
    first, second = objective.losses(2)
    [again] = objective.losses(1)
    if not abs(again - first) <= SAME * abs(first):
        return Repetition(0.0, not abs(first) < float("inf"))  # what is not finite tells nothing
    if abs(second - first) <= SAME * abs(first):
        return Repetition(0.0, True)
    losses = torch.tensor(objective.losses(num_draws), dtype=torch.float64)
    return Repetition(float(losses.std() / losses.mean().abs()), True)


class Draws:
    """Random numbers from one place on, again and again: those of a loss at the moment this is made."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        self._model, self._others = model, bystanders(loss_fn)
        self._states = RandomStates.taken(model, self._others)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, random numbers start there; afterwards every generator stands where it stood."""
        with random_states_kept(self._model, self._states, self._others):
            yield
