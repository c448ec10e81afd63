"""Numbers that no loss and no gradient shows: weights, and what an optimizer keeps of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .step_log import NotFinite

SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "square_avg", "sum", "nu")
"""As optimizers call them in their state; also as Adafactor and others keep them, by row and column."""


class Health:
    """Looks for what is not finite among weights and the optimizer's state.

    Args:
        optimizer: Whose state it is.
        names: Of each parameter, by its id.
    """

    def __init__(self, optimizer: Optimizer, names: Mapping[int, str]) -> None:
        self._optimizer, self._names = optimizer, names
        self._last_good = 0

    def look(self, step: int, params: Sequence[Tensor]) -> list[NotFinite]:
        """What is not finite after a step; one of each kind.

        Cost:
            A pass over the weights and the state, waited for once.
        """
        kept = list(self._kept(params))
        if not kept or bool(torch.stack([_is_finite(x).to(kept[0][2].device) for _, _, x in kept]).all()):
            self._last_good = step
            return []
        bad = [(w, what) for w, what, x in reversed(kept) if not bool(_is_finite(x))]
        first = {what: NotFinite(step, what, self._names.get(id(w), ""), self._last_good) for w, what in bad}
        return list(reversed(first.values()))

    def _kept(self, params: Sequence[Tensor]) -> Iterator[tuple[Tensor, str, Tensor]]:
        """Parameter, what it is that is kept for it, and its numbers; what was moved to "meta" holds none."""
        for w in params:
            state = self._optimizer.state.get(w, {}).items()
            yield from ((w, what, x) for what, x in [("weight", w.detach()), *_state_words(state)] if not x.is_meta)


def _state_words(state: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an optimizer's state, each with what a person calls it."""
    for key, x in state:
        if isinstance(x, Tensor):
            yield "second moment" if key in SECOND_MOMENTS else f"optimizer's {key}", x


def _is_finite(x: Tensor) -> Tensor:
    return x.isfinite().all()
