"""Numbers that no loss and no gradient shows: weights, and what an optimizer keeps of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
            A pass over the weights and the state, waited for.
        """
        found = list({each.what: each for each in reversed(list(self._found(step, params)))}.values())
        if not found:
            self._last_good = step
        return found

    def _found(self, step: int, params: Sequence[Tensor]) -> Iterator[NotFinite]:
        for w in params:
            name = self._names.get(id(w), "")
            if not _is_finite(w.detach()):
                yield NotFinite(step, "weight", name, self._last_good)
            for key, state in self._optimizer.state.get(w, {}).items():
                if isinstance(state, Tensor) and not _is_finite(state):
                    what = "second moment" if key in SECOND_MOMENTS else f"optimizer's {key}"
                    yield NotFinite(step, what, name, self._last_good)


def _is_finite(x: Tensor) -> bool:
    return x.device.type == "meta" or bool(x.isfinite().all())
